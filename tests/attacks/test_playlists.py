"""Names that are no paths, and files that send a decoder to other files, to the network, or to code nobody looks at."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from vista_train import train
from vista_train.cli import main as vista_train
from vista_train.video.decode import READERS, MediaMissing, MediaUnreadable, Wanted, check_reader
from vista_train.video.media import Media

OpenMedia = Callable[..., Media]
URLS = (
    "http://127.0.0.1:1/film.mp4", "https://user:hunter2@127.0.0.1:1/film.mp4?X-Amz-Signature=deadbeef",
    "file://{film}", "rtmp://127.0.0.1:1/live", "cache:http://127.0.0.1:1/film.mp4",
)  # fmt: skip
PROTOCOLS = (
    "file:{film}", "concat:{film}|{film}", "subfile,,start,0,end,0,,:{film}", "crypto:{film}",
    "data:video/mp4;base64,AAAA", "pipe:0", "fd:0", "async:{film}", "lavfi:color=red", "-", "honest.mp4|{film}",
)  # fmt: skip
ENDINGS = ("avi", "mp4", "m3u8")


@pytest.mark.parametrize("key", [*URLS, *PROTOCOLS])
def test_a_name_that_is_a_url_is_the_name_of_a_file_that_is_not_there(
    open_media: OpenMedia, canary: Any, kit: SimpleNamespace, key: str
) -> None:
    kit.refusals(open_media(), key.format(film=canary.film), MediaMissing)
    assert not canary.was_opened()


@pytest.mark.parametrize("protocol", ["file:{film}", "concat:{film}|{film}", "async:{film}"])
def test_these_names_would_open_files(canary: Any, protocol: str) -> None:
    with av.open(protocol.format(film=canary.film)):
        assert canary.was_opened()


@pytest.mark.parametrize("key", URLS)
def test_a_manifest_of_urls_begins_no_run(
    write_manifest: Callable[..., Path],
    write_recipe: Callable[..., Path],
    canary: Any,
    root: Path,
    capsys: pytest.CaptureFixture,
    key: str,
) -> None:
    manifest = write_manifest({"video": key.format(film=canary.film)})
    recipe = write_recipe(data={"allow_absolute": True})
    assert train.main([str(recipe)]) == 2
    assert vista_train(["check", str(manifest), "--root", str(root)]) == 2
    said = capsys.readouterr().err
    assert said.count("clips.jsonl:1: video is ") == 2
    assert "hunter2" not in said
    assert "deadbeef" not in said
    assert not canary.was_opened()


def hls(canary: Any) -> str:
    """A playlist of one segment, which is the secret."""
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\nfile://{canary.film}\n#EXT-X-ENDLIST\n"


def hls_of_text(canary: Any) -> str:
    """As was used to read files of converters: a list in a list, the secret text among its segments."""
    return f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\nconcat:{canary.text}\n#EXT-X-ENDLIST\n"


def ffconcat(canary: Any) -> str:
    return f"ffconcat version 1.0\nfile {canary.film}\n"


def sdp(canary: Any) -> str:
    """A session that would be listened for on the network."""
    lines = "v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=x", "c=IN IP4 127.0.0.1", "t=0 0", "m=video 5004 RTP/AVP 96"
    return "".join(line + "\r\n" for line in (*lines, "a=rtpmap:96 H264/90000"))


def subtitles(canary: Any) -> str:
    return "WEBVTT\n\n00:00.000 --> 00:01.000\nwords\n"


def manifest_of_dash(canary: Any) -> str:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f'<Representation id="1"><BaseURL>file://{canary.film}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("made", [hls, hls_of_text, ffconcat, sdp, subtitles, manifest_of_dash])
def test_a_text_that_leads_elsewhere_is_no_film(
    open_media: OpenMedia, root: Path, canary: Any, kit: SimpleNamespace, made: Callable[..., str], ending: str
) -> None:
    (root / f"list.{ending}").write_text(made(canary))
    kit.refusals(open_media(), f"list.{ending}", MediaUnreadable)
    assert not canary.was_opened()


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (hls, {"allowed_extensions": "ALL", "protocol_whitelist": "file"}),
        (ffconcat, {"safe": "0"}),
    ],
)
def test_these_lists_would_lead_elsewhere(
    root: Path, canary: Any, made: Callable[..., str], options: dict[str, str]
) -> None:
    (root / "list.m3u8").write_text(made(canary))
    with av.open(str(root / "list.m3u8"), options=options) as file:
        assert file.streams.video
    assert canary.was_opened()


def test_the_whitelist_of_formats_takes_effect(root: Path, canary: Any) -> None:
    """A list of names joined by commas has been lost on its way to libav before."""
    (root / "list.mp4").write_text(ffconcat(canary))
    with av.open(str(root / "list.mp4"), options={"safe": "0", "format_whitelist": "mov,concat"}):
        assert canary.was_opened()
    with pytest.raises(av.FFmpegError):
        av.open(str(root / "list.mp4"), options={"safe": "0", "format_whitelist": "mov,matroska"})
    assert not canary.was_opened()


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_lists(root: Path, canary: Any, kit: SimpleNamespace, reader: str) -> None:
    try:
        check_reader(reader)
    except ImportError as error:
        pytest.skip(str(error))
    (root / "list.avi").write_text(ffconcat(canary))
    (root / "list.m3u8").write_text(hls(canary))
    media = Media(root, reader, "inline")
    for name in ("list.avi", "list.m3u8"):
        with pytest.raises(MediaUnreadable):
            list(media.pictures(name, [Wanted(Fraction(0), 8, 8)]))
    assert not canary.was_opened()


def pointing_elsewhere(film: Path, target: Path) -> bytes:
    """The film with its data reference an alias (QuickTime's, of version 2) to another file."""
    content = film.read_bytes()
    at = content.index(b"dref") - 4
    path = str(target).encode()
    path += b"\0" * (len(path) % 2)
    record = bytes(10) + b"\x03Vol" + bytes(24) + bytes(12) + b"\x0asecret.mp4" + bytes(53) + bytes(16)
    record += bytes(4) + bytes(16) + struct.pack(">HH", 2, len(path)) + path + b"\xff\xff\0\0"
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    (old,) = struct.unpack_from(">I", content, at)
    content = bytearray(content[:at] + box + content[at + old :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        where = content.index(name) - 4
        (size,) = struct.unpack_from(">I", content, where)
        struct.pack_into(">I", content, where, size + len(box) - old)
    return bytes(content)


def test_a_film_whose_data_lie_in_another_file_is_refused(
    open_media: OpenMedia, root: Path, canary: Any, kit: SimpleNamespace
) -> None:
    (root / "alias.mov").write_bytes(pointing_elsewhere(root / "honest.mp4", canary.film))
    with av.open(str(root / "alias.mov"), options={"enable_drefs": "1", "use_absolute_path": "1"}):
        assert canary.was_opened()
    kit.refusals(open_media(), "alias.mov", MediaUnreadable)
    assert not canary.was_opened()


@pytest.mark.parametrize("ending", ["avi", "mkv"])
@pytest.mark.parametrize(("codec", "pixels"), [("magicyuv", "gbrp"), ("ffv1", "yuv420p"), ("huffyuv", "yuv422p")])
def test_a_decoder_that_is_seldom_looked_at_does_not_run(
    open_media: OpenMedia, root: Path, kit: SimpleNamespace, codec: str, pixels: str, ending: str
) -> None:
    kit.make_film(root / f"odd.{ending}", codec=codec, pixels=pixels)
    with av.open(str(root / f"odd.{ending}")) as file:
        assert next(file.decode(video=0)).width == 64
    for reason in kit.refusals(open_media(), f"odd.{ending}", MediaUnreadable):
        assert "decode" in reason


def test_a_picture_in_the_place_of_a_film_is_refused(open_media: OpenMedia, root: Path, kit: SimpleNamespace) -> None:
    """Decoders of pictures are many, and one of them is how a server of models was taken over."""
    kit.make_film(root / "picture.png", frames=1, codec="png", pixels="rgb24", options={"update": "1"})
    (root / "picture.png").rename(root / "picture.mp4")
    with av.open(str(root / "picture.mp4")) as file:
        assert "png" in file.format.name
    kit.refusals(open_media(), "picture.mp4", MediaUnreadable)
