"""`python -m vista_train.preview recipe.yaml --position 17`: see what the model will see, and what it will be told."""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vista_train.augment import CannotComposeError
from vista_train.config import load_recipe
from vista_train.data import ledger
from vista_train.data.dataset import VistaDataset
from vista_train.redact import redacted
from vista_train.types import Plan, Sample
from vista_train.video.decode import MediaError
from vista_train.video.sampling import View

MARK, INK, PAPER, BARE = (220, 30, 30), (30, 30, 30), (255, 255, 255), (200, 200, 200)
MARGIN, LINE, SHEET_WIDTH = 8, 16, 1280
THUMBNAIL, LARGEST_THUMBNAIL, LABEL_WIDTH = 224, 416, 64
PIXELS_PER_LETTER = 7.3


@dataclass(frozen=True)
class Shown:
    """One sample as it will be trained on."""

    position: int
    sample: Sample
    plan: Plan
    frames_TCHW: torch.Tensor
    note: str = ""


def look(dataset: VistaDataset, position: int) -> Shown:
    """The sample at a position with its pixels; a replacement, and why, where the planned one cannot be decoded."""
    encoded = dataset[position]
    note = "; ".join(f"attempt {f.attempt} lost: {f.key} {f.reason}" for f in encoded.failures)
    if not len(encoded.input_ids):
        raise CannotComposeError(f"position {position}: every attempt was lost: {note}")
    sample = dataset.sample(position, encoded.attempt)
    return Shown(position, sample, dataset.codec.plan(sample), encoded.frames_TCHW, note)


def sheet(shown: Shown, view: View) -> Image.Image:
    """A contact sheet: the sampled frames with times, evidence boxed on those that show it, and all the words."""
    size, scale = _thumbnail(shown.frames_TCHW, view)
    # The time below a narrow frame needs its room too.
    step = max(size[0], min(size[1], LABEL_WIDTH)) + MARGIN
    columns = max(1, (SHEET_WIDTH - MARGIN) // step)
    rows = -(-len(shown.frames_TCHW) // columns)
    lines = _words(shown)
    page = Image.new("RGB", (SHEET_WIDTH, rows * (size[1] + LINE + MARGIN) + LINE * len(lines) + 3 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for index, (frame_CHW, time) in enumerate(zip(shown.frames_TCHW, shown.plan.times, strict=True)):
        left = MARGIN + index % columns * step
        top = MARGIN + index // columns * (size[1] + LINE + MARGIN)
        picture = Image.fromarray(np.ascontiguousarray(frame_CHW.permute(1, 2, 0).numpy()))
        page.paste(picture.resize(size), (left, top))
        seen = [e for e in shown.sample.evidence if time in e.span]
        for evidence in seen:
            video = shown.sample.shown
            box = view.pixels(video.size, evidence.box, view.count(video.duration, video.frame_measure))
            edges = [round(edge * scale) for edge in box]
            # Pillow draws the last pixel too; a box thinner than a pixel of the sheet is still one pixel.
            right, bottom = max(edges[0], edges[2] - 1), max(edges[1], edges[3] - 1)
            draw.rectangle((left + edges[0], top + edges[1], left + right, top + bottom), None, MARK, 2)
        draw.text((left, top + size[1]), f"{float(time):.2f} s" + (" *" if seen else ""), MARK if seen else INK, font)
    top = rows * (size[1] + LINE + MARGIN) + MARGIN
    draw.line((MARGIN, top, SHEET_WIDTH - MARGIN, top), BARE)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + MARGIN + number * LINE), line, INK, font)
    return page


def _thumbnail(frames_TCHW: torch.Tensor, view: View) -> tuple[tuple[int, int], float]:
    """Width and height of a frame on the sheet, and its scale: what lies on many tiles is shown larger."""
    height, width = frames_TCHW.shape[2:]
    larger = max(1.0, width / view.width, height / view.height)
    scale = min(1.0, min(LARGEST_THUMBNAIL, THUMBNAIL * larger) / max(width, height, 1))
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def _words(shown: Shown) -> list[str]:
    """Everything there is to say of a sample, wrapped to the sheet."""
    plan, sample = shown.plan, shown.sample
    spans = ", ".join(f"{float(e.span.start):.2f}-{float(e.span.end):.2f} s" for e in sample.evidence)
    paths = list(dict.fromkeys(clip.path for clip in sample.video.clips())) if sample.video else []
    sources = ", ".join(paths[:12]) + (f" and {len(paths) - 12} more" if len(paths) > 12 else "")
    text = [
        f"position {shown.position}   {sample.kind}   {_media(shown)}   {plan.tokens} tokens, "
        f"{plan.labels} of them learnt",
        *(f"{message.role}: {line}" for message in sample.messages for line in message.content.splitlines() or [""]),
        *([f"evidence: {spans}", f"sources: {sources}"] if sample.video else []),
        *([f"replaced: {shown.note}"] if shown.note else []),
    ]
    return [
        part
        for line in text
        for part in textwrap.wrap(line, int(SHEET_WIDTH / PIXELS_PER_LETTER), subsequent_indent="    ")
    ]


def _media(shown: Shown) -> str:
    """What is shown, and how much of it."""
    video = shown.sample.video
    if video is None:
        return "words alone"
    size = f"{video.size[0]}x{video.size[1]}"
    if video.frame_measure <= 1:
        return f"a picture of {size}, seen at {shown.frames_TCHW.shape[3]}x{shown.frames_TCHW.shape[2]}"
    count = len(shown.plan.times)
    height, width = shown.frames_TCHW.shape[2:]
    return f"{float(video.duration):.2f} s at {size}   {count} frame{'s' * (count != 1)} of {width}x{height}"


def page(everyone: Sequence[Shown], view: View) -> str:
    """An HTML page of contact sheets that stands by itself."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>vista_train preview</title><body style='font-family:sans-serif'>"
    ]
    for shown in everyone:
        buffer = io.BytesIO()
        sheet(shown, view).save(buffer, "PNG")
        picture = base64.b64encode(buffer.getvalue()).decode()
        said = html.escape(" / ".join(f"{m.role}: {m.content}" for m in shown.sample.messages))
        parts.append(f"<h3>{shown.position}: {html.escape(shown.sample.kind)}</h3>")
        parts.append(f"<img style='max-width:100%' alt='{said}' src='data:image/png;base64,{picture}'>")
    return "\n".join(parts)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below another."""
    whole = Image.new("RGB", (SHEET_WIDTH, sum(picture.height for picture in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument("--position", type=int, default=0, help="the (first) training position to show")
    parser.add_argument("--count", type=int, default=1, help="how many positions to show")
    parser.add_argument("--out", type=Path, default="preview.png", help="a .png, or an .html page of many")


def run(arguments: argparse.Namespace) -> int:
    """Write the sheets, or the page."""
    out = arguments.out
    if out.suffix not in (".png", ".html"):
        raise ValueError(f"--out is {out}; it must end in .png or .html")
    if arguments.count < 1 or arguments.position < 0:
        raise ValueError(f"--count is {arguments.count}, --position {arguments.position}; they must be 1, 0 or more")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    dataset = recipe.make_dataset(recipe.make_family().codec, ledger.read(Path(recipe.output) / ledger.NAME))
    view = recipe.make_view()
    positions = range(arguments.position, arguments.position + arguments.count)
    everyone = [look(dataset, position) for position in positions]
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".html":
        out.write_text(page(everyone, view), encoding="utf-8")
    else:
        stacked([sheet(shown, view) for shown in everyone]).save(out)
    print(f"{len(everyone)} samples in {out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Exit code 2 and one sentence for what the user can mend."""
    parser = argparse.ArgumentParser(prog="vista_train.preview", description=__doc__)
    describe(parser)
    try:
        return run(parser.parse_intermixed_args(argv))
    except (ValueError, MediaError) as error:
        print(f"vista_train: {redacted(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
