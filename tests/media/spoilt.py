"""Bad files: cut, damaged, lying, or no video at all; and names under which no file can be had."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from tests.media.clips import VPX, Clip
from tests.media.harm import Edit, both, cut, flips, hole, patched, patched_first, spoil, without_box
from tests.media.written import NO_B

Make = Callable[[Path], None]
GARBAGE = bytes(range(256)) * 20
FAST = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}


WHOLE = "whole"
"""A folder beside the root, for what damaged files were before: they may show that, or nothing."""


def _spoilt(edit: Edit, keep: bool = False, **clip: object) -> Make:
    """A clip, and then its bytes changed; `keep` leaves the clip in `WHOLE`."""

    def make(path: Path) -> None:
        Clip(**clip).write(path)
        if keep:
            whole = path.parent.parent / WHOLE / path.name
            whole.parent.mkdir(exist_ok=True)
            shutil.copy(path, whole)
        spoil(path, edit)

    return make


def _damaged(edit: Edit, **clip: object) -> Make:
    return _spoilt(edit, True, **clip)


DAMAGED: dict[str, Make] = {
    "cut_half.mp4": _damaged(cut(0.5)),
    "cut_before_index_ends.mp4": _damaged(cut(0.97)),
    "cut_quarter_faststart.mp4": _damaged(cut(0.25), container=FAST),
    "cut_half_faststart.mp4": _damaged(cut(0.5), container=FAST),
    "cut_last_byte_faststart.mp4": _damaged(lambda data: data[:-1], container=FAST),
    "cut_first_kilobyte.mp4": _damaged(lambda data: data[:1000], container=FAST),
    "cut_fragmented.mp4": _damaged(cut(0.7), container=FRAGMENTS),
    "cut_half.mkv": _damaged(cut(0.5)),
    "cut_half.webm": _damaged(cut(0.5), codec="libvpx-vp9", options=VPX),
    "cut_half.avi": _damaged(cut(0.5), codec="mpeg4"),
    "cut_half.ts": _spoilt(cut(0.5)),
    "cut_half.flv": _damaged(cut(0.5)),
    "cut_start.ts": _spoilt(lambda data: data[len(data) // 2 :]),
    "cut_start.mp4": _damaged(lambda data: data[1000:]),
    "no_index.mp4": _damaged(without_box(b"moov")),
    "no_index.avi": _damaged(lambda data: data[: data.rindex(b"idx1")], codec="mpeg4"),
    "no_data.mp4": _damaged(without_box(b"mdat")),
    "hole.mp4": _damaged(hole(0.5, 2000), container=FAST),
    "hole.mkv": _damaged(hole(0.5, 2000)),
    "hole.ts": _damaged(hole(0.5, 2000)),
    "flipped_bits.mp4": _damaged(flips(60, 0.5, 0.95), container=FAST),
    "flipped_bits.mkv": _damaged(flips(60, 0.5, 0.95)),
    "flipped_bits.ts": _damaged(flips(60, 0.5, 0.95)),
    "flipped_bits.webm": _spoilt(flips(60, 0.5, 0.95), codec="libvpx-vp9", options=VPX),
    "flipped_bits_in_index.mp4": _damaged(flips(60, 0.94, 1.0)),
    "garbage_behind.mp4": _damaged(lambda data: data + GARBAGE),
    "garbage_behind.mkv": _damaged(lambda data: data + GARBAGE),
    "garbage_before.mp4": _damaged(lambda data: GARBAGE + data),
    "twice.mp4": _damaged(lambda data: data + data),
}
LYING: dict[str, Make] = {
    "lies_size.mp4": _spoilt(patched(b"avc1", 24, ">HH", 64, 32)),
    "lies_huge_size.mp4": _spoilt(patched(b"avc1", 24, ">HH", 65535, 65535)),
    "lies_size.avi": _spoilt(patched_first(b"strf", 8, "<ii", 64, 32), codec="mpeg4"),
    "lies_size.mkv": _spoilt(lambda data: data.replace(b"\xb0\x81\xa0\xba\x81\x60", b"\xb0\x81\x40\xba\x81\x20")),
    "lies_more_frames.avi": _spoilt(
        both(patched_first(b"avih", 20, "<I", 900), patched_first(b"strh", 36, "<I", 900)), codec="mpeg4"
    ),
    "lies_fewer_frames.avi": _spoilt(
        both(patched_first(b"avih", 20, "<I", 5), patched_first(b"strh", 36, "<I", 5)), codec="mpeg4"
    ),
    "lies_more_frames.mp4": _spoilt(patched(b"stsz", 8, ">I", 900)),
    "lies_billions_of_frames.mp4": _spoilt(patched(b"stsz", 8, ">I", 0xFFFFFFF0)),
    "lies_longer.mkv": _spoilt(lambda data: data.replace(b"00:00:01.", b"00:40:01.")),
    "lies_longer.mp4": _spoilt(patched(b"mdhd", 16, ">I", 1 << 30)),
    "lies_no_time_scale.mp4": _spoilt(patched(b"mdhd", 12, ">I", 0)),
    "lies_keyframe.mp4": _spoilt(patched(b"stss", 12, ">I", 8)),
    "lies_keyframe_without_b.mp4": _spoilt(patched(b"stss", 12, ">I", 8), options=NO_B),
    "lies_no_keyframes.mp4": _spoilt(patched(b"stss", 4, ">I", 0)),
    "lies_keyframes_past_end.mp4": _spoilt(patched(b"stss", 12, ">I", 4000)),
    "lies_offset.mp4": _spoilt(patched(b"stco", 8, ">I", 200)),
    "lies_offset_past_end.mp4": _spoilt(patched(b"stco", 8, ">I", 0x7FFFFFFF)),
    "lies_sample_size.mp4": _spoilt(patched(b"stsz", 12 + 4 * 9, ">I", 9)),
    "lies_order.mp4": _spoilt(patched(b"ctts", 8 + 8 * 5 + 4, ">I", 9 * 512)),
    "lies_all_at_once.mp4": _spoilt(patched(b"stts", 12, ">I", 0)),
    "lies_slow.mp4": _spoilt(patched(b"stts", 12, ">I", 0x7FFFFFFF)),
    "lies_codec.mp4": _spoilt(lambda data: data.replace(b"avc1", b"hvc1")),
    "lies_no_codec.mp4": _spoilt(lambda data: data.replace(b"avc1", b"zzzz")),
}


def _text(text: str) -> Make:
    return lambda path: path.write_text(text) and None


def _beside(text: str) -> Make:
    """A list that names a good file beside it."""

    def make(path: Path) -> None:
        Clip().write(path.with_name("listed.mp4"))
        path.write_text(text)

    return make


def _link(path: Path) -> None:
    Clip().write(path.with_name("linked_to.mp4"))
    path.symlink_to("linked_to.mp4")


def _socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        # A socket's own path may have 107 bytes.
        bound.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def _sparse(path: Path) -> None:
    Clip().write(path)
    os.truncate(path, (1 << 30) + 1)


def _inside_a_file(path: Path) -> None:
    path.parent.write_bytes(b"no folder")


def _in_a_linked_folder(path: Path) -> None:
    real = path.parent.with_name("real_folder")
    real.mkdir()
    Clip().write(real / path.name)
    path.parent.symlink_to("real_folder")


def _outside(path: Path) -> None:
    Clip().write(Path(os.path.normpath(path)))


NO_VIDEO: dict[str, Make] = {
    "empty.mp4": _text(""),
    "text.mp4": _text("no video at all\n" * 60),
    "page.mp4": _text("<html><body>404 Not Found</body></html>\n" * 40),
    "zeros.mp4": lambda path: path.write_bytes(bytes(20_000)) and None,
    "header_only.mp4": _spoilt(lambda data: data[: data.index(b"mdat") - 4]),
    "playlist.mp4": _beside("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.6,\nlisted.mp4\n#EXT-X-ENDLIST\n"),
    "concat.mp4": _beside("ffconcat version 1.0\nfile listed.mp4\n"),
    "dash.mp4": _beside('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>\n'),
    "subtitles.mp4": _text("1\n00:00:00,000 --> 00:00:02,000\nHello\n"),
}
PLACES: dict[str, Make] = {
    "folder.mp4": Path.mkdir,
    "pipe.mp4": os.mkfifo,
    "socket.mp4": _socket,
    "link.mp4": _link,
    "dangling.mp4": lambda path: path.symlink_to("nowhere.mp4"),
    "loop.mp4": lambda path: path.symlink_to("loop.mp4"),
    "linked_folder/plain.mp4": _in_a_linked_folder,
    "missing.mp4": lambda _: None,
    "a_file.mp4/inside.mp4": _inside_a_file,
    "folder.mp4/../plain.mp4": lambda _: None,
    "../outside.mp4": _outside,
    "/dev/zero": lambda _: None,
    "": lambda _: None,
    "nul\0.mp4": lambda _: None,
    f"{'x' * 300}.mp4": lambda _: None,
    f"{'x' * 251}.mp4": Clip().write,
    "line\nbreak \x1b[31m é 中 😀.mp4": Clip().write,
    "line\nbreak \x1b[31m.txt": _text("no video"),
    os.fsdecode(b"not_utf8_\xff.mp4"): Clip().write,
    "file:plain.mp4": Clip(format="mp4").write,
    "http:plain.mp4": lambda _: None,
    "%03d.mp4": Clip().write,
    "too_many_bytes.mp4": _sparse,
}
SPOILT: dict[str, Make] = DAMAGED | LYING | NO_VIDEO | PLACES
