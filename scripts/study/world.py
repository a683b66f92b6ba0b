"""The study's world: short H.264 clips of a coloured shape on a textured ground, with a camera that moves and clutter.

A clip's look is a shape, its colour, the ground's colour and pattern, a motion, a path of the camera, and small grey
things that nobody asks about. Some pairs of a shape's colour and a ground's are never trained on.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sizes import LENGTH, Size

sys.path.append(str(Path(__file__).parents[1]))
from make_clips import BACKGROUNDS, COLOURS, MOTIONS, PATTERNS, SHAPES, write_clip

FPS = 4
SUPERSAMPLING = 4
PERIOD_SECONDS = 5.0
"""How long a motion takes, there and back."""
NAMES = ("red", "yellow", "green", "cyan", "blue", "purple", "white", "black")
"""Colours of shapes: those that a small learner can tell apart."""
SHORT_SECONDS = (3.0, 5.0)
TRAINED_HAYSTACK = 13.0
"""Seconds of a haystack: with a needle of 2.5 s, as long as the longest sample that is trained on."""
LONGEST = 4
"""The exam's longest videos, in lengths of the longest sample."""
QUESTIONS = {
    "colour": "What colour is the shape?",
    "background": "What colour is the background?",
    "shape": "Which shape is seen?",
}
SETS = ("clips", "haystacks", "held_out_clips", "held_out_haystacks")


@dataclass(frozen=True)
class Spec:
    """What decides a clip's pixels and words."""

    path: str
    source: str
    source_start: float
    seconds: float
    colour: str
    shape: str
    ground: str
    seed: int
    """Of all that is not asked about: sizes, places, motion, camera, clutter, tones of the ground."""
    ground_seed: int

    def caption(self, asked: Sequence[str]) -> str:
        shape = f" {self.shape}" if "shape" in asked else ""
        return f"{self.colour.capitalize()}{shape} on {self.ground}."

    def to_json(self, size: Size) -> dict[str, object]:
        """The clip's line of its manifest."""
        answers = {"colour": self.colour, "background": self.ground, "shape": self.shape}
        return {
            "video": self.path,
            "caption": self.caption(size.questions),
            "source": self.source,
            "source_start": self.source_start,
            "start": 0,
            "end": self.seconds,
            "duration": self.seconds,
            "width": size.side,
            "height": size.side,
            "fps": FPS,
            "qa": [{"question": QUESTIONS[name], "answer": answers[name].capitalize()} for name in size.questions],
        }


def is_held_out(colour: str, ground: str) -> bool:
    """Whether this pair is shown in the exam alone: about one in six."""
    return (NAMES.index(colour) + 2 * list(BACKGROUNDS).index(ground)) % 6 == 0


def plan(kind: str, size: Size, seed: int) -> list[Spec]:
    """The clips of one of the SETS. No shape has the name of its ground's colour."""
    rng = np.random.default_rng([SETS.index(kind), seed])
    held_out, long = kind.startswith("held_out"), kind.endswith("haystacks")
    sources = {
        "clips": size.sources,
        "haystacks": size.haystacks,
        "held_out_clips": size.held_out_sources,
        "held_out_haystacks": size.held_out_haystacks,
    }[kind]
    specs: list[Spec] = []
    for number in range(sources):
        ground = list(BACKGROUNDS)[number % len(BACKGROUNDS)]
        colours = [colour for colour in NAMES if colour != ground]
        # Half of what is held out are pairs that nobody has seen.
        news = [colour for colour in colours if is_held_out(colour, ground)]
        knowns = [colour for colour in colours if colour not in news]
        chosen = [*rng.permutation(knowns)]
        if held_out and news and number % 2:
            chosen = [*rng.permutation(news), *chosen]
        ground_seed, start = int(rng.integers(1 << 40)), 0.0
        for index in range(1 if long else 3):
            seconds = float(rng.uniform(*SHORT_SECONDS))
            if long:
                seconds = LONGEST * LENGTH if held_out else TRAINED_HAYSTACK
            seconds = round(seconds * FPS) / FPS
            shape, own = str(rng.choice(list(SHAPES))), int(rng.integers(1 << 40))
            path, source = f"{kind}/{number:04d}_{index}.mp4", f"{kind}_{number:04d}"
            specs.append(Spec(path, source, start, seconds, str(chosen[index]), shape, ground, own, ground_seed))
            start += seconds
    return specs


def ground_of(spec: Spec, side: int) -> np.ndarray:
    """The ground, uint8 [2 side, 2 side, 3], of which the camera sees a quarter: two tones of one hue in a pattern."""
    rng = np.random.default_rng(spec.ground_seed)
    tone = np.array(BACKGROUNDS[spec.ground]) + rng.uniform(-12, 12, 3)
    y, x = np.mgrid[: 2 * side, : 2 * side] + 0.5
    turns_per_px = 2 * np.pi / (side * rng.uniform(0.17, 0.33))
    pattern = PATTERNS[list(PATTERNS)[int(rng.integers(len(PATTERNS)))]]
    dark_HW = np.clip(0.5 + pattern(x * turns_per_px, y * turns_per_px) / turns_per_px, 0, 1)
    return np.clip(tone * (1 - 0.3 * dark_HW[:, :, None]), 0, 255).astype(np.uint8)


def render_clip(spec: Spec, side: int) -> np.ndarray:
    """The clip's pixels, `frames_THWC` uint8. A pure function of the spec."""
    rng, ground = np.random.default_rng(spec.seed), ground_of(spec, side)
    radius, lane = rng.uniform(0.18, 0.3) * side, rng.uniform(0.25, 0.75, 2)
    motion = MOTIONS[list(MOTIONS)[int(rng.integers(len(MOTIONS)))]]
    tilt = math.radians(rng.uniform(-10, 10))
    turned = np.array([(math.cos(tilt), math.sin(tilt)), (-math.sin(tilt), math.cos(tilt))])
    polygons = [polygon @ turned * radius for polygon in SHAPES[spec.shape]]
    for x, y, grey in zip(*rng.integers(0, 2 * side - 3, (2, 12)), rng.integers(60, 190, 12), strict=True):
        ground[y : y + side // 24 + 1, x : x + side // 24 + 1] = grey
    first, last = rng.uniform(0, side, (2, 2))
    margin, paint = 1.15 * radius, Image.new("RGB", (side, side), COLOURS[spec.colour])
    frames_THWC = np.empty((round(spec.seconds * FPS), side, side, 3), np.uint8)
    for number in range(len(frames_THWC)):
        # There and back again: nothing jumps, however long the clip lasts.
        there = 1 - abs(1 - 2 * (number / FPS / PERIOD_SECONDS % 1))
        top, left = np.round(first + (last - first) * there).astype(int)
        *place, scale = motion(there, *lane)
        centre = margin + np.array(place) * (side - 2 * margin)
        mask = Image.new("L", (SUPERSAMPLING * side,) * 2)
        draw = ImageDraw.Draw(mask)
        for polygon, fill in zip(polygons, (255, 0), strict=False):
            draw.polygon([tuple(point) for point in SUPERSAMPLING * (centre + polygon * scale)], fill=fill)
        seen = Image.fromarray(ground[top : top + side, left : left + side])
        frames_THWC[number] = Image.composite(paint, seen, mask.reduce(SUPERSAMPLING))
    return frames_THWC


def _make(folder: Path, side: int, spec: Spec) -> None:
    path = folder / spec.path
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, render_clip(spec, side), FPS)


def make_world(folder: Path, size: Size, seed: int, jobs: int) -> int:
    """Write every clip and its manifest, one manifest a set, where they are not there already; the clips written."""
    made = 0
    for kind in SETS:
        specs = plan(kind, size, seed)
        text = "".join(json.dumps(spec.to_json(size)) + "\n" for spec in specs)
        manifest = folder / f"{kind}.jsonl"
        if manifest.is_file() and manifest.read_text(encoding="utf-8") == text:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        manifest.unlink(missing_ok=True)
        with ProcessPoolExecutor(jobs) as pool:
            list(pool.map(partial(_make, folder, size.side), specs, chunksize=8))
        # It stands for a finished set.
        unfinished = manifest.with_suffix(".part")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, manifest)
        made += len(specs)
    return made
