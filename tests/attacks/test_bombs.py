"""Small files that would be large: in pixels, frames, seconds, bytes and memory, by what they say or what they are."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from vista_train.video.decode import Limits, MediaCrashed, MediaError, MediaTimeout, MediaTooLarge, MediaUnreadable
from vista_train.video.media import Media

OpenMedia = Callable[..., Media]
PROBE = (
    "import re, sys; from pathlib import Path; import vista_train.video.decode.header as header\n"
    "from vista_train.video.decode import Limits, MediaTooLarge, MediaUnreadable\n"
    "def peak(): return int(re.search('VmHWM:\\\\s+(\\\\d+)', Path('/proc/self/status').read_text())[1])\n"
    "before = peak()\n"
    "try: header.header(Path(sys.argv[1]), Limits())\n"
    "except (MediaTooLarge, MediaUnreadable): print(peak() - before >> 10)"
)
"""Prints by how many MiB a process grows that refuses a file."""


def boxes(content: bytearray, name: bytes) -> int:
    """Where the body of an MP4's box of this name begins; of which there is one."""
    assert content.count(name) == 1
    return content.index(name) + 4


def claiming(film: Path, codec: str, size: int) -> bytes:
    """The film, its frames or its header saying that they are so many pixels wide and high."""
    content = bytearray(film.read_bytes())
    if codec == "libvpx":
        for place in places(content, b"\x9d\x01\x2a"):
            struct.pack_into("<HH", content, place + 3, size, size)
    elif codec == "mjpeg":
        for place in places(content, b"\xff\xc0\x00\x11\x08"):
            struct.pack_into(">HH", content, place + 5, size, size)
    else:
        struct.pack_into("<II", content, boxes(content, b"strf") + 8, size, size)
    return bytes(content)


def places(content: bytearray, mark: bytes) -> list[int]:
    """Where a mark stands."""
    found = [at for at in range(len(content)) if content.startswith(mark, at)]
    assert found
    return found


@pytest.mark.parametrize("size", [16_000, 16_384, 65_535])
@pytest.mark.parametrize(
    ("codec", "pixels", "ending"),
    [("libvpx", "yuv420p", "mkv"), ("mjpeg", "yuvj420p", "avi"), ("rawvideo", "yuv420p", "avi")],
)
def test_a_claim_of_a_huge_picture_is_refused(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, codec: str, pixels: str, ending: str, size: int
) -> None:
    film = kit.make_film(root / f"small.{ending}", codec=codec, pixels=pixels)
    assert open_media().probe(film.name).width == 64
    (root / f"claims.{ending}").write_bytes(claiming(film, codec, size))
    media = open_media(limits=Limits(max_memory_mib=1024))
    kit.refusals(media, f"claims.{ending}", MediaTooLarge, MediaUnreadable)


@pytest.fixture(scope="module")
def flat(kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One frame of 77 million pixels, all of one colour, in a few kilobytes."""
    path = tmp_path_factory.mktemp("flat") / "flat.ts"
    options = {"preset": "ultrafast", "x264-params": "threads=1:rc-lookahead=0:sync-lookahead=0"}
    return kit.make_film(path, frames=1, size=(9600, 8000), codec="libx264", options=options)


def test_a_huge_flat_picture_is_refused(open_media: OpenMedia, root: Path, flat: Path, kit: SimpleNamespace) -> None:
    (root / "flat.ts").write_bytes(flat.read_bytes())
    assert flat.stat().st_size < 300_000
    for reason in kit.refusals(open_media(), "flat.ts", MediaTooLarge):
        assert "9600x8000" in reason
    fewer = Limits(max_memory_mib=64, max_pixels=1 << 40)
    media = open_media(limits=fewer)
    if media.isolate == "process":
        kit.refusals(media, "flat.ts", MediaTooLarge, MediaCrashed, MediaUnreadable)


def test_a_huge_flat_picture_is_refused_before_it_is_decoded(flat: Path) -> None:
    told = subprocess.run([sys.executable, "-c", PROBE, str(flat)], capture_output=True, text=True, check=True)
    assert int(told.stdout) < 60, "a frame of 77 million pixels takes 110 MiB"


def test_a_picture_that_grows_while_it_plays_is_refused(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace
) -> None:
    """Its header and first frames are small; what follows is not."""
    parts = [
        kit.make_film(root / f"{width}.ts", size=(width, width), codec="mpeg2video", frames=12).read_bytes()
        for width in (64, 1024)
    ]
    (root / "grows.ts").write_bytes(b"".join(parts))
    media = open_media(limits=Limits(max_pixels=512 * 512))
    assert media.probe("grows.ts").width == 64
    wanted = kit.ways(media, "grows.ts")
    for way in ("inspect", "pictures"):
        with pytest.raises((MediaTooLarge, MediaUnreadable)):
            wanted[way]()


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_more_frames_than_allowed_are_refused(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, ending: str
) -> None:
    codec = "mpeg2video" if ending == "ts" else "mpeg4"
    kit.make_film(root / f"many.{ending}", frames=300, size=(16, 16), codec=codec)
    media = open_media(limits=Limits(max_frames=100))
    said = [reason for way in ("inspect", "pictures") for reason in one(media, kit, f"many.{ending}", way)]
    assert all("limits.max_frames is 100" in reason for reason in said)


def one(media: Media, kit: SimpleNamespace, key: str, way: str) -> list[str]:
    """What is said when a file is refused one way for its size."""
    with pytest.raises(MediaTooLarge) as caught:
        kit.ways(media, key)[way]()
    return [caught.value.reason]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "flv"])
def test_frames_that_are_days_apart_are_refused(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, ending: str
) -> None:
    codec, pixels = ("flv", "yuv420p") if ending == "flv" else ("mjpeg", "yuvj420p")
    kit.make_film(root / f"long.{ending}", frames=3, step=24 * 3600 * 10, codec=codec, pixels=pixels)
    for reason in kit.refusals(open_media(), f"long.{ending}", MediaTooLarge):
        assert "limits.max_seconds is 36000" in reason


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_more_bytes_than_allowed_are_refused_unread(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, ending: str
) -> None:
    film = kit.make_film(root / f"large.{ending}")
    with film.open("r+b") as file:
        # A hole, which takes no room on the disk.
        file.truncate(20 << 30)
    began = time.monotonic()
    for reason in kit.refusals(open_media(), f"large.{ending}", MediaTooLarge):
        assert f"has {20 << 30} bytes" in reason
    assert time.monotonic() - began < 5


def test_a_box_of_ten_gigabytes_is_refused(open_media: OpenMedia, root: Path, kit: SimpleNamespace) -> None:
    """In a file of a few hundred bytes: for what describes it, for what is in it, and for something unknown."""
    content = (root / "honest.mp4").read_bytes()
    at = content.index(b"mdat") - 4
    for name in (b"moov", b"mdat", b"uuid", b"free"):
        box = struct.pack(">I4sQ", 1, name, 10 << 30)
        (root / "box.mp4").write_bytes(content[:at] + box + content[at:])
        kit.refusals(open_media(), "box.mp4", MediaUnreadable, MediaTooLarge)


@pytest.mark.parametrize("element", [b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x19\x41\xa4\x69"])
def test_a_matroska_element_of_huge_size_is_refused(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, element: bytes
) -> None:
    """Its info, its tracks, and an attachment, of 72 petabytes each."""
    content = kit.make_film(root / "film.mkv").read_bytes()
    at = content.index(b"\x15\x49\xa9\x66")
    (root / "huge.mkv").write_bytes(content[:at] + element + b"\x01\xff\xff\xff\xff\xff\xff\xfe" + content[at:])
    began = time.monotonic()
    kit.refusals(open_media(), "huge.mkv", MediaUnreadable, MediaTooLarge)
    assert time.monotonic() - began < 8


def test_a_header_that_lies_about_its_frames_is_found_out(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace
) -> None:
    content = bytearray(kit.make_film(root / "film.avi").read_bytes())
    at = boxes(content, b"strh") + 4 + 32
    assert struct.unpack_from("<I", content, at) == (10,)
    struct.pack_into("<I", content, at, 1000)
    (root / "lies.avi").write_bytes(content)
    media = open_media()
    for way in ("inspect", "pictures"):
        with pytest.raises(MediaUnreadable, match="10 packets where its header promises 1000"):
            kit.ways(media, "lies.avi")[way]()
    struct.pack_into("<I", content, at, 0x7FFFFFFF)
    (root / "lies.avi").write_bytes(content)
    assert {*kit.refusals(media, "lies.avi", MediaTooLarge)} == {
        "has 2147483647 frames or more, and limits.max_frames is 2000000"
    }


def claiming_samples(film: Path, count: int) -> bytes:
    """An MP4 whose tables say that it has so many frames of a byte each, in one chunk."""
    content = bytearray(film.read_bytes())
    struct.pack_into(">II", content, boxes(content, b"stsz") + 4, 1, count)
    struct.pack_into(">III", content, boxes(content, b"stts") + 4, 1, count, 1)
    struct.pack_into(">IIII", content, boxes(content, b"stsc") + 4, 1, 1, count, 1)
    return bytes(content)


def test_tables_that_claim_millions_of_frames_stay_within_memory(root: Path, kit: SimpleNamespace) -> None:
    """libav makes an index of them all as it opens the file, which no limit of ours can forestall but memory's."""
    (root / "tables.mp4").write_bytes(claiming_samples(root / "honest.mp4", 60_000_000))
    media = Media(root, limits=Limits(max_memory_mib=256))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kit.refusals(media, "tables.mp4", MediaTooLarge, MediaCrashed, MediaError, MediaTimeout, MediaUnreadable)
    media.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("digits", [30, 400, 5000])
def test_a_length_of_countless_digits_is_not_believed(
    root: Path, isolate: str, kit: SimpleNamespace, digits: int
) -> None:
    """Matroska tells a stream's end in a tag, as text."""
    film = kit.make_film(root / "film.mkv", tags={"DURATIOX": "9" * digits + ":00:00"})
    content = film.read_bytes().replace(b"DURATION", b"DURATIOY").replace(b"DURATIOX", b"DURATION")
    (root / "endless.mkv").write_bytes(content)
    with av.open(str(root / "endless.mkv")) as file:
        assert file.streams.video[0].metadata["DURATION"].startswith("9" * digits)
    media = Media(root, isolate=isolate)
    with closing(media), suppress(MediaError):
        assert media.probe("endless.mkv").duration == 1
