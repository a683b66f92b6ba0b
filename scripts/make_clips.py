"""Renders a small captioned world: real H.264 clips of moving shapes, with captions, questions and a manifest.

A source is one background; its clips follow one another in time, each with another shape and another motion.
The whole world is planned from the seed before a pixel is drawn, so any clip can be made alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

MANIFEST = "clips.jsonl"
SECONDS = (4, 8)
SUPERSAMPLING = 4
COLOURS = {
    "red": (220, 30, 35),
    "orange": (245, 135, 10),
    "yellow": (250, 225, 40),
    "green": (30, 175, 50),
    "cyan": (40, 215, 225),
    "blue": (35, 65, 225),
    "purple": (135, 35, 190),
    "pink": (250, 130, 190),
    "white": (245, 245, 245),
    "black": (12, 12, 12),
}
# Muted and of middle lightness, so that every shape colour stands out, black and white too.
BACKGROUNDS = {
    "grey": (120, 120, 120),
    "brown": (125, 92, 65),
    "green": (92, 130, 92),
    "blue": (92, 112, 150),
    "purple": (118, 98, 135),
    "pink": (160, 115, 130),
}
RADII = {"small": 0.14, "large": 0.27}
"""Radius of the circle around the shape, as a share of the frame's shorter side."""
LARGEST_SCALE = 1.15
# From x and y in radians, one turn a period: dark where the wave is above 0.
PATTERNS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda x, y: np.full_like(x, -1),
    "striped": lambda x, y: np.sin((x + y) / 2),
    "checked": lambda x, y: np.sin(x / 2) * np.sin(y / 2),
    "dotted": lambda x, y: np.cos(x) + np.cos(y) - 1,
    "wavy": lambda x, y: np.sin(y + 1.5 * np.sin(x / 2)),
}
# From u, the share of the clip that has passed, and the clip's lane (x, y): where the shape is, as shares of the
# room it has, and its scale.
MOTIONS: Mapping[str, Callable[[float, float, float], tuple[float, float, float]]] = {
    "moves from left to right": lambda u, x, y: (u, y, 1),
    "moves from right to left": lambda u, x, y: (1 - u, y, 1),
    "moves from top to bottom": lambda u, x, y: (x, u, 1),
    "moves from bottom to top": lambda u, x, y: (x, 1 - u, 1),
    "moves from the upper left to the lower right": lambda u, x, y: (u, u, 1),
    "moves in a circle": lambda u, x, y: (0.5 + math.sin(4 * math.pi * u) / 2, 0.5 - math.cos(4 * math.pi * u) / 2, 1),
    "bounces up and down": lambda u, x, y: (x, 1 - abs(math.sin(3 * math.pi * u)), 1),
    "swings from side to side": lambda u, x, y: (0.5 + math.sin(4 * math.pi * u) / 2, y, 1),
    "grows and shrinks": lambda u, x, y: (x, y, 0.9 + 0.25 * math.sin(4 * math.pi * u)),
    "stands still": lambda u, x, y: (x, y, 1),
}


def _heart() -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 80)
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([16 * np.sin(turn) ** 3, -y - 2.5], axis=1) / 16.5


def _points(number: int, offset: float = 0) -> np.ndarray:
    """`number` points [N, 2] evenly on the unit circle, clockwise from the top, `offset` steps on."""
    turn = (np.arange(number) + offset) * 2 * np.pi / number
    return np.stack([np.sin(turn), -np.cos(turn)], axis=1)


# Each shape's polygon in the unit circle, y downward; a second one is a hole.
SHAPES: Mapping[str, tuple[np.ndarray, ...]] = {
    "circle": (_points(80),),
    "square": (_points(4, 0.5),),
    "triangle": (_points(3),),
    "star": (_points(10) * np.resize([1, 0.42], 10)[:, None],),
    "diamond": (_points(4) * (0.55, 1),),
    "cross": (
        np.array(
            [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
        )
        / 3.2,
    ),
    "ring": (_points(80), _points(80) * 0.55),
    "heart": (_heart(),),
}


@dataclass(frozen=True)
class World:
    """What is to be made; sizes in pixels."""

    sources: int = 25
    clips_per_source: int = 8
    seed: int = 0
    width: int = 160
    height: int = 120
    fps: int = 12

    def __post_init__(self) -> None:
        for name in ("sources", "clips_per_source", "fps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("width", "height"):
            size = getattr(self, name)
            if size < 32 or size % 2:
                raise ValueError(f"{name} is {size}; yuv420p needs an even number, and a shape needs 32 or more")


@dataclass(frozen=True)
class Scene:
    """What all clips of one source share."""

    source: str
    width: int
    height: int
    fps: int
    colour: str
    pattern: str


@dataclass(frozen=True)
class Look:
    """The words of a caption that change from clip to clip."""

    size: str
    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class ClipSpec:
    """Everything that decides a clip's pixels and words."""

    scene: Scene
    look: Look
    index: int
    source_start: float
    """Where the clip begins in its source, in seconds."""
    num_frames: int
    lane: tuple[float, float]
    """Where the shape stands along an axis it does not move on: shares of the room it has, x and y."""
    tilt_degrees: float
    questions: tuple[str, ...]

    @property
    def video(self) -> str:
        return f"{self.scene.source}/{self.index:03d}.mp4"

    @property
    def duration(self) -> float:
        return self.num_frames / self.scene.fps

    @property
    def caption(self) -> str:
        scene, look = self.scene, self.look
        ground = f"plain {scene.colour}" if scene.pattern == "plain" else f"{scene.colour} {scene.pattern}"
        return f"A {look.size} {look.colour} {look.shape} {look.motion} over a {ground} background."

    def to_json(self) -> dict[str, Any]:
        """The clip's line of the manifest."""
        line: dict[str, Any] = {
            "video": self.video,
            "caption": self.caption,
            "source": self.scene.source,
            "source_start": self.source_start,
            "start": 0,
            "end": self.duration,
            "duration": self.duration,
            "width": self.scene.width,
            "height": self.scene.height,
            "fps": self.scene.fps,
        }
        if self.questions:
            line["qa"] = [{"question": asked, "answer": QUESTIONS[asked](self)} for asked in self.questions]
        return line


# The wording is the same for every clip, so that the answers of others can serve as wrong ones.
QUESTIONS: Mapping[str, Callable[[ClipSpec], str]] = {
    "What colour is the shape?": lambda spec: spec.look.colour.capitalize(),
    "Which shape is seen?": lambda spec: spec.look.shape.capitalize(),
    "How does the shape move?": lambda spec: f"It {spec.look.motion}",
    "What is the background like?": lambda spec: f"{spec.scene.colour.capitalize()} and {spec.scene.pattern}",
}


def plan_world(world: World, rng: np.random.Generator) -> list[ClipSpec]:
    """Every clip of the world, source by source in order of time; no two clips of a source share a caption."""
    grounds = [(colour, pattern) for colour in BACKGROUNDS for pattern in PATTERNS]
    seen: set[Look] = set()
    specs: list[ClipSpec] = []
    sources = zip(deal(rng, grounds, world.sources), rng.spawn(world.sources), strict=True)
    for number, ((colour, pattern), source_rng) in enumerate(sources):
        scene = Scene(f"source_{number:03d}", *_format_of(world, number), colour, pattern)
        looks = _plan_looks(source_rng, scene, world.clips_per_source, seen)
        seen.update(looks)
        specs += _plan_clips(source_rng, scene, looks)
    return specs


def deal(rng: np.random.Generator, values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values from shuffled decks: each once before any comes again, none twice in a row."""
    dealt: list[Any] = []
    while len(dealt) < count:
        deck = [values[i] for i in rng.permutation(len(values))]
        if dealt and deck[0] == dealt[-1]:
            deck.reverse()
        dealt += deck
    return dealt[:count]


def _format_of(world: World, number: int) -> tuple[int, int, int]:
    """Width, height and frames per second of a source: mostly the world's own, some portrait, some wide."""
    width, height, fps = world.width, world.height, world.fps
    formats = (
        (width, height, fps),
        (width, height, max(1, round(fps * 5 / 6))),
        (height, width, fps),
        (width, height, round(fps * 5 / 4)),
        (2 * round(width * 0.6), 2 * round(height * 0.45), fps),
    )
    return formats[number % len(formats)]


def _plan_looks(rng: np.random.Generator, scene: Scene, count: int, seen: set[Look]) -> list[Look]:
    """`count` different looks, as few of them in `seen` as 64 tries find; never in the background's own colour."""
    colours = [colour for colour in COLOURS if colour != scene.colour]
    best: list[Look] = []
    fewest = count + 1
    for _ in range(64):
        decks = [deal(rng, values, count) for values in (tuple(RADII), colours, tuple(SHAPES), tuple(MOTIONS))]
        looks = [Look(*words) for words in zip(*decks, strict=True)]
        known = sum(look in seen for look in looks)
        if len(set(looks)) == count and known < fewest:
            best, fewest = looks, known
        if not fewest:
            break
    if not best:
        raise ValueError(f"clips_per_source is {count}; no plan was found in which every caption differs, use fewer")
    return best


def _plan_clips(rng: np.random.Generator, scene: Scene, looks: Sequence[Look]) -> list[ClipSpec]:
    asked = deal(rng, (True, False), len(looks))
    # Half seconds are whole frames only at an even rate.
    parts = 2 if scene.fps % 2 == 0 else 1
    specs: list[ClipSpec] = []
    elapsed = 0.0
    for index, (look, clip_rng) in enumerate(zip(looks, rng.spawn(len(looks)), strict=True)):
        length = int(clip_rng.integers(SECONDS[0] * parts, SECONDS[1] * parts, endpoint=True))
        chosen = sorted(clip_rng.permutation(len(QUESTIONS))[: clip_rng.integers(2, 4)])
        spec = ClipSpec(
            scene=scene,
            look=look,
            index=index,
            source_start=elapsed,
            num_frames=length * scene.fps // parts,
            lane=(float(clip_rng.uniform(0.25, 0.75)), float(clip_rng.uniform(0.25, 0.75))),
            tilt_degrees=float(clip_rng.uniform(-10, 10)),
            questions=tuple(tuple(QUESTIONS)[i] for i in chosen) if asked[index] else (),
        )
        elapsed += spec.duration
        specs.append(spec)
    return specs


def background(scene: Scene) -> Image.Image:
    """The scene without its shape: one hue in two tones, edges about a pixel soft."""
    y, x = np.mgrid[: scene.height, : scene.width] + 0.5
    turns_per_px = 2 * np.pi / (min(scene.width, scene.height) / 5)
    wave_HW = PATTERNS[scene.pattern](x * turns_per_px, y * turns_per_px)
    dark_HW = np.clip(0.5 + wave_HW / turns_per_px, 0, 1)
    pixels_HWC = np.array(BACKGROUNDS[scene.colour]) * (1 - 0.32 * dark_HW[:, :, None])
    return Image.fromarray(np.round(pixels_HWC).astype(np.uint8))


def render_clip(spec: ClipSpec) -> np.ndarray:
    """The clip's pixels, `frames_THWC` uint8. A pure function of the spec."""
    size = np.array([spec.scene.width, spec.scene.height])
    radius = RADII[spec.look.size] * size.min()
    margin = radius * LARGEST_SCALE
    tilt = math.radians(spec.tilt_degrees)
    turned = np.array([(math.cos(tilt), math.sin(tilt)), (-math.sin(tilt), math.cos(tilt))])
    polygons = [polygon @ turned * radius for polygon in SHAPES[spec.look.shape]]
    ground = background(spec.scene)
    paint = Image.new("RGB", ground.size, COLOURS[spec.look.colour])
    frames_THWC = np.empty((spec.num_frames, spec.scene.height, spec.scene.width, 3), np.uint8)
    for number in range(spec.num_frames):
        passed = number / max(1, spec.num_frames - 1)
        *place, scale = MOTIONS[spec.look.motion](passed, *spec.lane)
        centre = margin + np.array(place) * (size - 2 * margin)
        mask = Image.new("L", (SUPERSAMPLING * spec.scene.width, SUPERSAMPLING * spec.scene.height))
        draw = ImageDraw.Draw(mask)
        for polygon, fill in zip(polygons, (255, 0), strict=False):
            draw.polygon([tuple(point) for point in SUPERSAMPLING * (centre + polygon * scale)], fill=fill)
        frames_THWC[number] = Image.composite(paint, ground, mask.reduce(SUPERSAMPLING))
    return frames_THWC


def write_clip(path: Path, frames_THWC: np.ndarray, fps: int) -> None:
    """Encode to H.264 (yuv420p, B-frames, a key frame every 48) in an mp4; the file appears when it is whole."""
    unfinished = path.with_suffix(".part")
    with av.open(str(unfinished), "w", format="mp4") as container:
        # One thread: clips are made side by side, and threads would compete with that.
        options = {"preset": "veryfast", "crf": "20", "g": "48", "bf": "3", "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode())
    os.replace(unfinished, path)


def make_clip(folder: Path, spec: ClipSpec) -> None:
    """Render one clip and write it to its place under `folder`."""
    path = folder / spec.video
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, render_clip(spec), spec.scene.fps)


def make_world(folder: Path, world: World, jobs: int = 1) -> int:
    """Write every clip of the world, then the manifest. Returns the clips written: 0 if all was there already."""
    specs = plan_world(world, np.random.default_rng(world.seed))
    text = "".join(json.dumps(spec.to_json()) + "\n" for spec in specs)
    manifest = folder / MANIFEST
    finished = manifest.is_file() and manifest.read_text(encoding="utf-8") == text
    if finished and all((folder / spec.video).is_file() for spec in specs):
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest stands for a finished world, so an old one must not outlive the clips it names.
    manifest.unlink(missing_ok=True)
    make = partial(make_clip, folder)
    if jobs == 1:
        for spec in specs:
            make(spec)
    else:
        with ProcessPoolExecutor(jobs) as pool:
            list(pool.map(make, specs, chunksize=4))
    unfinished = manifest.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, manifest)
    return len(specs)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for the clips and clips.jsonl")
    for name, default in vars(World()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--jobs", type=int, default=2, help="processes; they change nothing but the time it takes")
    chosen = vars(parser.parse_args(arguments))
    folder, jobs = chosen.pop("out"), chosen.pop("jobs")
    began = time.monotonic()
    try:
        made = make_world(folder, World(**chosen), jobs)
    except ValueError as error:
        parser.error(str(error))
    what = f"{made} clips made" if made else "all clips were there already"
    print(f"{what} in {time.monotonic() - began:.1f} s: {folder / MANIFEST}")


if __name__ == "__main__":
    main()
