"""The door and the PyAV reader: which frame is shown when, how it is turned and coloured, and which files are refused.

Frames carry their number as ten bars, so that a picture says which frame it is.
"""

from __future__ import annotations

import bisect
import json
import os
import random
import sys
from collections.abc import Callable, Container
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from vista_train.video import decode
from vista_train.video.decode import MediaError, MediaMissing, MediaUnreadable, Wanted
from vista_train.video.decode import pyav as reader
from vista_train.video.decode.packets import Anomaly, PacketIndex, Run

WIDTH, HEIGHT, NUM = 160, 96, 120
NTSC, FILM = Fraction(30000, 1001), Fraction(24)
H264 = {"bf": "3", "g": "24", "crf": "18"}
KINDS: dict[str, dict[str, object]] = {
    "plain.mp4": {},
    "late.mp4": {"first_pts": 300},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "open_gop.mp4": {"options": {**H264, "x264-params": "open-gop=1:scenecut=0"}},
    "all_keys.mp4": {"options": {"g": "1"}},
    "edit_list.mp4": {"first_pts": -30, "container": {"avoid_negative_ts": "disabled"}},
    "plain.mkv": {},
    "open_gop_hevc.mkv": {"codec": "libx265", "options": {"preset": "fast", "x265-params": "log-level=none:keyint=24"}},
    "plain.ts": {},
    "plain.flv": {"rate": FILM},
    "refreshed_bit_by_bit.mp4": {"options": {**H264, "x264-params": "intra-refresh=1:bframes=0"}},
    "b_frames.avi": {"codec": "mpeg4", "rate": FILM, "options": {"bf": "2", "g": "24", "b": "3000000"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8", "g": "24"}},
}


def bars(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Planes of a yuv420p picture, uint8 [height * 3/2, width]: the frame's number over a moving slope."""
    luma = np.add.outer(np.arange(height), np.arange(width) + 2 * number).astype(np.uint8) // 2 + 40
    luma[height // 3 : 2 * height // 3] = np.repeat(np.where(number >> np.arange(10) & 1, 235, 16), width // 10)
    return np.concatenate([luma, np.full((height // 2, width), 128, np.uint8)])


def number_of(picture_HWC: np.ndarray) -> int:
    height, width, _ = picture_HWC.shape
    columns = ((np.arange(10) + 0.5) * width / 10).astype(int)
    return int(((picture_HWC[height // 2, columns].mean(-1) > 128) << np.arange(10)).sum())


def make_video(
    path: Path,
    codec: str = "libx264",
    num: int = NUM,
    rate: Fraction = NTSC,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    first_pts: int = 0,
    turned: int = 0,
    planes: Callable[[int], np.ndarray] = bars,
    pix_fmt: str = "yuv420p",
) -> Path:
    """A video of `num` frames; `first_pts` in frames, `turned` in degrees."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=H264 if options is None else options)
        rows, stream.width = planes(0).shape
        stream.height, stream.pix_fmt = rows * 2 // 3, pix_fmt
        if turned:
            stream.set_display_rotation(turned)
        for number in range(num):
            frame = av.VideoFrame.from_ndarray(planes(number), format=pix_fmt)
            frame.pts, frame.time_base = number + first_pts, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def in_order(
    path: Path, width: int = WIDTH, height: int = HEIGHT, only: Container[int] = range(10**9)
) -> tuple[list[Fraction], dict[int, np.ndarray]]:
    """What plain PyAV shows, decoding all: seconds after the first frame, and the pictures of the frames in `only`."""
    scaler, times, shown = reader.Scaler(), [], {}
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        for number, frame in enumerate(container.decode(stream)):
            times.append(frame.pts)
            if number in only:
                shown[number] = scaler.picture(frame, width, height)
        assert times == sorted(times)
        return [(pts - times[0]) * stream.time_base for pts in times], shown


def shown_at(starts: list[Fraction], time: Fraction) -> int:
    return bisect.bisect_right(starts, time) - 1


def random_times(path: Path, starts: list[Fraction], num: int) -> list[Fraction]:
    rng = random.Random(path.name)
    return [Fraction(rng.random()) * (starts[-1] + Fraction(1, 20)) for _ in range(num)]


def pictures(path: Path, times: list[Fraction], width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    got = dict(decode.read(path, [Wanted(time, width, height) for time in times]))
    return [got[which] for which in range(len(times))]


def numbers(path: Path, times: list[Fraction]) -> list[int]:
    return [number_of(picture) for picture in pictures(path, times)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames at 30000/1001 a second, 5 groups of pictures with B-frames, the index in front."""
    return make_video(tmp_path_factory.mktemp("plain") / "plain.mp4", container={"movflags": "+faststart"})


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by "in order" whenever the reader decodes a file from its start."""
    taken: list[str] = []
    plain_pass = reader._in_order

    def noted(*args: object) -> object:
        taken.append("in order")
        return plain_pass(*args)

    monkeypatch.setattr(reader, "_in_order", noted)
    return taken


@pytest.mark.parametrize("name", KINDS)
def test_200_random_times_give_the_frame_in_order_decoding_shows(tmp_path: Path, name: str, passes: list[str]) -> None:
    path = make_video(tmp_path / name, **KINDS[name])
    starts, shown = in_order(path)
    order = [number_of(shown[number]) for number in range(len(starts))]
    assert order == list(range(30 if name == "edit_list.mp4" else 0, NUM))
    times = random_times(path, starts, 200)
    got = pictures(path, times)
    assert [number_of(picture) for picture in got] == [order[shown_at(starts, time)] for time in times]
    assert all(np.array_equal(picture, shown[shown_at(starts, time)]) for picture, time in zip(got, times, strict=True))
    late = [pictures(path, [time])[0] for time in times[:12]]
    assert all(np.array_equal(alone, together) for alone, together in zip(late, got[:12], strict=True))
    if name not in ("b_frames.avi", "refreshed_bit_by_bit.mp4"):
        assert passes == [], "read sparsely"


def test_frame_begins_exactly_on_its_time(plain: Path) -> None:
    starts = [frame / NTSC for frame in range(NUM)]
    assert numbers(plain, starts) == list(range(NUM))
    just_before = [start - Fraction(1, 10**12) for start in starts[1:]]
    assert numbers(plain, just_before) == list(range(NUM - 1))


def test_avi_that_stores_no_times_is_counted(tmp_path: Path) -> None:
    path = make_video(tmp_path / "h264.avi", rate=FILM)
    assert numbers(path, [frame / FILM for frame in range(NUM)]) == list(range(NUM))
    assert numbers(path, [Fraction(54, 10)]) == [NUM - 1]


def test_time_0_is_the_first_frame_and_past_the_end_the_last(plain: Path) -> None:
    end = NUM / NTSC
    assert numbers(plain, [Fraction(0), end + Fraction(1, 2), Fraction(4)]) == [0, NUM - 1, 119]
    with pytest.raises(MediaUnreadable, match=r"ends at 4\.00 s, before the frame wanted at 4\.51 s"):
        numbers(plain, [Fraction(1), Fraction(451, 100)])


def test_a_file_cut_short_without_a_count_in_its_header_is_refused_where_it_lacks(plain: Path, tmp_path: Path) -> None:
    whole, cut = make_video(tmp_path / "whole.mkv"), tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert numbers(cut, [Fraction(1, 2)]) == numbers(whole, [Fraction(1, 2)])
    with pytest.raises(MediaUnreadable, match="before the frame wanted"):
        numbers(cut, [Fraction(1, 2), decode.probe(cut).duration])


def test_times_in_any_order_repeats_and_sizes(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[tuple[int, int]] = []
    scale = reader.Scaler.picture

    def noted(self: reader.Scaler, frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
        scaled.append((width, height))
        return scale(self, frame, width, height)

    monkeypatch.setattr(reader.Scaler, "picture", noted)
    frames = [90, 3, 3, 50, 3, 90]
    sizes = [(160, 96), (160, 96), (70, 50), (160, 96), (160, 96), (31, 77)]
    wanted = [Wanted(frame / NTSC, *size) for frame, size in zip(frames, sizes, strict=True)]
    order = []
    for which, picture in decode.read(plain, wanted):
        order.append(which)
        assert picture.shape == (sizes[which][1], sizes[which][0], 3)
        assert picture.dtype == np.uint8
        assert picture.flags["C_CONTIGUOUS"]
        assert number_of(picture) == frames[which]
    assert [frames[which] for which in order] == [3, 3, 3, 50, 90, 90]
    assert sorted(order) == list(range(6))
    assert sorted(scaled) == [(31, 77), (70, 50), (160, 96), (160, 96), (160, 96)], "once for a frame and size"


def test_equal_wishes_share_one_picture(plain: Path) -> None:
    first, second = pictures(plain, [Fraction(1), Fraction(1) + Fraction(1, 10**6)])
    assert first is second


@pytest.mark.parametrize(("degrees", "corners"), [(90, "bdac"), (180, "dcba"), (-90, "cadb"), (0, "abcd")])
def test_pictures_are_turned_upright(tmp_path: Path, degrees: int, corners: str) -> None:
    shades = {"a": 30, "b": 90, "c": 150, "d": 210}

    def quarters(_: int) -> np.ndarray:
        luma = np.kron(np.array([[shades["a"], shades["b"]], [shades["c"], shades["d"]]]), np.ones((48, 80)))
        return np.concatenate([luma, np.full((48, 160), 128)]).astype(np.uint8)

    path = make_video(tmp_path / "turned.mp4", num=3, turned=degrees, planes=quarters)
    size = (40, 24) if degrees % 180 == 0 else (24, 40)
    header = decode.probe(path)
    assert (header.width, header.height) == tuple(4 * side for side in size)
    [picture] = pictures(path, [Fraction(0)], *size)
    assert picture.shape == (*size[::-1], 3)
    found = [picture[y, x].mean() for y in (4, -5) for x in (4, -5)]
    expected = [(shades[corner] - 16) * 255 / 219 for corner in corners]
    assert found == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(("pix_fmt", "grey"), [("yuv420p", 128), ("yuvj420p", 126)])
def test_full_and_limited_range(tmp_path: Path, pix_fmt: str, grey: int) -> None:
    def flat(_: int) -> np.ndarray:
        return np.concatenate([np.full((HEIGHT, WIDTH), 126), np.full((HEIGHT // 2, WIDTH), 128)]).astype(np.uint8)

    path = make_video(tmp_path / "grey.mp4", num=2, planes=flat, pix_fmt=pix_fmt)
    [picture] = pictures(path, [Fraction(0)])
    assert abs(picture.astype(int) - grey).max() <= 1


def test_probe(tmp_path: Path, plain: Path) -> None:
    header = decode.probe(plain)
    assert (header.width, header.height, header.num_frames, header.codec) == (WIDTH, HEIGHT, NUM, "h264")
    assert (header.fps, header.duration) == (NTSC, NUM / NTSC)
    assert "mp4" in header.container
    cut = decode.probe(make_video(tmp_path / "edit_list.mp4", **KINDS["edit_list.mp4"]))
    assert (cut.num_frames, cut.duration) == (90, 90 / NTSC)
    shifted = decode.probe(make_video(tmp_path / "plain.flv", rate=FILM))
    assert (shifted.duration, shifted.fps) == (NUM / FILM, FILM)


def test_probe_counts_packets_where_the_header_has_no_duration(tmp_path: Path) -> None:
    header = decode.probe(make_video(tmp_path / "live.mkv", container={"live": "1"}))
    assert header.num_frames == NUM
    assert float(header.duration) == pytest.approx(float(NUM / NTSC), abs=2e-3)


def test_the_matroska_tag_beats_a_longer_sound_track(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("libx264", rate=FILM, options=H264), out.add_stream("aac", rate=8000)
        video.width, video.height, video.pix_fmt, sound.layout = WIDTH, HEIGHT, "yuv420p", "mono"
        for number in range(24):
            out.mux(video.encode(av.VideoFrame.from_ndarray(bars(number), format="yuv420p")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 24000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        out.mux([*video.encode(None), *sound.encode(silence), *sound.encode(None)])
    assert decode.probe(path).duration == 1


def test_a_seek_that_fails_leads_to_one_pass_in_order(
    plain: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give, calls = reader.Source.run_packets, []

    def failing(source: reader.Source, index: PacketIndex, run: Run) -> object:
        calls.append(run)
        if len(calls) == 2:
            raise Anomaly("a seek leads elsewhere")
        return give(source, index, run)

    monkeypatch.setattr(reader, "index_by_table", lambda *given: None)
    monkeypatch.setattr(reader.Source, "run_packets", failing)
    got = list(decode.read(plain, [Wanted(frame / NTSC, WIDTH, HEIGHT) for frame in (10, 70, 110)]))
    assert [which for which, _ in got] == [0, 0, 1, 2], "it starts over"
    assert [number_of(picture) for _, picture in got] == [10, 10, 70, 110]
    assert passes == ["in order"]


def test_only_the_groups_that_are_needed_are_decoded(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give, runs = reader.Direct.run_packets, []

    def noted(source: reader.Direct, index: PacketIndex, run: Run) -> object:
        runs.append(run)
        return give(source, index, run)

    monkeypatch.setattr(reader.Direct, "run_packets", noted)
    assert numbers(plain, [Fraction(50) / NTSC]) == [50]
    assert runs[0] == Run(0, 0, frozenset({0})), "the first packet says who encoded the file"
    assert [run.start for run in runs[1:]] == [48]
    assert runs[1].end <= 52
    runs.clear()
    assert numbers(plain, [frame / NTSC for frame in (5, 20, 100)]) == [5, 20, 100]
    assert [run.start for run in runs] == [0, 96], "one group is decoded once, and the first packet is in it"


def test_refused_files(tmp_path: Path, plain: Path) -> None:
    whole = plain.read_bytes()
    middle = len(whole) * 3 // 5
    (tmp_path / "listed.mp4").write_bytes(whole)
    with av.open(str(plain)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    reference = next(packet for packet, after in pairwise(packets[30:]) if packet.pts > after.pts)
    half = reference.pos + reference.size // 2
    made = {
        "cut.mp4": (whole[:middle], r"truncated: \d+ packets where its header promises 120"),
        "hole.mp4": (whole[:middle] + bytes(2000) + whole[middle + 2000 :], "cannot be decoded"),
        "empty.mp4": (b"", "cannot be opened"),
        "text.mp4": (b"no video at all\n" * 50, "cannot be opened|not one of"),
        "playlist.mp4": (b"ffconcat version 1.0\nfile listed.mp4\n", "not one of the video containers mov, matroska"),
        "scratch.mp4": (whole[:half] + bytes(20) + whole[half + 20 :], "a frame is damaged"),
    }
    for name, (data, reason) in made.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(MediaUnreadable, match=reason) as refused:
            pictures(path, [frame / NTSC for frame in range(NUM)])
        assert str(tmp_path) not in refused.value.reason
        assert "0x" not in refused.value.reason
        assert refused.value.path == str(path)
    scratched = tmp_path / "scratch.mp4"
    with pytest.raises(MediaUnreadable, match="a frame is damaged"):
        pictures(scratched, [reference.pts * reference.time_base - 1 / NTSC])
    assert numbers(scratched, [Fraction(100) / NTSC]) == [100], "what is whole can still be shown"
    with pytest.raises(MediaUnreadable, match="not a file"):
        decode.probe(tmp_path)
    for act in (decode.probe, lambda path: pictures(path, [Fraction(0)])):
        with pytest.raises(MediaMissing):
            act(tmp_path / "absent.mp4")


def test_pictures_of_less_than_8_pixels_are_refused(tmp_path: Path) -> None:
    path = make_video(tmp_path / "tiny.mp4", num=3, planes=lambda number: bars(number, 10, 6))
    for act in (decode.probe, lambda path: pictures(path, [Fraction(0)])):
        with pytest.raises(MediaUnreadable, match="10x6 pixels"):
            act(path)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        sound, cover = out.add_stream("aac", rate=8000), out.add_stream("mjpeg", rate=1)
        sound.layout, cover.disposition = "mono", Disposition.attached_pic
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        out.mux([*cover.encode(av.VideoFrame.from_ndarray(bars(0), format="yuvj420p")), *cover.encode(None)])
        out.mux([*sound.encode(silence), *sound.encode(None)])
    with pytest.raises(MediaUnreadable, match="no video stream"):
        decode.probe(path)


def test_titles_in_other_encodings_do_no_harm(tmp_path: Path, plain: Path) -> None:
    path = tmp_path / "latin.mp4"
    path.write_bytes(plain.read_bytes().replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
    assert decode.probe(path) == decode.probe(plain)
    assert numbers(path, [Fraction(1)]) == [29]


def test_time_0_where_the_file_starts_with_frames_that_refer_to_before_it(tmp_path: Path, passes: list[str]) -> None:
    whole = make_video(tmp_path / "whole.mkv", **KINDS["open_gop_hevc.mkv"])
    cut, num_keys = tmp_path / "cut.mkv", 0
    with av.open(str(whole)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            num_keys += packet.is_keyframe
            if num_keys >= 2 and packet.size:
                packet.stream = stream
                out.mux(packet)
    starts, shown = in_order(cut)
    assert [number_of(shown[frame]) for frame in range(len(starts))] == list(range(24, NUM))
    assert numbers(cut, starts[::10]) == list(range(24, NUM, 10))
    assert numbers(cut, [starts[50]]) == [74]
    assert passes == ["in order"] * 2


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_are_closed_even_when_left_half_read(plain: Path) -> None:
    def held() -> int:
        return sum(os.path.realpath(link) == str(plain.resolve()) for link in Path("/proc/self/fd").iterdir())

    started = decode.read(plain, [Wanted(Fraction(at), 16, 16) for at in range(4)])
    next(iter(started))
    assert held() == 1
    started.close()
    assert held() == 0
    list(decode.read(plain, [Wanted(Fraction(at), 16, 16) for at in range(4)]))
    assert held() == 0


def test_the_door_checks_what_is_asked(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'opencv' is unknown; choose one of auto, pyav, decord, torchcodec"):
        decode.read(plain, [Wanted(Fraction(0), 8, 8)], reader="opencv")
    for bad in (Wanted(Fraction(-1, 100), 8, 8), Wanted(Fraction(0), 0, 8)):
        with pytest.raises(ValueError, match="at least"):
            decode.read(plain, [bad])
    assert list(decode.read(plain, [])) == []
    monkeypatch.delitem(sys.modules, "vista_train.video.decode.decord", raising=False)
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(ImportError, match=r"'decord' cannot be used here .* pip install decord"):
        decode.read(plain, [Wanted(Fraction(0), 8, 8)], reader="decord")


def test_real_clips_equal_in_order_decoding_bit_for_bit(shared: Path, passes: list[str]) -> None:
    clips = [json.loads(line) for line in (shared / "clips" / "clips.jsonl").read_text().splitlines()]
    assert len(clips) == 30
    for clip in clips:
        path = shared / "clips" / clip["video"]
        chosen = random.Random(path.name).sample(range(clip["num_frames"]), 12)
        starts, shown = in_order(path, 48, 36, only=chosen)
        got = pictures(path, [starts[frame] for frame in chosen], 48, 36)
        for frame, picture in zip(chosen, got, strict=True):
            assert np.array_equal(picture, shown[frame]), f"{path.name} frame {frame}"
    assert passes == [], "all are read sparsely"


def test_odd_media_are_decoded_or_refused_as_listed(shared: Path, passes: list[str]) -> None:
    folder = shared / "odd_media"
    for line in (folder / "odd_media.jsonl").read_text().splitlines():
        entry = json.loads(line)
        path = folder / entry["video"]
        try:
            header = decode.probe(path)
            times = [Fraction(2 * i + 1, 64) * header.duration for i in range(32)]
            got, refused = pictures(path, times, 40, 30), ""
        except MediaError as error:
            refused = error.reason
        assert bool(refused) == entry["expect"].startswith("reject"), f"{path.name}: {refused or 'decoded'}"
        if not refused:
            starts, shown = in_order(path, 40, 30)
            for time, picture in zip(times, got, strict=True):
                assert np.array_equal(picture, shown[shown_at(starts, time)]), f"{path.name} at {float(time)} s"
            assert header.num_frames in (None, len(starts)), path.name
            assert passes == [], f"{path.name} is read sparsely"
        passes.clear()
