"""Proxies and tiles show the frame that their file shows, at every time, for every kind of file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media.kinds import EXPECTED, MADE, RIGHT
from tests.media.outcome import HEIGHT, LIMITS, NUM_TIMES, OVERRUN_SECONDS, WIDTH, reference_of
from tests.media.table import shown
from vista_train.data.proxies import make_proxies
from vista_train.video.decode import MediaError, MediaMissing, Wanted, pyav
from vista_train.video.decode.packets import Anomaly
from vista_train.video.decode.sizes import Sizes
from vista_train.video.media import Media
from vista_train.video.renditions import PROXY, TILES, Renditions

NOT_WHOLE = "cut_last_byte_faststart.mp4"
GOOD = [key for key in MADE if EXPECTED[key].pyav == RIGHT and key.isprintable() and key != NOT_WHOLE]
"""Files that may stand in a manifest, and are whole to their last frame."""
Make = Callable[..., Media]


@pytest.fixture(scope="module")
def make(odd: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Media over the odd files, and the renditions made of one of them."""

    def made(key: str, sizes: Sizes, root: Path = odd, isolate: str = "inline") -> Media:
        folder = tmp_path_factory.mktemp("made")
        manifest = folder / "one.jsonl"
        manifest.write_text(json.dumps({"video": key, "caption": "A thing."}) + "\n")
        maker = Media(root, isolate=isolate, limits=LIMITS, makes_proxies=True)  # type: ignore[arg-type]
        outcome = make_proxies(manifest, maker, folder / "proxies", sizes, cache=folder / "cache", workers=1)
        assert (outcome.files, outcome.made, dict(outcome.failed)) == (1, 1, {})
        return Media(root, isolate=isolate, limits=LIMITS, proxies=folder / "proxies")  # type: ignore[arg-type]

    return made


def times_of(media: Media, key: str) -> list[Fraction]:
    """Times from all over a file, one on a frame's own start, one past its end."""
    header = media.probe(key)
    reference = reference_of(media.root, key)
    assert reference is not None
    times = [Fraction(2 * at + 1, 2 * NUM_TIMES) * header.duration for at in range(NUM_TIMES)]
    return [*reversed(times), Fraction(0), reference.starts[-1], reference.starts[len(reference.starts) // 2]]


@pytest.mark.parametrize("key", GOOD, ids=shown)
def test_a_rendition_shows_the_frame_that_its_file_shows(make: Make, odd: Path, key: str) -> None:
    media = make(key, Sizes(short_edge=HEIGHT, tile_edge=HEIGHT // 2))
    reference = reference_of(odd, key)
    assert reference is not None
    times = times_of(media, key)
    assert media._renditions is not None
    for kind, name in ((PROXY, "proxy"), (TILES, "tiles")):
        found = media._renditions.get(key, kind, media.stamp(key))
        assert found is not None
        wanted = [Wanted(time, *found.size) for time in times]
        pictures = {at: picture.copy() for at, picture in media.pictures(key, wanted)}
        originals = dict(Media(odd, isolate="inline", limits=LIMITS).pictures(key, wanted))
        away = max(abs(pictures[at].astype(int) - originals[at]).mean() for at in range(len(times)))
        assert away == 0 if name == "tiles" else away < 6, (name, away)
        assert set(media.drawn) <= {name, "tiles"}, "the file was not opened"
        media.drawn.clear()
    if found.source_size[0] > found.source_size[1] >= HEIGHT:
        pictures = dict(media.pictures(key, [Wanted(time, WIDTH, HEIGHT) for time in times]))
        assert all(reference.is_right(time, pictures[at]) for at, time in enumerate(times))


def test_a_time_past_the_end_is_the_files_own_error(make: Make, odd: Path) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2))
    end = reference_of(odd, "plain.mp4").end + OVERRUN_SECONDS  # type: ignore[union-attr]
    with pytest.raises(MediaError, match="before the frame wanted"):
        list(media.pictures("plain.mp4", [Wanted(Fraction(0), 8, 8), Wanted(end + 1, 8, 8)]))


def test_the_smallest_that_is_large_enough_is_taken(make: Make) -> None:
    media = make("plain.mp4", Sizes(40, 20))
    header = media.probe("plain.mp4")
    sizes = [(8, 8), (20, 20), (24, 24), (40, 40), (44, 44), (header.width, header.height)]
    got = {}
    for size in sizes:
        media.drawn.clear()
        ((_, picture_HWC),) = media.pictures("plain.mp4", [Wanted(Fraction(1), *size)])
        assert picture_HWC.shape == (size[1], size[0], 3)
        got[size] = next(iter(media.drawn))
    assert list(got.values()) == ["tiles", "tiles", "proxy", "proxy", "file", "file"]
    media.drawn.clear()
    wanted = [Wanted(Fraction(at, 8), *size) for at, size in enumerate(sizes)]
    assert sorted(at for at, _ in media.pictures("plain.mp4", wanted)) == list(range(len(sizes)))
    assert media.drawn == {"tiles": 2, "proxy": 2, "file": 2}


def test_tiles_at_a_lower_rate_serve_the_times_they_have(make: Make) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2, tile_fps=2))
    for time, kind in ((Fraction(0), "tiles"), (Fraction(1, 2), "tiles"), (Fraction(1, 4), "proxy")):
        media.drawn.clear()
        list(media.pictures("plain.mp4", [Wanted(time, 12, 12)]))
        assert set(media.drawn) == {kind}, time


def test_tiles_come_by_number_in_any_order_and_more_than_once(make: Make) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2))
    wanted = [Wanted(Fraction(at, 8), 12, 12) for at in (5, 1, 1, 9, 5, 0)]
    pictures = dict(media.pictures("plain.mp4", wanted))
    assert media.drawn == {"tiles": len(wanted)}
    for at, one in enumerate(wanted):
        ((_, alone_HWC),) = media.pictures("plain.mp4", [one])
        assert (pictures[at] == alone_HWC).all(), at


def test_a_file_that_has_changed_has_no_renditions(make: Make, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((odd / "plain.mp4").read_bytes())
    media = make("a.mp4", Sizes(HEIGHT, HEIGHT // 2), root=tmp_path)
    wanted = [Wanted(Fraction(1), 12, 12), Wanted(Fraction(1), WIDTH, HEIGHT)]
    list(media.pictures("a.mp4", wanted))
    assert media.drawn == {"tiles": 1, "proxy": 1}
    os.utime(tmp_path / "a.mp4", ns=(1, 1))
    media.drawn.clear()
    list(media.pictures("a.mp4", wanted))
    assert media.drawn == {"file": 2}
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MediaMissing):
        list(media.pictures("a.mp4", wanted))


def test_limits_hold_for_what_renditions_are_made_of(make: Make, odd: Path) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2))
    wanted = [Wanted(Fraction(1), 12, 12), Wanted(Fraction(1), WIDTH, HEIGHT)]
    assert media._renditions is not None
    found = media._renditions.get("plain.mp4", PROXY, media.stamp("plain.mp4") or ())
    assert found is not None
    width, height = found.source_size
    strict = [
        {"max_bytes": (odd / "plain.mp4").stat().st_size - 1}, {"max_pixels": width * height - 1},
        {"max_frames": len(found.index) - 1}, {"max_seconds": 0.5}, {"containers": ("matroska",)},
    ]  # fmt: skip
    for limits in strict:
        other = Media(odd, isolate="inline", limits=replace(LIMITS, **limits), proxies=media._renditions.folder)
        with pytest.raises(MediaError):
            list(other.pictures("plain.mp4", wanted))


@pytest.mark.parametrize("snap", [0.3, 5.0])
def test_with_snap_renditions_show_the_same_frames_as_their_file(make: Make, odd: Path, snap: float) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2))
    times = [Fraction(at, 10) for at in range(16)]
    wanted = [Wanted(t, WIDTH, HEIGHT, (max(Fraction(0), t - Fraction(snap)), t + Fraction(snap))) for t in times]
    pictures = {at: picture.copy() for at, picture in media.pictures("plain.mp4", wanted)}
    assert set(media.drawn) == {"proxy"}
    originals = dict(Media(odd, isolate="inline", limits=LIMITS).pictures("plain.mp4", wanted))
    assert max(abs(pictures[at].astype(int) - originals[at]).mean() for at in originals) < 6
    exact = dict(
        Media(odd, isolate="inline", limits=LIMITS).pictures("plain.mp4", [w._replace(window=None) for w in wanted])
    )
    assert max(abs(exact[at].astype(int) - originals[at]).mean() for at in originals) > 12, "keyframes were shown"


@pytest.mark.parametrize("isolate", ["inline", "process"])
@pytest.mark.parametrize("kind", [PROXY, TILES])
@pytest.mark.parametrize("harm", ["cut", "zeros in front", "nothing", "noise"])
def test_a_bad_rendition_costs_time_and_nothing_else(make: Make, isolate: str, kind: str, harm: str) -> None:
    media = make("plain.mp4", Sizes(HEIGHT, HEIGHT // 2), isolate=isolate)
    wanted = [Wanted(Fraction(at), *size) for at in (1.5, 1) for size in ((12, 12), (WIDTH, HEIGHT))]
    assert media._renditions is not None
    place = Renditions.place(media._renditions, "plain.mp4", kind)
    content = place.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(content), np.uint8).tobytes()
    place.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "zeros in front": bytes(len(content) // 4) + content[len(content) // 4 :],
            "nothing": b"",
            "noise": noise,
        }[harm]
    )
    pictures = {at: p.copy() for at, p in media.pictures("plain.mp4", wanted)}
    if kind == PROXY:
        originals = dict(Media(media.root, isolate="inline", limits=LIMITS).pictures("plain.mp4", wanted))
        assert all(np.array_equal(pictures[at], originals[at]) for at in (1, 3))
        assert media.drawn["file"] >= 2
    assert sorted(pictures) == [0, 1, 2, 3]
    media.close()


def test_a_proxys_own_times_never_count(make: Make, odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read through its container, as any file may be, it would show other frames: its own times are counted up."""
    media = make("uneven.mp4", Sizes(HEIGHT))

    def fails(*_: object) -> None:
        raise Anomaly("for once")

    monkeypatch.setattr(pyav, "direct", fails)
    wanted = [Wanted(time, WIDTH, HEIGHT) for time in times_of(media, "uneven.mp4")]
    pictures = {at: picture.copy() for at, picture in media.pictures("uneven.mp4", wanted)}
    originals = dict(Media(odd, isolate="inline", limits=LIMITS).pictures("uneven.mp4", wanted))
    assert all(np.array_equal(pictures[at], originals[at]) for at in originals)
    assert media.drawn == {"file": len(wanted), "unfit proxy": 1}


def test_a_file_that_is_not_whole_has_no_renditions(make: Make, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"video": NOT_WHOLE, "caption": "A thing."}) + "\n")
    maker = Media(odd, isolate="inline", limits=LIMITS, makes_proxies=True)
    sizes = Sizes(HEIGHT, HEIGHT)
    outcome = make_proxies(tmp_path / "m.jsonl", maker, tmp_path / "p", sizes, cache=tmp_path, workers=1)
    assert dict(outcome.failed) == {"MediaUnreadable": 1}
    assert not [path for path in (tmp_path / "p").rglob("*") if path.is_file() and path.name != "report.jsonl"]


@pytest.mark.parametrize(
    ("pix_fmt", "colorspace"), [("yuv420p", 1), ("yuv420p", 5), ("yuv420p10le", 9), ("yuvj420p", 5)]
)
def test_colours_stay_what_they_are(make: Make, tmp_path: Path, pix_fmt: str, colorspace: int) -> None:
    path = tmp_path / "red.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265" if "10" in pix_fmt else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        stream.codec_context.colorspace = colorspace
        red = np.broadcast_to(np.array([200, 40, 30], np.uint8), (64, 96, 3))
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(red), "rgb24").reformat(format=pix_fmt)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    media = make("red.mp4", Sizes(32, 32), root=tmp_path)
    ((_, original_HWC),) = Media(tmp_path, isolate="inline").pictures("red.mp4", [Wanted(Fraction(0), 48, 32)])
    assert media._renditions is not None
    media._renditions.place("red.mp4", TILES).unlink()
    ((_, proxy_HWC),) = media.pictures("red.mp4", [Wanted(Fraction(0), 48, 32)])
    assert set(media.drawn) == {"proxy"}
    assert abs(proxy_HWC.astype(int) - original_HWC).mean(axis=(0, 1)).max() < 4
