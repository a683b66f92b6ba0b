"""Rendering: every pixel as a plain painter would put it, and no picture decoded that nobody sees."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.video.test_decode import make_video
from vista_train.data.sources import ClipSource, clip_of
from vista_train.video.composition import Clip, Concat, Grid, Overlay, Video
from vista_train.video.decode import MediaMissing, MediaUnreadable, Wanted, read
from vista_train.video.decode import source as decode_source
from vista_train.video.geometry import Box, Fit, Rect
from vista_train.video.media import Media
from vista_train.video.render import _wanted, render, render_view, requests
from vista_train.video.sampling import View

RED, GREEN, BLUE, WHITE = (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 250)
FITS = ("letterbox", "crop", "squash")


@dataclass(frozen=True)
class Axis:
    """Where a video's pixels lie on the canvas along one axis: pixel x at offset + scale * x."""

    offset: Fraction
    scale: Fraction

    def inner(self, low: Fraction, high: Fraction, length: int, scale: Fraction) -> Axis:
        """The axis of a part `length` pixels long, drawn at `scale` in the middle of low..high."""
        return Axis(self.offset + self.scale * ((low + high - length * scale) / 2), self.scale * scale)

    def rounded(self, low: Fraction, high: Fraction) -> tuple[int, int]:
        return tuple(math.floor(self.offset + self.scale * edge + Fraction(1, 2)) for edge in (low, high))


class Painter:
    """Draws every part on top of what lies below it, one frame at a time; the clips must be of plain colours."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.frame_HWC = np.zeros((size[1], size[0], 3), np.uint8)
        self.whole = (0, 0, *size)

    def draw(self, video: Video, time: Fraction, size: tuple[int, int], fit: Fit) -> np.ndarray:
        canvas = (Axis(Fraction(0), Fraction(1)), Axis(Fraction(0), Fraction(1)))
        self.fit(video, time, canvas, (Fraction(0), Fraction(0), *size), fit, self.whole)
        return self.frame_HWC

    def fit(self, video: Video, time: Fraction, axes: tuple[Axis, Axis], slot: tuple, fit: Fit, window: tuple) -> None:
        """`slot`: left, top, right, bottom in pixels of the video that `axes` belong to."""
        scales = [Fraction(slot[2] - slot[0]) / video.size[0], Fraction(slot[3] - slot[1]) / video.size[1]]
        if fit != "squash":
            scales = [min(scales) if fit == "letterbox" else max(scales)] * 2
        own = tuple(axes[i].inner(slot[i], slot[i + 2], video.size[i], scales[i]) for i in (0, 1))
        self.paint(video, time, own, self.narrowed(window, axes, slot))

    def narrowed(self, window: tuple, axes: tuple[Axis, Axis], slot: tuple) -> tuple:
        left, right = axes[0].rounded(slot[0], slot[2])
        top, bottom = axes[1].rounded(slot[1], slot[3])
        return (max(window[0], left), max(window[1], top), min(window[2], right), min(window[3], bottom))

    def fill(self, window: tuple, colour: object) -> None:
        left, top, right, bottom = window
        self.frame_HWC[top : max(top, bottom), left : max(left, right)] = colour

    def paint(self, video: Video, time: Fraction, axes: tuple[Axis, Axis], window: tuple) -> None:
        width, height = video.size
        frame = (0, 0, width, height)
        match video:
            case Clip():
                picture_3HW = video.frames_TCHW[math.floor((video.start + time) * video.fps)]
                self.fill(self.narrowed(window, axes, frame), picture_3HW[:, 0, 0].numpy())
            case Concat():
                for part in video.parts:
                    if time < part.duration:
                        self.fit(part, time, axes, frame, video.fit, window)
                        return
                    time -= part.duration
            case Overlay():
                self.paint(video.base, time, axes, window)
                if video.start <= time < video.start + video.inset.duration:
                    box = video.box
                    slot = (box.left * width, box.top * height, box.right * width, box.bottom * height)
                    self.fill(self.narrowed(window, axes, slot), 0)
                    self.fit(video.inset, time - video.start, axes, slot, video.fit, window)
            case Grid():
                for number, cell in enumerate(video.cells):
                    row, column = divmod(number, video.columns)
                    slot = [Fraction(column * width, video.columns), Fraction(row * height, video.rows)]
                    slot += [Fraction((column + 1) * width, video.columns), Fraction((row + 1) * height, video.rows)]
                    self.fit(cell, time, axes, tuple(slot), video.fit, window)


def colours_at(video: Video, size: tuple[int, int], points: list[tuple[int, int]], fit: Fit = "letterbox") -> list:
    frame_3HW = render(video, [Fraction(0)], size, fit)[0]
    return [tuple(frame_3HW[:, y, x].tolist()) for x, y in points]


@pytest.mark.parametrize("seed", range(150))
def test_every_pixel_is_the_painters(seed: int, random_video) -> None:
    rng = np.random.default_rng(seed)
    video, fit = random_video(rng, depth=4 if seed % 10 == 0 else 3, plain=True), FITS[seed % 3]
    size = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
    times = [video.duration * Fraction(int(k), 480) for k in (0, *rng.integers(480, size=4), 479)]
    frames_TCHW = render(video, times, size, fit)
    assert frames_TCHW.shape == (6, 3, size[1], size[0])
    assert frames_TCHW.dtype == torch.uint8
    for time, frame_CHW in zip(times, frames_TCHW, strict=True):
        wanted_HWC = Painter(size).draw(video, time, size, fit)
        assert np.array_equal(frame_CHW.permute(1, 2, 0).numpy(), wanted_HWC)


def test_letterbox_crop_and_squash(in_memory) -> None:
    wide = Grid((in_memory([RED]), in_memory([GREEN]), in_memory([BLUE]), in_memory([WHITE])), 1, 4, (80, 20), "squash")
    middle, corners = [(9, 20), (39, 20)], [(0, 0), (39, 39)]
    black = (0, 0, 0)
    assert colours_at(wide, (40, 40), [*middle, *corners], "letterbox") == [RED, WHITE, black, black]
    assert colours_at(wide, (40, 40), [(0, 14), (0, 15), (0, 24), (0, 25)]) == [black, RED, RED, black]
    assert colours_at(wide, (40, 40), [(0, 0), (19, 0), (20, 39), (39, 39)], "crop") == [GREEN, GREEN, BLUE, BLUE]
    assert colours_at(wide, (40, 40), [*middle, *corners], "squash") == [RED, WHITE, RED, WHITE]


def test_a_squashed_video_squashes_what_is_inside_it(in_memory) -> None:
    # The upright part takes 9 of the host's 16 pixels, so 9/16 of any canvas it is squashed onto.
    joined = Concat((in_memory([RED], size=(9, 12)),), (16, 12), "letterbox")
    row_3W = render(joined, [Fraction(0)], (160, 160), "squash")[0, :, 80]
    assert row_3W[0].nonzero().flatten().tolist() == list(range(35, 125))


def test_the_frame_shown_is_the_last_that_began(in_memory) -> None:
    clip = in_memory([RED, GREEN, BLUE], seconds=1)
    third = Fraction(1, 3)
    times = [
        Fraction(0),
        third - Fraction(1, 10**9),
        third,
        2 * third - Fraction(1, 10**9),
        2 * third,
        Fraction(999, 1000),
    ]
    frames_TCHW = render(clip, times, clip.size)
    assert [tuple(frame[:, 5, 5].tolist()) for frame in frames_TCHW] == [RED, RED, GREEN, GREEN, BLUE, BLUE]
    part = clip.subclip(third, 1)
    assert tuple(render(part, [Fraction(0)], clip.size)[0, :, 0, 0].tolist()) == GREEN


def test_times_may_come_in_any_order_and_repeat(in_memory) -> None:
    clip = in_memory([RED, GREEN, BLUE])
    frames_TCHW = render(clip, [Fraction(9, 10), Fraction(0), Fraction(9, 10)], (4, 3))
    assert [tuple(frame[:, 0, 0].tolist()) for frame in frames_TCHW] == [BLUE, RED, BLUE]
    assert render(clip, [], (4, 3)).shape == (0, 3, 3, 4)


@pytest.mark.parametrize(
    ("view", "canvas"),
    [
        (View(frames=2, width=16, height=16, tiles=12), (48, 32)),
        (View(frames=2, width=16, height=16, tiles=4), (32, 16)),
        (View(frames=2, width=16, height=16, tiles=12, fit="crop"), (48, 32)),
        (View(frames=2, width=30, height=25, fit="native", multiple=7), (28, 21)),
        (View(frames=2, width=300, height=25, fit="native", multiple=7), (42, 28)),
    ],
)
def test_a_view_is_rendered_on_the_canvas_of_its_frames(view: View, canvas: tuple[int, int], in_memory) -> None:
    base, inset = in_memory([RED, BLUE], seconds=4, size=(40, 30)), in_memory([GREEN], seconds=2, size=(12, 9))
    video = Overlay(base, inset, 1, Box(0.25, 0.25, 0.5, 0.75))
    times = view.times(video.duration, video.frame_measure)
    frames_TCHW = render_view(video, times, view)
    assert frames_TCHW.shape == (2, 3, canvas[1], canvas[0])
    for frame_CHW, time in zip(frames_TCHW, times, strict=True):
        wanted_HWC = Painter(canvas).draw(video, time, canvas, "squash" if view.fit == "native" else view.fit)
        assert (frame_CHW.permute(1, 2, 0).numpy() == wanted_HWC).all()


def test_an_inset_hides_its_base_and_bars_hide_it_too(in_memory) -> None:
    base, tall = in_memory([RED], seconds=4, size=(40, 40)), in_memory([GREEN], seconds=2, size=(10, 20))
    video = Overlay(base, tall, 1, Box(0.25, 0.25, 0.75, 0.75))
    before, during, after = render(video, [Fraction(99, 100), Fraction(1), Fraction(3)], (40, 40))
    assert (before == after).all()
    assert before[0].min() == 250
    green, red = during[1] == 250, during[0] == 250
    assert green[10:30, 15:25].all()
    assert green.sum() == 200
    assert red.sum() == 40 * 40 - 20 * 20
    assert (during[:, 10:30, 10:15] == 0).all()


def test_what_is_hidden_is_not_decoded(in_memory) -> None:
    base, inset = in_memory([RED], seconds=4), in_memory([GREEN], seconds=2)
    times = [Fraction(k, 2) for k in range(8)]

    def asked(video: Video, fit: Fit = "letterbox") -> list[tuple[str, int]]:
        names = {base.path: "base", inset.path: "inset"}
        return sorted((names[request.clip.path], request.frame) for request in requests(video, times, (64, 48), fit))

    whole, half = Overlay(base, inset, 1, Box()), Overlay(base, inset, 1, Box(0, 0, 0.5, 1))
    assert asked(whole) == [("base", frame) for frame in (0, 1, 6, 7)] + [("inset", frame) for frame in (2, 3, 4, 5)]
    assert asked(half) == [("base", frame) for frame in range(8)] + [("inset", frame) for frame in (2, 3, 4, 5)]
    # Under a box of half a frame lies what fills the left half of a grid, and less.
    grid = Overlay(Grid((inset, base), 1, 2), in_memory([BLUE], seconds=9), 0, Box(0, 0, 0.5, 1))
    shown = requests(grid, times[:4], (64, 48))
    assert Counter(request.clip.path == inset.path for request in shown) == {False: 8}
    cropped = Grid((base, inset, base), 1, 3, (300, 100), "crop")
    assert asked_paths(cropped, "crop") == {inset.path}
    assert asked_paths(cropped, "letterbox") == {base.path, inset.path}


def asked_paths(video: Video, fit: Fit) -> set[str]:
    return {request.clip.path for request in requests(video, [Fraction(0)], (20, 20), fit)}


def test_cost_follows_the_frames_shown(on_disk) -> None:
    hour = on_disk("host.mp4", 0, 3600)
    video = Concat((hour, on_disk("needle.mp4", 5, 9), hour.subclip(0, 1800)))
    times = View(frames=8).times(video.duration, video.frame_measure)
    asked = requests(video, times, (336, 336))
    assert [request.frame for request in sorted(asked, key=lambda request: request.frame)] == list(range(8))
    assert [float(request.time) for request in asked[:2]] == [5404 / 16, 3 * 5404 / 16]
    assert all(request.place == (0, 42, 336, 294) for request in asked)


@pytest.mark.parametrize("time", [Fraction(-1, 100), Fraction(2), Fraction(3)])
def test_times_outside_are_refused(time: Fraction, in_memory) -> None:
    with pytest.raises(ValueError, match=rf"time {float(time)} s lies outside the video, \[0, 2.0\) s"):
        render(in_memory([RED], seconds=2), [time], (8, 8))


def test_only_compositions_are_rendered() -> None:
    class Wipe(Video):
        duration, size = Fraction(1), (8, 8)

    with pytest.raises(TypeError, match="Wipe is not a composition that can be rendered"):
        render(Wipe(), [Fraction(0)], (8, 8))


@pytest.fixture
def clips(world: Path, tmp_path: Path) -> list[Clip]:
    """The world's 16 clips: of 4 sources, 4 each."""
    source = ClipSource(world / "clips.jsonl", world, cache=tmp_path)
    return [source[number] for number in range(len(source))]


def decoded(world: Path, clip: Clip, time: Fraction, width: int, height: int) -> torch.Tensor:
    """One picture [3, height, width] of a clip, straight from the reader."""
    ((_, picture_HWC),) = read(world / clip.path, [Wanted(clip.start + time, width, height)])
    return torch.from_numpy(picture_HWC.copy()).permute(2, 0, 1)


def test_joined_files_show_what_each_file_shows(world: Path, clips: list[Clip]) -> None:
    parts = (clips[0].subclip(1, 3), clips[5].subclip("1/2", "5/2"), clips[9], clips[13].subclip(0, "7/3"))
    assert [(part.size, part.fps) for part in parts] == [
        ((160, 120), 12),
        ((160, 120), 10),
        ((120, 160), 12),
        ((160, 120), 15),
    ]
    video = Concat(parts)
    frames_TCHW = render(video, [span.start + Fraction(5, 6) for span in video.spans()], (160, 120), media=world)
    for number in (0, 1, 3):
        assert torch.equal(frames_TCHW[number], decoded(world, parts[number], Fraction(5, 6), 160, 120))
    portrait = decoded(world, parts[2], Fraction(5, 6), 90, 120)
    assert torch.equal(frames_TCHW[2, :, :, 35:125], portrait)
    assert frames_TCHW[2, :, :, :35].max() == frames_TCHW[2, :, :, 125:].max() == 0


def test_a_grid_of_files_shows_each_in_its_cell(world: Path, clips: list[Clip]) -> None:
    cells = (clips[0], clips[4], clips[8], clips[12])
    grid = Grid(cells, 2, 2, (160, 120))
    assert grid.frame_measure == 15 * grid.duration
    frame_CHW = render(grid, [Fraction(13, 7)], (160, 120), media=world)[0]
    for number, (left, top) in ((0, (0, 0)), (1, (80, 0)), (3, (80, 60))):
        own = decoded(world, cells[number], Fraction(13, 7), 80, 60)
        assert torch.equal(frame_CHW[:, top : top + 60, left : left + 80], own)
    # 120x160 in a cell of 80x60: 45 pixels wide, at 17.5 rounded up, to 62.5 rounded up.
    own = decoded(world, cells[2], Fraction(13, 7), 45, 60)
    assert torch.equal(frame_CHW[:, 60:, 18:63], own)
    assert frame_CHW[:, 60:, :18].max() == frame_CHW[:, 60:, 63:80].max() == 0


def test_an_inset_of_a_file_lies_over_its_base(world: Path, clips: list[Clip]) -> None:
    base, inset = clips[0], clips[6]
    video = Overlay(base, inset.subclip(1, 2), 1, Box(0.25, 0.5, 0.75, 1), "squash")
    plain_TCHW, frames_TCHW = (render(one, [Fraction(3, 2)], (160, 120), media=world) for one in (base, video))
    own = decoded(world, inset, Fraction(3, 2), 80, 60)
    assert torch.equal(frames_TCHW[0, :, 60:, 40:120], own)
    plain_TCHW[0, :, 60:, 40:120] = own
    assert torch.equal(frames_TCHW, plain_TCHW)


def test_a_part_of_a_file_shows_what_the_whole_shows_there(world: Path, clips: list[Clip]) -> None:
    video = Concat((Grid((clips[1], clips[4], clips[8], clips[15]), 2, 2, (160, 120)), clips[2]))
    start = Fraction(7, 3)
    times = [Fraction(k, 5) for k in range(8)]
    part_TCHW = render(video.subclip(start, 6), times, (98, 98), "crop", world)
    assert torch.equal(part_TCHW, render(video, [start + time for time in times], (98, 98), "crop", world))


def test_each_file_is_decoded_once_in_increasing_time(world: Path, clips: list[Clip], monkeypatch) -> None:
    calls: list[str] = []
    batches = Media.batches

    def counted(media: Media, key: str, wanted: list[Wanted], predicted_seconds: float):
        calls.append(key)
        latest = Fraction(0)
        for numbers, pictures_NHWC in batches(media, key, wanted, predicted_seconds):
            for index in numbers:
                assert wanted[index].time >= latest
                latest = wanted[index].time
            yield numbers, pictures_NHWC

    monkeypatch.setattr(Media, "batches", counted)
    host, needle = clips[0], clips[5].subclip(0, 1)
    joined = Concat((host.subclip(2, 4), needle, host.subclip(0, 2), needle, clips[9]))
    video = Overlay(joined, host, 0, Box(0.5, 0.5, 1, 1))
    view = View(frames=24, width=56, height=56, fit="squash")
    times = view.times(video.duration, video.frame_measure)
    frames_TCHW = render_view(video, times, view, world)
    assert frames_TCHW.shape == (24, 3, 56, 56)
    assert sorted(calls) == sorted(clip.path for clip in (host, needle, clips[9]))
    assert sum(request.clip.path == host.path for request in requests(video, times, (56, 56), "squash")) > 12


@pytest.mark.parametrize("order", [(3, 0, 1, 2, 2, 7, 5, 4, 6, 11, 10, 3), (0, 1, 2, 4, 3, 5, 7, 6, 8, 10, 9, 11)])
def test_pictures_that_come_together_go_where_each_belongs(order, world: Path, clips, monkeypatch) -> None:
    host, needle = clips[0], clips[5].subclip(0, 1)
    grid = Grid((host, host.subclip(1, 3), needle, host), 2, 2)
    video = Overlay(Concat((host.subclip(2, 4), grid, needle)), host, Fraction(1, 2), Box(0.1, 0.2, 0.55, 0.7))
    times = [video.duration * at / 12 for at in order]
    one_by_one = render(video, times, (50, 40), media=world)
    batches = Media.batches

    def together(media: Media, key: str, wanted: list[Wanted], predicted_seconds: float):
        by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for (index,), pictures_NHWC in batches(media, key, wanted, predicted_seconds):
            by_size.setdefault(pictures_NHWC.shape, []).append((index, pictures_NHWC[0].copy()))
        for found in by_size.values():
            yield [index for index, _ in found], np.stack([picture_HWC for _, picture_HWC in found])

    monkeypatch.setattr(Media, "batches", together)
    assert torch.equal(render(video, times, (50, 40), media=world), one_by_one)


def test_tiny_places_of_a_file_are_rendered(world: Path, clips: list[Clip]) -> None:
    grid = Grid((clips[0], clips[8]) * 32, 8, 8)
    for size in ((9, 8), (40, 23), (1, 1)):
        frame_CHW = render(grid, [Fraction(1)], size, media=world)[0]
        assert frame_CHW.shape == (3, size[1], size[0])
    # Every background of the world is grey or brighter, so no cell that has a pixel stays dark.
    assert (
        render(grid, [Fraction(1)], (64, 64), "squash", world)[0]
        .amax(0)
        .unfold(0, 8, 8)
        .unfold(1, 8, 8)
        .amax((2, 3))
        .min()
        > 60
    )


@pytest.mark.parametrize("path", ["../outside.mp4", "source_000/../../outside.mp4", "linked/outside.mp4"])
def test_a_path_that_leaves_the_root_is_refused(path: str, tmp_path: Path, on_disk) -> None:
    root = tmp_path / "root"
    (root / "source_000").mkdir(parents=True)
    (tmp_path / "outside.mp4").write_bytes(b"not for you")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(MediaMissing, match=r"leads outside the data root|a symbolic link stands") as caught:
        render(on_disk(path), [Fraction(0)], (8, 8), media=root)
    assert caught.value.path == path


def test_an_absolute_path_is_refused(tmp_path: Path, on_disk) -> None:
    with pytest.raises(MediaMissing, match="leads outside the data root"):
        render(on_disk(str(tmp_path / "a.mp4")), [Fraction(0)], (8, 8), media=tmp_path / "root")


def test_media_errors_name_the_file_as_the_composition_does(world: Path, clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(MediaMissing, match=r"^gone\.mp4: no such file") as missing:
        render(Concat((clips[0], replace(clips[1], path="gone.mp4"))), [Fraction(0), Fraction(9)], (8, 8), media=world)
    assert missing.value.path == "gone.mp4"
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(MediaUnreadable, match=r"^noise\.mp4: ") as unreadable:
        render(replace(clips[0], path="noise.mp4"), [Fraction(0)], (8, 8), media=tmp_path)
    assert str(tmp_path) not in str(unreadable.value)


def test_a_missing_file_that_is_not_shown_is_no_error(world: Path, clips: list[Clip]) -> None:
    video = Concat((clips[0], replace(clips[1], path="gone.mp4")))
    assert render(video, [Fraction(0)], (8, 8), media=world).shape == (1, 3, 8, 8)


def test_pictures_in_memory_are_scaled_with_antialiasing() -> None:
    stripes_1CHW = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes_1CHW[..., ::2] = 255
    clip = Clip.from_frames(stripes_1CHW, 1)
    for size in ((8, 8), (1, 8), (8, 1), (1, 1)):
        frame_CHW = render(clip, [Fraction(0)], size, "squash")[0]
        assert (frame_CHW.float() - 127.5).abs().max() <= 20
    assert torch.equal(render(clip, [Fraction(0)], (64, 64)), stripes_1CHW)


def test_fitting_into_a_slot_of_the_same_shape_is_exact() -> None:
    inside = Rect.of_size(640, 360).part(Box("1/3", "1/7", "2/3", "10/21"))
    assert inside.fitted(16, 9, "letterbox") == inside.fitted(16, 9, "crop") == inside


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in ("x" * 300 + ".mp4", "loop", "loop/a.mp4"):
        clip = Clip(path, 0, 1, 64, 48)
        with pytest.raises(MediaMissing) as refused:
            render(clip, [Fraction(1, 2)], (64, 48), media=tmp_path)
        assert refused.value.path == path


def test_with_snap_keyframes_stand_in_within_their_clip(tmp_path: Path) -> None:
    """Where a clip begins in the middle of a group of pictures, what is before is of another clip."""
    world = make_video(tmp_path / "plain.mp4").parent
    clip = clip_of(world, "plain.mp4")
    with decode_source.opened(world / clip.path) as source:
        index = decode_source.read_index(source)
    keys = [index.starts_at(int(index.rank_P[key])) for key in index.keys_K]
    assert len(keys) >= 2
    start = keys[1] + Fraction(1, 1000)
    part = replace(clip, start=start, end=clip.end)
    times = [Fraction(0), Fraction(1, 10), (clip.end - start) / 2]
    for snap in (0.0, 0.5, 100.0):
        media = Media(world, isolate="inline", snap_seconds=snap)
        asked = [_wanted(request, media.snap_seconds) for request in requests(part, times, (64, 48))]
        begins = [index.starts_at(index.rank_for(one)) for one in asked]
        exact = [index.starts_at(index.rank_at(one.time)) for one in asked]
        later = [key for key in keys if key >= start]
        for one, begin, shown in zip(asked, begins, exact, strict=True):
            allowed = [key for key in later if abs(key - one.time) < snap]
            assert begin == (min(allowed, key=lambda key: abs(key - one.time)) if allowed else shown)
        frames = render(part, times, (64, 48), media=media)
        expected = [render(replace(clip, start=Fraction(0)), [begin], (64, 48), media=world)[0] for begin in begins]
        assert all(torch.equal(frame, other) for frame, other in zip(frames, expected, strict=True))


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_an_impossible_snap_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.snap_seconds is"):
        Media(tmp_path, isolate="inline", snap_seconds=seconds)
