"""Export: composed videos on disk, each of them read back, with their words in the layout of VISTA-400K or in tars."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vista_train.augment import CannotComposeError
from vista_train.data.check import Interrupted
from vista_train.data.crew import Crew, terminable
from vista_train.data.dataset import NUM_ATTEMPTS, VistaDataset
from vista_train.data.journal import Journal, writing
from vista_train.data.sidecars import beside
from vista_train.synthesis.layouts import Files, Layout, Tars, publish_lost
from vista_train.types import Sample
from vista_train.video.composition import Video
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.decode.writing import write_mp4
from vista_train.video.isolate import IsolationError
from vista_train.video.media import Media
from vista_train.video.render import render

CHUNK_BYTES = 64 << 20
"""Frames that are rendered at a time."""
NUM_CHECKED = 8
"""Frames of each file that are read back and compared."""
LEAST_PSNR = 30.0
QUALITIES = (18, 8)
"""The rate factors to try: where the first loses too much, the second loses less."""
TOLD_EVERY_SECONDS = 30.0


@dataclass(frozen=True)
class Shape:
    """What the files are like."""

    fps: Fraction = Fraction(24)
    """Frames a second."""
    short_edge: int | None = None
    """The shorter side in pixels, at most; default, as large as the composed video."""

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 240:
            raise ValueError(f"fps is {float(self.fps):g}; it must lie above 0, and be 240 at most")
        if self.short_edge is not None and not 16 <= self.short_edge <= 4320:
            raise ValueError(f"short_edge is {self.short_edge}; it must lie in 16..4320 pixels")

    def size_of(self, video: Video) -> tuple[int, int]:
        """Width and height, both even, as the encoder needs them."""
        scale = 1.0 if self.short_edge is None else min(1.0, self.short_edge / min(video.size))
        width, height = (max(16, round(side * scale / 2) * 2) for side in video.size)
        return width, height

    def times_of(self, video: Video) -> list[Fraction]:
        """When the frames are taken: as many as come nearest to the video's duration, one at least."""
        return [number / self.fps for number in range(max(1, math.floor(video.duration * self.fps + Fraction(1, 2))))]


@dataclass
class Exported:
    """What an export came to."""

    out: Path
    samples: Counter[str] = field(default_factory=Counter)
    """Of each augmentation, those from before included."""
    made: int = 0
    """Written now."""
    lost: int = 0
    """Positions of which every attempt was lost, or whose file did not come out as it should."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.samples.items()))
        lost = f"; {self.lost} were lost, see {self.out / 'lost.jsonl'}" if self.lost else ""
        return f"{self.samples.total()} samples in {self.out} ({kinds or 'none'}), {self.made} of them made now{lost}"


def export(
    dataset: VistaDataset,
    out: Path,
    positions: range,
    shape: Shape,
    shard: tuple[int, int] = (1, 1),
    workers: int = 1,
    shard_size: int | None = None,
) -> Exported:
    """Write the samples at some positions below `out`; what is there already is not made again.

    Each is `<kind>/<position>-<digest>.mp4`, the digest that of the sample, and an entry of `<kind>.json`: VISTA-400K's
    `image` and `conversations`, and beside them `evidence`, `position`, and the `sample` itself, of which the file can
    be made again. `shard` (i, n), i from 1, makes every n-th, and names its JSON files after itself. `shard_size` puts
    so many positions into a tar instead (layouts.py), and `shard` then makes every n-th tar. What was lost goes to
    `lost.jsonl`. `ValueError` for what the user can mend, `Interrupted` when the process is told to stop.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    part = "" if shard[1] == 1 else "-{}-of-{}".format(*shard)
    layout: Layout = Files(out, part) if shard_size is None else Tars(out, part, shard_size)
    mine = layout.mine(positions, shard)
    exported, plan = Exported(out), _plan(dataset, shape) + layout.told
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(out / f".export{part}.jsonl")))
        records = _known(journal, plan, layout)
        layout.check(records)
        left = [position for position in mine if position not in records]
        interval = 0.1 if sys.stderr.isatty() else TOLD_EVERY_SECONDS
        progress = stack.enter_context(
            tqdm(total=len(mine), initial=len(mine) - len(left), desc="export", unit="sample", mininterval=interval)
        )

        def keep(position: int, record: dict[str, Any] | None) -> None:
            assert record is not None
            journal.add(record)
            records[position] = record
            exported.made += "entry" in record
            layout.enter(position, records)
            progress.update()

        try:
            stack.enter_context(terminable())
            stack.callback(dataset.media.close)
            maker = _Maker(dataset, layout.folder, shape, plan)
            Crew(maker.make, keep).run(iter(left), max(1, min(workers, len(left))))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted after {exported.made} samples; the same command goes on") from None
        except IsolationError as error:
            raise ValueError(f"{error}; here that is data.isolate=inline") from error
        # All that is there, of earlier positions too.
        done = [record for _, record in sorted(records.items())]
        layout.publish(records)
        publish_lost(out, part, done)
    for record in done:
        exported.samples.update([record["kind"]] if "entry" in record else [])
        exported.lost += "entry" not in record
    return exported


class _Maker:
    """Makes one position after another, in any thread."""

    def __init__(self, dataset: VistaDataset, out: Path, shape: Shape, plan: str) -> None:
        self.dataset, self.out, self.shape, self.plan = dataset, out, shape, plan
        self._made = Media(out, isolate="inline", limits=dataset.media.limits)

    def make(self, position: int) -> dict[str, Any]:
        """A record: the entry of the first attempt that can be had, or why none can."""
        why: list[str] = []
        for attempt in range(NUM_ATTEMPTS):
            try:
                sample = self.dataset.sample(position, attempt)
                name = _name(sample, position, self.plan)
                psnr = self._write(sample, name)
            except (CannotComposeError, MediaError, _UnlikeError) as error:
                why.append(f"attempt {attempt}: {error}")
                continue
            record = {"plan": self.plan, "position": position, "kind": sample.kind, "attempt": attempt}
            return record | {"entry": _entry(sample, position, attempt, self.shape, name, psnr), "lost": why}
        return {"plan": self.plan, "position": position, "lost": why}

    def _write(self, sample: Sample, name: str) -> float:
        video, target = sample.video, self.out / name
        if video is None:
            raise CannotComposeError("words alone have no video to write")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        draft = beside(target)
        try:
            for crf in QUALITIES:
                kept: dict[int, np.ndarray] = {}
                with writing(target):
                    write_mp4(draft, self._frames(video, kept), self.shape.size_of(video), self.shape.fps, crf)
                    with draft.open("rb") as written:
                        os.fsync(written.fileno())
                psnr = self._read_back(draft.relative_to(self.out).as_posix(), video, kept)
                if psnr >= LEAST_PSNR:
                    break
            else:
                raise _UnlikeError(f"{name}: {psnr:.1f} dB away from the frames that were written")
            draft.replace(target)
            return psnr
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def _frames(self, video: Video, kept: dict[int, np.ndarray]) -> Iterator[np.ndarray]:
        """All frames, some at a time; those that are to be compared are kept."""
        size, times = self.shape.size_of(video), self.shape.times_of(video)
        checked = set(_checked(len(times)))
        portion = max(1, CHUNK_BYTES // (size[0] * size[1] * 3))
        for first in range(0, len(times), portion):
            frames_TCHW = render(video, times[first : first + portion], size, "squash", self.dataset.media)
            for number, frame_HWC in enumerate(frames_TCHW.permute(0, 2, 3, 1).numpy(), first):
                if number in checked:
                    kept[number] = frame_HWC.copy()
                yield frame_HWC

    def _read_back(self, key: str, video: Video, kept: Mapping[int, np.ndarray]) -> float:
        """The least PSNR of the frames that were kept, in dB; `_UnlikeError` where the file is another altogether."""
        size, times = self.shape.size_of(video), self.shape.times_of(video)
        found = self._made.inspect(key)
        told = (found.width, found.height, found.num_frames)
        if told != (*size, len(times)) or abs(found.duration - len(times) / self.shape.fps) > 1 / self.shape.fps:
            raise _UnlikeError(f"{key} is {told} and {float(found.duration):.3f} s, not {(*size, len(times))}")
        numbers = sorted(kept)
        wanted = [Wanted(times[number], *size) for number in numbers]
        pictures = self._made.pictures(key, wanted)
        return min(_psnr(picture_HWC, kept[numbers[at]]) for at, picture_HWC in pictures)


class _UnlikeError(Exception):
    """A file that does not show what was written into it."""


def _plan(dataset: VistaDataset, shape: Shape) -> str:
    """What decides a file: of another plan or shape, it is made anew."""
    return f"{dataset.digest()} {shape.fps} {shape.short_edge}"


def _known(journal: Journal, plan: str, layout: Layout) -> dict[int, dict[str, Any]]:
    """What has been made, or lost for good, by position."""
    records = {}
    for _, record in journal.records():
        if record.get("plan") != plan:
            raise ValueError(
                f"{journal.path.parent} holds samples of another recipe, fps or size, or in another layout; choose "
                f"another place with --out, or delete it"
            )
        if "entry" not in record or layout.has(record):
            records[record["position"]] = record
    return records


def _name(sample: Sample, position: int, plan: str) -> str:
    """Of this very sample: what another attempt or recipe makes of a position never stands under its words."""
    said = json.dumps([plan, sample.to_json()], sort_keys=True).encode()
    return f"{sample.kind}/{position:08d}-{hashlib.sha256(said).hexdigest()[:12]}.mp4"


def _entry(sample: Sample, position: int, attempt: int, shape: Shape, name: str, psnr: float) -> dict[str, Any]:
    speakers = {"user": "human", "assistant": "gpt"}
    talk = [{"from": speakers.get(message.role, message.role), "value": message.content} for message in sample.messages]
    evidence = [
        {
            "start": float(one.span.start),
            "end": float(one.span.end),
            "box": [float(edge) for edge in one.box.edges],
        }
        for one in sample.evidence
    ]
    video = sample.shown
    return {
        "id": f"{sample.kind}_{position}",
        "image": Path(name).name,
        "conversations": talk,
        "duration": float(video.duration),
        "fps": float(shape.fps),
        "num_frames": len(shape.times_of(video)),
        "size": list(shape.size_of(video)),
        "psnr_db": round(psnr, 2) if math.isfinite(psnr) else None,
        "evidence": evidence,
        "position": position,
        "attempt": attempt,
        "sample": sample.to_json(),
    }


def _checked(count: int) -> list[int]:
    """The numbers of the frames that are compared, evenly from first to last."""
    return sorted({round(at * (count - 1) / (NUM_CHECKED - 1)) for at in range(NUM_CHECKED)})


def _psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures, in dB; infinite where they are equal."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
