"""Odd files that are what they say: every coding, container, timing and company that a video may come in."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer
from av.packet import Packet

from tests.media.clips import AV1, H264, VPX, X265, Clip, jpeg, put_sound, remuxed
from tests.media.harm import Edit, spoil, with_cover

Make = Callable[[Path], None]
MS = Fraction(1, 1000)
MPEG4 = {"bf": "2", "g": "12", "b": "1000000"}
NO_B = H264 | {"bf": "0"}
OPEN_GOP = H264 | {"x264-params": "open-gop=1:scenecut=0"}
UNEVEN = {"pts": lambda n: 20 * n + 37 * (n // 7), "time_base": MS}
"""Frames every 20 ms, every seventh of them 37 ms later."""
NEGATIVE = {"avoid_negative_ts": "disabled"}

CODINGS: dict[str, Make] = {
    "plain.mp4": Clip().write,
    "keys_only.mp4": Clip(options={"g": "1"}).write,
    "one_key.mp4": Clip(num=60, options=H264 | {"g": "999", "x264-params": "scenecut=0"}).write,
    "open_gop.mp4": Clip(options=OPEN_GOP).write,
    "refreshed_bit_by_bit.mp4": Clip(options=NO_B | {"x264-params": "intra-refresh=1"}).write,
    "yuv444.mp4": Clip(pix_fmt="yuv444p").write,
    "ten_bit.mp4": Clip(pix_fmt="yuv420p10le").write,
    "full_range.mp4": Clip(pix_fmt="yuvj420p").write,
    "grey.mp4": Clip(pix_fmt="gray").write,
    "interlaced.mp4": Clip(options=H264 | {"x264-params": "interlaced=1"}).write,
    "wide_pixels.mp4": Clip(options=H264 | {"x264-params": "sar=4/3"}).write,
    "odd_size.mp4": Clip(size=(427, 241), pix_fmt="yuv444p", num=24).write,
    "hevc.mp4": Clip(codec="libx265", options=X265).write,
    "hevc_open_gop.mkv": Clip(
        codec="libx265", options=X265 | {"x265-params": X265["x265-params"] + ":open-gop=1"}
    ).write,
    "av1.mp4": Clip(codec="libsvtav1", options=AV1).write,
    "vp9.webm": Clip(codec="libvpx-vp9", options=VPX).write,
    "vp9_odd_size.webm": Clip(codec="libvpx-vp9", options=VPX, size=(427, 241), num=24).write,
    "vp9_alpha.webm": Clip(codec="libvpx-vp9", options=VPX, pix_fmt="yuva420p").write,
    "vp8.webm": Clip(codec="libvpx", options=VPX).write,
    "mpeg4_b_frames.avi": Clip(codec="mpeg4", options=MPEG4).write,
    "h264_b_frames.avi": Clip().write,
    "mjpeg.avi": Clip(codec="mjpeg", pix_fmt="yuvj420p", options={}).write,
    "mpeg2.ts": Clip(codec="mpeg2video", options=MPEG4).write,
    "prores.mov": Clip(codec="prores_ks", pix_fmt="yuv422p10le", options={}, num=24).write,
    "sorenson.flv": Clip(codec="flv", options={"g": "12"}).write,
    "ffv1.mkv": Clip(codec="ffv1", options={}).write,
}
CONTAINERS: dict[str, Make] = {
    "faststart.mp4": Clip(container={"movflags": "+faststart"}).write,
    "fragmented.mp4": Clip(container={"movflags": "frag_keyframe+empty_moov"}).write,
    "plain.mkv": Clip().write,
    "live.mkv": Clip(container={"live": "1"}).write,
    "live.webm": Clip(codec="libvpx-vp9", options=VPX, container={"live": "1"}).write,
    "plain.ts": Clip().write,
    "plain.flv": Clip().write,
    "matroska.mp4": Clip(format="matroska").write,
    "mp4.avi": Clip(format="mp4").write,
    "mp4.txt": Clip(format="mp4").write,
    "gif.mp4": Clip(codec="gif", pix_fmt="rgb8", options={}, format="gif", num=12).write,
    "raw_h264.mp4": Clip(format="h264").write,
    "program_stream.mp4": Clip(codec="mpeg2video", options=MPEG4, format="vob").write,
    "asf.mp4": Clip(codec="wmv2", options=MPEG4 | {"bf": "0"}, format="asf").write,
    "png.mp4": Clip(codec="png", pix_fmt="rgb24", options={}, format="image2pipe", num=1).write,
    "ogg.mp4": Clip(codec="libvpx", options=VPX, format="ogg").write,
}
TIMES: dict[str, Make] = {
    "one_frame.mp4": Clip(num=1).write,
    "one_frame.mkv": Clip(num=1).write,
    "two_frames.mp4": Clip(num=2).write,
    "tiny_2x2.mp4": Clip(size=(2, 2)).write,
    "smallest_8x8.mp4": Clip(size=(8, 8)).write,
    "uneven.mp4": Clip(**UNEVEN).write,
    "uneven.mkv": Clip(**UNEVEN).write,
    "starts_late.mp4": Clip(pts=lambda n: n + 120).write,
    "starts_late.mkv": Clip(pts=lambda n: n + 120).write,
    "starts_late.ts": Clip(pts=lambda n: n + 120).write,
    "edit_list.mp4": Clip(pts=lambda n: n - 10, container=NEGATIVE).write,
    "negative_times.mkv": Clip(pts=lambda n: n - 10, options=NO_B, container=NEGATIVE).write,
    "one_per_second.mp4": Clip(rate=Fraction(1)).write,
    "thousand_per_second.mp4": Clip(rate=Fraction(1000)).write,
    "thousand_per_second.mkv": Clip(rate=Fraction(1000), options=NO_B).write,
    "three_thousand_per_second.mkv": Clip(rate=Fraction(3000), options=NO_B).write,
    "huge_times.mkv": Clip(pts=lambda n: n + (1 << 34), options=NO_B).write,
    "huge_times.mp4": Clip(pts=lambda n: n + (1 << 34), options=NO_B, container=NEGATIVE).write,
    "clock_wraps.ts": Clip(pts=lambda n: 3750 * n + (1 << 33) - 60_000, time_base=Fraction(1, 90_000)).write,
    "hour_long_gap.mp4": Clip(pts=lambda n: n + 24 * 3599 * (n > 20)).write,
    "turned_90.mp4": Clip(turned=90).write,
    "turned_180.mp4": Clip(turned=180).write,
    "turned_270.mp4": Clip(turned=270).write,
}


def _with(*put: Callable[[OutputContainer], None], edit: Edit | None = None) -> Make:
    def make(path: Path) -> None:
        with av.open(str(path), "w") as out:
            for one in put:
                one(out)
        if edit is not None:
            spoil(path, edit)

    return make


def _two_videos(out: OutputContainer) -> None:
    """The smaller one comes first, and shows other numbers."""
    small, large = Clip(size=(80, 48), first_number=500).packets, Clip().packets
    out.mux(sorted([*small(out), *large(out)], key=lambda packet: packet.dts * packet.time_base))


def _with_text(codec: str) -> Callable[[OutputContainer], None]:
    """The video, and a line of text for each half second of it."""

    def put(out: OutputContainer) -> None:
        packets = Clip().packets(out)
        stream = out.add_mux_stream(codec)
        stream.time_base = MS
        for at in range(3):
            text = f"line {at}".encode()
            packet = Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
            packet.pts = packet.dts = 500 * at
            packet.duration, packet.time_base, packet.stream = 400, MS, stream
            packets.append(packet)
        out.mux(packets)

    return put


def _cover(out: OutputContainer) -> None:
    out.add_attachment("cover.jpg", "image/jpeg", jpeg())


def _attachment(out: OutputContainer) -> None:
    out.add_attachment("font.ttf", "application/x-truetype-font", bytes(4000))


def _data_stream(out: OutputContainer) -> None:
    packets = Clip().packets(out)
    stream = out.add_data_stream("klv")
    for at in range(3):
        packet = Packet(bytes(64))
        packet.pts = packet.dts = 45_000 * at
        packet.time_base, packet.stream = Fraction(1, 90_000), stream
        packets.append(packet)
    out.mux(packets)


def _long_sound(out: OutputContainer) -> None:
    packets = Clip().packets(out)
    put_sound(out, 4.0)
    out.mux(packets)


COMPANY: dict[str, Make] = {
    "audio_only.mp4": _with(put_sound),
    "cover_only.mp4": _with(put_sound, edit=with_cover(jpeg())),
    "cover_beside.mp4": _with(Clip().put, edit=with_cover(jpeg())),
    "cover_beside.mkv": _with(_cover, Clip().put),
    "two_videos.mp4": _with(_two_videos),
    "two_videos.mkv": _with(_two_videos),
    "text_beside.mp4": _with(_with_text("mov_text")),
    "text_beside.mkv": _with(_with_text("subrip")),
    "font_beside.mkv": _with(_attachment, Clip().put),
    "data_beside.ts": _with(_data_stream),
    "sound_longer.mp4": _with(_long_sound),
    "sound_longer.mkv": _with(_long_sound),
}


def _size_changes(suffix: str, **clip: object) -> Make:
    """Two clips in one stream: 160x96, then 240x144."""

    def make(path: Path) -> None:
        first, second = path.with_suffix(f".1{suffix}"), path.with_suffix(f".2{suffix}")
        Clip(num=24, **clip).write(first)
        Clip(num=24, size=(240, 144), pts=lambda n: n + 24, first_number=24, **clip).write(second)
        if suffix == ".ts":
            path.write_bytes(first.read_bytes() + second.read_bytes())
        else:
            remuxed([first, second], path)
        first.unlink()
        second.unlink()

    return make


def _remade(
    clip: Clip, changed: Callable[[int, Packet], Packet | None], container: dict[str, str] | None = None
) -> Make:
    """A clip whose packets are changed on the way to another file of the same container."""

    def make(path: Path) -> None:
        whole = path.with_suffix(f".whole{path.suffix}")
        clip.write(whole)
        remuxed([whole], path, changed, container)
        whole.unlink()

    return make


def _paired(number: int, packet: Packet) -> Packet:
    """Two frames share a time."""
    packet.pts = packet.dts = packet.pts // 83 * 83
    return packet


def _late(number: int, packet: Packet) -> Packet | None:
    """The first half of the first group is gone, its keyframe with it."""
    return packet if number >= 6 else None


def _holed(number: int, packet: Packet) -> Packet | None:
    """Frames are missing that later ones refer to."""
    return None if 15 <= number < 20 else packet


CHANGED: dict[str, Make] = {
    "size_changes.ts": _size_changes(".ts"),
    "size_changes.webm": _size_changes(".webm", codec="libvpx-vp9", options=VPX),
    "same_time_twice.mkv": _remade(Clip(options=NO_B), _paired),
    "no_first_key.mkv": _remade(Clip(), _late),
    "frames_missing.mkv": _remade(Clip(options=NO_B), _holed),
    "frames_missing.mp4": _remade(Clip(options=NO_B), _holed),
}

LARGE: dict[str, Make] = {
    "too_many_pixels.mp4": Clip(size=(2048, 1024), num=1, options={"preset": "ultrafast"}).write,
    "too_many_frames.avi": Clip(codec="mpeg4", size=(16, 16), num=1300, options={}).write,
    "too_many_seconds.mp4": Clip(num=3, pts=lambda n: n * 24 * 3601).write,
}
WRITTEN: dict[str, Make] = CODINGS | CONTAINERS | TIMES | COMPANY | CHANGED | LARGE
