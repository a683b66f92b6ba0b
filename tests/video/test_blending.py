"""Fades and soft edges: every pixel as one who mixes whole layers would have it, and cut as the whole was."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.test_render import FITS, Axis, Painter
from vista_train.data.sources import ClipSource
from vista_train.video import render as rendering
from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video, video_from_json
from vista_train.video.geometry import Box, Fit, Span
from vista_train.video.media import Media
from vista_train.video.render import render, requests

HALF = Fraction(1, 2)


class Mixer(Painter):
    """Paints each layer whole, in unrounded numbers, and lays one over the other as opaque as it is."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.frame_HWC = self.frame_HWC.astype(np.float64)

    def rounded(self) -> np.ndarray:
        return np.floor(self.frame_HWC + 0.5 + 1e-9).astype(np.uint8)

    def paint(self, video: Video, time: Fraction, axes: tuple[Axis, Axis], window: tuple) -> None:
        match video:
            case Concat() if video.fade_seconds:
                self.fade(video, time + (video.window.start if video.window else 0), axes, window)
            case Overlay() if video.soft_edge and video.start <= time < video.start + video.inset.duration:
                self.lay(video, time, axes, window)
            case _:
                super().paint(video, time, axes, window)

    def fade(self, video: Concat, time: Fraction, axes: tuple[Axis, Axis], window: tuple) -> None:
        below_HWC, start, mixed_HWC = self.frame_HWC, Fraction(0), None
        for part in video.parts:
            at, start = time - start, start + part.duration - video.fade_seconds
            if not 0 <= at < part.duration:
                continue
            self.frame_HWC = below_HWC.copy()
            self.fit(part, at, axes, (0, 0, *video.size), video.fit, window)
            # The next one is laid over it, the more opaque the later.
            opacity = float(min(Fraction(1), at / video.fade_seconds)) if mixed_HWC is not None else 1.0
            mixed_HWC = self.frame_HWC if mixed_HWC is None else mixed_HWC + opacity * (self.frame_HWC - mixed_HWC)
        self.frame_HWC = mixed_HWC

    def lay(self, video: Overlay, time: Fraction, axes: tuple[Axis, Axis], window: tuple) -> None:
        width, height = video.size
        box = video.box
        slot = (box.left * width, box.top * height, box.right * width, box.bottom * height)
        self.paint(video.base, time, axes, window)
        below_HWC, self.frame_HWC = self.frame_HWC, self.frame_HWC.copy()
        self.fill(self.narrowed(window, axes, slot), 0)
        self.fit(video.inset, time - video.start, axes, slot, video.fit, window)
        rises = [
            [
                min(Fraction(1), min(middle - low, high - middle) / ((high - low) * video.soft_edge))
                for middle in (Fraction(2 * pixel + 1, 2) for pixel in range(below_HWC.shape[1 - axis]))
            ]
            for axis, (low, high) in enumerate(
                (axes[i].offset + axes[i].scale * slot[i], axes[i].offset + axes[i].scale * slot[i + 2]) for i in (0, 1)
            )
        ]
        opacity_HW1 = np.array([[[float(max(0, min(x, y)))] for x in rises[0]] for y in rises[1]])
        self.frame_HWC = below_HWC + opacity_HW1 * (self.frame_HWC - below_HWC)


def softened(video: Video, rng: np.random.Generator) -> Video:
    """The composition with fades and soft edges wherever there may be some."""
    match video:
        case Concat():
            parts = tuple(softened(part, rng) for part in video.parts)
            longest = min(part.duration for part in parts) / 2
            return Concat(parts, video.size, video.fit, longest * Fraction(int(rng.integers(9)), 8))
        case Overlay():
            base, inset = softened(video.base, rng), softened(video.inset, rng)
            start, edge = base.duration * Fraction(int(rng.integers(8)), 8), Fraction(int(rng.integers(6)), 10)
            return Overlay(base, inset, start, video.box, video.fit, edge)
        case Grid():
            return replace(video, cells=tuple(softened(cell, rng) for cell in video.cells))
    return video


def is_soft(video: Video) -> bool:
    match video:
        case Concat():
            return bool(video.fade_seconds and len(video.parts) > 1) or any(map(is_soft, video.parts))
        case Overlay():
            return bool(video.soft_edge) or is_soft(video.base) or is_soft(video.inset)
        case Grid():
            return any(map(is_soft, video.cells))
    return False


def soft_video(seed: int, random_video, plain: bool = True) -> tuple[np.random.Generator, Video]:
    """A random composition in which something is blended."""
    rng = np.random.default_rng([seed, 4])
    while True:
        video = softened(random_video(rng, depth=3, plain=plain), rng)
        if is_soft(video):
            return rng, video


@pytest.mark.parametrize("seed", range(60))
def test_every_pixel_is_the_mixers(seed: int, random_video) -> None:
    rng, video = soft_video(seed, random_video)
    size, fit = (int(rng.integers(1, 50)), int(rng.integers(1, 50))), FITS[seed % 3]
    if seed % 2:
        start, end = sorted(video.duration * Fraction(int(k), 96) for k in rng.choice(97, size=2, replace=False))
        video = video.subclip(start, end)
    times = [video.duration * Fraction(int(k), 480) for k in (0, *rng.integers(480, size=8), 479)]
    frames_TCHW = render(video, times, size, fit)
    for time, frame_CHW in zip(times, frames_TCHW, strict=True):
        mixer = Mixer(size)
        mixer.draw(video, time, size, fit)
        assert np.array_equal(frame_CHW.permute(1, 2, 0).numpy(), mixer.rounded())


@pytest.mark.parametrize("seed", range(30))
def test_a_cut_shows_what_the_whole_shows(seed: int, random_video) -> None:
    rng, video = soft_video(100 + seed, random_video, plain=False)
    edges = sorted(video.duration * Fraction(int(k), 96) for k in rng.choice(np.arange(1, 96), size=2, replace=False))
    cuts = [Fraction(0), *edges, video.duration]
    parts = [video.subclip(a, b) for a, b in pairwise(cuts)]
    assert sum(part.duration for part in parts) == video.duration
    # A grid counts the frames of whichever of its cells has the most.
    if not any(isinstance(one, Grid) for one in flattened(video)):
        assert sum(part.frame_measure for part in parts) == video.frame_measure
    for part, start in zip(parts, cuts, strict=False):
        on_disk = clips_on_disk(part)
        assert video_from_json(json.loads(json.dumps(on_disk.to_json()))) == on_disk
        times = [part.duration * Fraction(int(k), 480) for k in (0, *rng.integers(480, size=3), 479)]
        frames_TCHW = render(part, times, (30, 20))
        assert torch.equal(frames_TCHW, render(video, [start + time for time in times], (30, 20)))
        twice = part.subclip(part.duration / 3, part.duration)
        assert torch.equal(render(twice, [Fraction(0)], (30, 20)), render(part, [part.duration / 3], (30, 20)))


def flattened(video: Video) -> list[Video]:
    match video:
        case Concat():
            return [video, *(one for part in video.parts for one in flattened(part))]
        case Overlay():
            return [video, *flattened(video.base), *flattened(video.inset)]
    return [video]


def clips_on_disk(video: Video) -> Video:
    """The same composition of files, which JSON holds."""
    match video:
        case Clip():
            return replace(video, path="a.mp4", frames_TCHW=None)
        case Concat():
            return replace(video, parts=tuple(map(clips_on_disk, video.parts)))
        case Overlay():
            return replace(video, base=clips_on_disk(video.base), inset=clips_on_disk(video.inset))
        case Grid():
            return replace(video, cells=tuple(map(clips_on_disk, video.cells)))
    raise AssertionError(video)


def test_a_fade_goes_from_one_to_the_other_in_a_straight_line(in_memory) -> None:
    video = Concat((in_memory([(240, 0, 0)], 4), in_memory([(0, 80, 0)], 3)), fade_seconds=Fraction(2))
    assert (video.duration, video.spans()) == (5, (Span(0, 4), Span(2, 5)))
    assert video.timeline().spans(clear=True) == (Span(0, 2), Span(4, 5))
    frames_TCHW = render(video, [Fraction(k, 2) for k in range(3, 10)], (16, 12))
    assert frames_TCHW[:, 0, 0, 0].tolist() == [240, 240, 180, 120, 60, 0, 0]
    assert frames_TCHW[:, 1, 0, 0].tolist() == [0, 0, 20, 40, 60, 80, 80]
    # One source frame each, a quarter and a third of a frame a second; each is seen for two seconds, and half of two.
    assert video.frame_measure == Fraction(3, 4) + Fraction(2, 3)
    part = video.subclip("5/2", "7/2")
    assert (part.duration, part.window, len(part.parts)) == (1, Span("5/2", "7/2"), 2)
    assert part.spans() == (Span(0, 1), Span(0, 1))
    assert video.subclip(0, 2).parts == video.parts[:1]


def test_a_fade_within_a_fade_and_under_an_edge(in_memory) -> None:
    red, green, blue, grey = (
        in_memory([colour], 4, (20, 20)) for colour in ((240, 0, 0), (0, 240, 0), (0, 0, 240), (80, 80, 80))
    )
    inner = Concat((red, green.subclip(0, 2)), fade_seconds=Fraction(2))
    video = Concat((inner, blue), fade_seconds=Fraction(2))
    # At 3 s the inner fade is half over, and so is the outer one.
    assert render(video, [Fraction(3)], (20, 20))[0, :, 0, 0].tolist() == [60, 60, 120]
    laid = Overlay(video, grey, 2, Box(0, 0, 1, 1), soft_edge=HALF)
    frame_CHW = render(laid, [Fraction(3)], (20, 20))[0]
    # 9.5 of the 10 pixels inwards in the middle, 4.5 of them at pixel 4.
    assert frame_CHW[:, 10, 10].tolist() == [79, 79, 82]
    assert frame_CHW[:, 10, 4].tolist() == [69, 69, 102]
    mixer = Mixer((20, 20))
    mixer.draw(laid, Fraction(3), (20, 20), "letterbox")
    assert np.array_equal(frame_CHW.permute(1, 2, 0).numpy(), mixer.rounded())


def test_an_edge_grows_opaque_in_a_straight_line(in_memory) -> None:
    base, inset = in_memory([(0, 0, 200)], 2, (40, 40)), in_memory([(200, 0, 0)], 1, (20, 20))
    video = Overlay(base, inset, 1, Box(0.25, 0.25, 0.75, 0.75), soft_edge=Fraction(1, 5))
    before, during = render(video, [Fraction(0), Fraction(1)], (40, 40))
    assert before[2].min() == 200
    # Over 4 of 20 pixels, by their middles.
    assert during[0, 20, 8:16].tolist() == [0, 0, 25, 75, 125, 175, 200, 200]
    assert during[2, 20, 8:16].tolist() == [200, 200, 175, 125, 75, 25, 0, 0]
    assert during[0, 10, 20].item() == during[0, 29, 20].item() == during[0, 20, 29].item() == 25
    assert int(during[0].sum() + during[2].sum()) == 200 * 40 * 40


def test_files_are_blended(world: Path, tmp_path: Path) -> None:
    source = ClipSource(world / "clips.jsonl", world, cache=tmp_path)
    one, other = source[0].subclip(0, 2), source[5].subclip(0, 2)
    video = Concat((one, other), fade_seconds=Fraction(1))
    plain = [
        render(clip, [time], (80, 60), media=world)[0] for clip, time in ((one, Fraction(5, 4)), (other, HALF / 2))
    ]
    mixed = (0.75 * plain[0].double() + 0.25 * plain[1].double() + 0.5 + 1e-9).floor().to(torch.uint8)
    assert torch.equal(render(video, [Fraction(5, 4)], (80, 60), media=world)[0], mixed)
    assert torch.equal(render(video, [HALF], (80, 60), media=world)[0], render(one, [HALF], (80, 60), media=world)[0])


def test_what_has_neither_is_written_read_and_painted_as_before(on_disk, in_memory, monkeypatch) -> None:
    joined, laid = Concat((on_disk(), on_disk("b.mp4"))), Overlay(on_disk(), on_disk("b.mp4"), 1, Box())
    assert set(joined.to_json()) == {"kind", "parts", "size", "fit"}
    assert set(laid.to_json()) == {"kind", "base", "inset", "start", "box", "fit"}
    assert (joined.fade_seconds, joined.window, laid.soft_edge) == (0, None, 0)
    monkeypatch.delattr(rendering, "_blend")
    video = Overlay(
        Concat((in_memory([(9, 9, 9)]), in_memory([(5, 5, 5)]))), in_memory([(1, 1, 1)]), 1, Box(0, 0, 1, "1/2")
    )
    assert all(request.blend is None for request in requests(video, [Fraction(0), Fraction(1)], (8, 8)))
    assert render(video, [Fraction(0), Fraction(1)], (8, 8))[:, 0, -1, 0].tolist() != []


@pytest.mark.parametrize("fit", FITS)
def test_where_one_is_not_seen_the_other_is_as_it_is(fit: Fit, in_memory) -> None:
    """Beside a veil, and before and after a fade, nothing is asked for twice and nothing is mixed."""
    base, inset = in_memory([(7, 70, 170)], 4, (31, 23)), in_memory([(90, 9, 9)], 4, (9, 17))
    soft, hard = (Overlay(base, inset, 0, Box(0.1, 0.2, 0.5, 0.6), fit, edge) for edge in (Fraction(1, 4), Fraction(0)))
    ours, theirs = (render(video, [Fraction(1)], (40, 30), fit)[0] for video in (soft, hard))
    assert int((ours != theirs).any(dim=0).sum()) > 20
    asked = requests(
        Concat((base, inset), fade_seconds=Fraction(1)), [Fraction(k, 2) for k in range(14)], (40, 30), fit
    )
    assert sorted(request.frame for request in asked) == sorted([*range(14), 7])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda clip: Concat((clip, clip), fade_seconds=Fraction(5)), r"fade_seconds is 5.0; .* part 0, of 4.0 s"),
        (lambda clip: Concat((clip, clip, clip), fade_seconds=Fraction(3)), "part 1, of 4.0 s"),
        (lambda clip: Concat((clip, clip), fade_seconds=Fraction(-1)), "it must be above 0"),
        (lambda clip: Concat((clip, clip), window=Span(0, 1)), "fade_seconds is 0.0"),
        (lambda clip: Concat((clip, clip), fade_seconds=Fraction(1), window=Span(0, 8)), "lies outside the parts"),
        (lambda clip: Overlay(clip, clip, 0, Box(), soft_edge=Fraction(3, 4)), "soft_edge is 0.75"),
        (lambda clip: Overlay(clip, clip, 0, Box(), soft_edge=Fraction(-1, 4)), "soft_edge is -0.25"),
    ],
)
def test_blends_that_cannot_be_are_refused(made, said: str, on_disk) -> None:
    with pytest.raises(ValueError, match=said):
        made(on_disk())


def test_a_picture_that_comes_again_counts_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an anomaly a reader gives pictures a second time, and the last ones are right."""
    clip = ClipSource(world / "clips.jsonl", world, cache=tmp_path)[0].subclip(0, 3)
    video = Overlay(clip, clip.subclip(1, 3), HALF, Box(0.2, 0.2, 0.9, 0.9), soft_edge=Fraction(1, 4))
    times = [Fraction(at, 4) for at in range(10)]
    expected = render(video, times, (80, 60), media=world)
    batches = Media.batches

    def twice(media: Media, key: str, wanted: list, predicted_seconds: float):
        found = [
            (list(numbers), pictures.copy()) for numbers, pictures in batches(media, key, wanted, predicted_seconds)
        ]
        yield from ((numbers, 255 - pictures) for numbers, pictures in found[: len(found) // 2])
        yield from found

    monkeypatch.setattr(Media, "batches", twice)
    assert torch.equal(render(video, times, (80, 60), media=world), expected)
