"""Contact sheets: sampled frames with their times, evidence boxed on those that show it, and all the words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vista_train.preview.shown import Shown
from vista_train.video.sampling import View

MARK, INK, PAPER, BARE = (220, 30, 30), (30, 30, 30), (255, 255, 255), (200, 200, 200)
MARGIN, LINE, SHEET_WIDTH = 8, 16, 1280
THUMBNAIL, LARGEST_THUMBNAIL, LABEL_WIDTH = 224, 416, 64
PIXELS_PER_LETTER = 7.3


def sheet(shown: Shown, view: View) -> Image.Image:
    """A contact sheet: the sampled frames with times, evidence boxed on those that show it, and all the words."""
    size, scale = _thumbnail(shown.frames_TCHW, view)
    # The time below a narrow frame needs its room too.
    step = max(size[0], min(size[1], LABEL_WIDTH)) + MARGIN
    columns = max(1, (SHEET_WIDTH - MARGIN) // step)
    rows = -(-len(shown.frames_TCHW) // columns)
    lines = words(shown)
    page = Image.new("RGB", (SHEET_WIDTH, rows * (size[1] + LINE + MARGIN) + LINE * len(lines) + 3 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for index, (frame_CHW, time) in enumerate(zip(shown.frames_TCHW, shown.plan.times, strict=True)):
        left = MARGIN + index % columns * step
        top = MARGIN + index // columns * (size[1] + LINE + MARGIN)
        picture = Image.fromarray(np.ascontiguousarray(frame_CHW.permute(1, 2, 0).numpy()))
        page.paste(picture.resize(size), (left, top))
        seen = shown.seen(time)
        for evidence in seen:
            edges = [round(edge * scale) for edge in shown.box(evidence, view)]
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


def words(shown: Shown) -> list[str]:
    """Everything there is to say of a sample, wrapped to the sheet."""
    plan, sample = shown.plan, shown.sample
    spans = ", ".join(f"{float(e.span.start):.2f}-{float(e.span.end):.2f} s" for e in sample.evidence)
    paths = list(dict.fromkeys(clip.path for clip in sample.video.clips())) if sample.video else []
    sources = ", ".join(paths[:12]) + (f" and {len(paths) - 12} more" if len(paths) > 12 else "")
    text = [
        f"position {shown.position}   {sample.kind}   {media(shown)}   {plan.tokens} tokens, "
        f"{plan.labels} of them learnt",
        *(f"{message.role}: {line}" for message in sample.messages for line in message.content.splitlines() or [""]),
        *(
            [f"evidence: {spans}", f"sources: {sources}"]
            if sample.video
            else [f"stands in: {path}" for path in shown.origins]
        ),
        *([f"replaced: {shown.note}"] if shown.note else []),
    ]
    return [
        part
        for line in text
        for part in textwrap.wrap(line, int(SHEET_WIDTH / PIXELS_PER_LETTER), subsequent_indent="    ")
    ]


def media(shown: Shown) -> str:
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


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Sheets one below another."""
    whole = Image.new("RGB", (SHEET_WIDTH, sum(picture.height for picture in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole
