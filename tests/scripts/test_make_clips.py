"""The small world: the same seed gives the same clips, and what a caption says is what its file shows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

# What the words mean, apart from the script's own table, so that a swapped pair there is noticed.
RGB = {
    "red": (220, 20, 20),
    "orange": (255, 140, 0),
    "yellow": (255, 230, 30),
    "green": (20, 180, 40),
    "cyan": (30, 220, 230),
    "blue": (30, 60, 230),
    "purple": (130, 30, 190),
    "pink": (255, 130, 190),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


def read_manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()]


def decode(path: Path) -> np.ndarray:
    """Every frame of the file, `frames_THWC` uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def shape_mask(frame_HWC: np.ndarray, ground_HWC: np.ndarray) -> np.ndarray:
    """Where the frame differs clearly from the background alone."""
    return np.abs(frame_HWC.astype(int) - np.asarray(ground_HWC).astype(int)).max(axis=2) > 60


def centre(mask_HW: np.ndarray) -> np.ndarray:
    """Centre of the mask as shares of the frame, x and y."""
    ys, xs = np.nonzero(mask_HW)
    return np.array([xs.mean() / mask_HW.shape[1], ys.mean() / mask_HW.shape[0]])


def plan(make_clips, **world):
    return make_clips.plan_world(make_clips.World(**world), np.random.default_rng(world.get("seed", 0)))


def specs_of(make_clips, folder: Path) -> list:
    """The specs the fixture's world was made from, checked against its manifest."""
    specs = plan(make_clips, sources=4, clips_per_source=4)
    assert [spec.to_json() for spec in specs] == read_manifest(folder)
    return specs


def test_default_world_has_enough_sources_of_consecutive_clips(make_clips):
    specs = plan(make_clips)
    per_source = Counter(spec.scene.source for spec in specs)
    assert len(specs) == 200
    assert len(per_source) == 25
    assert set(per_source.values()) == {8}
    for before, after in pairwise(specs):
        if before.scene.source == after.scene.source:
            assert after.source_start == before.source_start + before.duration
            assert after.scene == before.scene
        else:
            assert after.source_start == 0
    assert all(4 <= spec.duration <= 8 for spec in specs)
    length = Counter()
    for spec in specs:
        length[spec.scene.source] += spec.duration
    assert min(length.values()) > 30


def test_captions_tell_all_clips_of_the_default_world_apart(make_clips):
    specs = plan(make_clips)
    assert len({spec.caption for spec in specs}) == 200
    assert len({spec.look for spec in specs}) == 200
    assert len({(spec.scene.colour, spec.scene.pattern) for spec in specs}) == 25
    for words, expected in ((make_clips.COLOURS, 10), (make_clips.SHAPES, 8), (make_clips.MOTIONS, 10)):
        assert len(words) == expected
        assert all(any(f" {word} " in spec.caption for spec in specs) for word in words)
    assert all(spec.look.colour != spec.scene.colour for spec in specs)


def test_formats_differ_between_sources(make_clips):
    formats = {(spec.scene.width, spec.scene.height, spec.scene.fps) for spec in plan(make_clips)}
    assert formats == {(160, 120, 12), (160, 120, 10), (160, 120, 15), (120, 160, 12), (192, 108, 12)}


def test_questions_are_worded_alike_and_asked_of_half_the_clips(make_clips):
    lines = [spec.to_json() for spec in plan(make_clips)]
    asked = [line["qa"] for line in lines if "qa" in line]
    assert len(asked) == 100
    assert {len(qa) for qa in asked} == {2, 3}
    answers: dict[str, set[str]] = {}
    for line in lines:
        for pair in line.get("qa", ()):
            answers.setdefault(pair["question"], set()).add(pair["answer"])
            words = pair["answer"].removeprefix("It ").lower().split(" and ")
            assert all(word in line["caption"] for word in words if pair["question"] != "How does the shape move?")
    assert {question: len(several) for question, several in answers.items()} == {
        "What colour is the shape?": 10,
        "Which shape is seen?": 8,
        "How does the shape move?": 10,
        "What is the background like?": 25,
    }


def test_seed_decides_everything_and_jobs_nothing(make_clips, tmp_path):
    script = Path(make_clips.__file__)
    size = ["--sources", "2", "--clips-per-source", "2", "--seed", "7"]
    for name, jobs in (("alone", "1"), ("together", "2")):
        command = [sys.executable, str(script), "--out", str(tmp_path / name), *size, "--jobs", jobs]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    alone, together = (read_manifest(tmp_path / name) for name in ("alone", "together"))
    assert len(alone) == 4
    assert alone == together
    for line in alone:
        first, second = (decode(tmp_path / name / line["video"]) for name in ("alone", "together"))
        assert np.array_equal(first, second)
    assert plan(make_clips, seed=8) != plan(make_clips, seed=7)


def test_one_clip_can_be_made_alone(make_clips, world, tmp_path):
    spec = specs_of(make_clips, world)[9]
    make_clips.make_clip(tmp_path, spec)
    assert np.array_equal(decode(tmp_path / spec.video), decode(world / spec.video))


def test_files_are_h264_with_b_frames_and_as_the_manifest_says(world):
    lines = read_manifest(world)
    assert len(lines) == 16
    for line in lines:
        with av.open(str(world / line["video"])) as container:
            stream = container.streams.video[0]
            kinds = Counter(PictureType(frame.pict_type).name for frame in container.decode(stream))
            assert "mp4" in container.format.name
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (line["width"], line["height"], line["fps"])
            assert float(stream.duration * stream.time_base) == line["duration"] == line["end"]
        assert sum(kinds.values()) == line["duration"] * line["fps"]
        assert kinds["B"] > 0
        assert kinds["I"] >= line["duration"] * line["fps"] / 48


def colour_seen(frame_HWC: np.ndarray, ground_HWC: np.ndarray) -> str:
    """The name of the colour that most of the shape's pixels are nearest to."""
    pixels = frame_HWC[shape_mask(frame_HWC, ground_HWC)].astype(int)
    nearest = np.abs(pixels[:, None, :] - list(RGB.values())).sum(axis=2).argmin(axis=1)
    return list(RGB)[np.bincount(nearest).argmax()]


def test_colour_on_screen_is_the_colour_in_the_caption(make_clips, world):
    for spec in specs_of(make_clips, world):
        frames_THWC = decode(world / spec.video)
        seen = colour_seen(frames_THWC[len(frames_THWC) // 2], make_clips.background(spec.scene))
        assert f" {seen} {spec.look.shape} " in spec.caption


def test_every_colour_survives_encoding(make_clips, tmp_path):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    assert set(make_clips.COLOURS) == set(RGB)
    for colour in RGB:
        changed = replace(spec, look=replace(spec.look, size="small", colour=colour), num_frames=3)
        make_clips.make_clip(tmp_path, changed)
        frames_THWC = decode(tmp_path / changed.video)
        assert [colour_seen(frame, make_clips.background(spec.scene)) for frame in frames_THWC] == [colour] * 3


@pytest.mark.parametrize(
    ("motion", "way"),
    [
        ("moves from left to right", (1, 0)),
        ("moves from right to left", (-1, 0)),
        ("moves from top to bottom", (0, 1)),
        ("moves from bottom to top", (0, -1)),
        ("moves from the upper left to the lower right", (1, 1)),
        ("stands still", (0, 0)),
    ],
)
def test_shape_goes_where_the_caption_says(make_clips, motion, way):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    spec = replace(spec, look=make_clips.Look("small", "white", "circle", motion))
    frames_THWC = make_clips.render_clip(spec)
    ground = make_clips.background(spec.scene)
    gone = centre(shape_mask(frames_THWC[-1], ground)) - centre(shape_mask(frames_THWC[0], ground))
    for axis in (0, 1):
        assert gone[axis] * way[axis] > 0.5 if way[axis] else abs(gone[axis]) < 0.01


@pytest.mark.parametrize("motion", ["moves in a circle", "bounces up and down", "swings from side to side"])
def test_shape_that_comes_back_covers_its_range(make_clips, motion):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    spec = replace(spec, look=make_clips.Look("small", "white", "circle", motion))
    ground = make_clips.background(spec.scene)
    places = np.array([centre(shape_mask(frame, ground)) for frame in make_clips.render_clip(spec)])
    covered = places.max(axis=0) - places.min(axis=0)
    across, down = {"moves in a circle": (1, 1), "bounces up and down": (0, 1)}.get(motion, (1, 0))
    assert covered[0] > 0.5 if across else covered[0] < 0.01
    assert covered[1] > 0.5 if down else covered[1] < 0.01


def test_every_shape_stays_whole_inside_the_frame(make_clips):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    scene = replace(spec.scene, pattern="plain", width=120, height=160)
    for shape in make_clips.SHAPES:
        look = make_clips.Look("large", "yellow", shape, "moves from the upper left to the lower right")
        frames = make_clips.render_clip(replace(spec, scene=scene, look=look, num_frames=9))
        masks = np.stack([shape_mask(frame, make_clips.background(scene)) for frame in frames])
        areas = masks.sum(axis=(1, 2))
        assert areas.max() < 1.1 * areas.min()
        assert not masks[:, [0, -1]].any()
        assert not masks[:, :, [0, -1]].any()


@pytest.mark.parametrize(
    ("shape", "share"),
    [
        ("circle", 1.0),
        ("square", 2 / np.pi),
        ("triangle", 0.75 * np.sqrt(3) / np.pi),
        ("star", 5 * 0.42 * np.sin(np.pi / 5) / np.pi),
        ("diamond", 1.1 / np.pi),
        ("cross", 20 / 3.2**2 / np.pi),
        ("ring", 1 - 0.55**2),
    ],
)
def test_shape_has_the_area_of_its_form(make_clips, shape, share):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    scene = replace(spec.scene, pattern="plain", width=640, height=480)
    for size, radius in (("small", 0.14 * 480), ("large", 0.27 * 480)):
        look = make_clips.Look(size, "white", shape, "stands still")
        frame_HWC = make_clips.render_clip(replace(spec, scene=scene, look=look, num_frames=1))[0]
        area = shape_mask(frame_HWC, make_clips.background(scene)).sum()
        assert area == pytest.approx(share * np.pi * radius**2, rel=0.02)


@pytest.mark.parametrize(
    ("colour", "strongest_first"),
    [("brown", "rgb"), ("green", "g"), ("blue", "bgr"), ("purple", "brg"), ("pink", "rbg"), ("grey", "")],
)
def test_background_on_screen_is_the_background_in_the_caption(make_clips, tmp_path, colour, strongest_first):
    spec = plan(make_clips, sources=1, clips_per_source=1)[0]
    for pattern in ("plain", "striped", "checked", "dotted", "wavy"):
        scene = replace(spec.scene, colour=colour, pattern=pattern)
        changed = replace(spec, scene=scene, num_frames=2)
        make_clips.make_clip(tmp_path, changed)
        frame_HWC = decode(tmp_path / changed.video)[0]
        ground_NC = frame_HWC[~shape_mask(frame_HWC, make_clips.background(scene))]
        channels = np.median(ground_NC, axis=0)
        order = "".join("rgb"[i] for i in np.argsort(-channels))
        assert order.startswith(strongest_first)
        assert np.ptp(channels) < 8 if colour == "grey" else np.ptp(channels) > 20
        lightness = ground_NC.mean(axis=1).std()
        assert lightness < 4 if pattern == "plain" else lightness > 8
        words = f"plain {colour}" if pattern == "plain" else f"{colour} {pattern}"
        assert changed.caption.endswith(f" over a {words} background.")


def test_a_finished_world_is_left_alone_and_a_broken_one_mended(make_clips, tmp_path):
    small = make_clips.World(sources=1, clips_per_source=2)
    assert make_clips.make_world(tmp_path, small) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert make_clips.make_world(tmp_path, small) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == before
    (tmp_path / "source_000" / "001.mp4").unlink()
    assert make_clips.make_world(tmp_path, small) == 2
    assert len(decode(tmp_path / "source_000" / "001.mp4")) > 0
    assert make_clips.make_world(tmp_path, replace(small, seed=1)) == 2
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("field", "value"), [("width", 161), ("height", 30), ("sources", 0), ("clips_per_source", 0), ("fps", 0)]
)
def test_a_world_that_cannot_be_is_refused_by_name(make_clips, field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        make_clips.World(**{field: value})
