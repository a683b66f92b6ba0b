"""Pictures: read as Pillow's users read them, upright, behind the same door and limits as videos."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from vista_train.video.decode import Limits, MediaError, MediaMissing, MediaTooLarge, MediaUnreadable, Wanted
from vista_train.video.decode.base import Header, Inspected
from vista_train.video.decode.members import key_of, members_of
from vista_train.video.media import Media

WIDTH, HEIGHT = 70, 50
ORIENTATION = 274
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
ONE = Fraction(1)


def photograph(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Smooth colours with some noise, unlike itself however it is turned."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    noise = np.random.default_rng(5).normal(0, 6, (size[1], size[0], 3))
    smooth = np.stack([255 * x, 255 * y * y, 128 + 100 * np.sin(9 * x + 3 * y)], axis=-1)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.fixture(scope="module", params=["process", "inline"])
def media(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    made = Media(tmp_path_factory.mktemp("pictures"), isolate=request.param)
    yield made
    made.close()


@pytest.fixture
def seen(media: Media) -> Callable[..., np.ndarray]:
    """Saves a picture below the media's root and reads it back through them, at its own size."""

    def see(name: str, content: Image.Image | bytes, **options: object) -> np.ndarray:
        path = Path(media.root, name)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path, FORMATS[name.rpartition(".")[2].lower()], **options)
        header = media.probe(name)
        ((which, picture_HWC),) = media.pictures(name, [Wanted(Fraction(1, 2), header.width, header.height)])
        assert which == 0
        return picture_HWC.copy()

    return see


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def test_a_picture_is_a_clip_of_one_frame(media: Media) -> None:
    photograph().save(Path(media.root, "one.JPG"), "JPEG")
    assert media.probe("one.JPG") == Header(ONE, WIDTH, HEIGHT, ONE, 1, "jpeg", "jpeg")
    assert media.inspect("one.JPG") == Inspected(ONE, WIDTH, HEIGHT, ONE, 1)
    wanted = [Wanted(Fraction(9, 10), 35, 25), Wanted(Fraction(0), 70, 50), Wanted(Fraction(3), 35, 25)]
    found = {which: picture.copy() for which, picture in media.pictures("one.JPG", wanted)}
    assert [found[which].shape for which in range(3)] == [(25, 35, 3), (50, 70, 3), (25, 35, 3)]
    assert np.array_equal(found[0], found[2]), "whatever the time, there is but one frame"
    with Image.open(Path(media.root, "one.JPG")) as picture:
        assert np.array_equal(found[0], np.asarray(picture.resize((35, 25), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_png_is_what_pillow_makes_of_it_to_the_last_bit(media: Media, seen: Callable, mode: str) -> None:
    found = seen(f"{mode}.png", photograph(mode))
    assert np.array_equal(found, pillow(Path(media.root, f"{mode}.png")))


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("420.jpg", "RGB", {"quality": 90}),
        ("444.jpg", "RGB", {"quality": 90, "subsampling": 0}),
        ("progressive.jpeg", "RGB", {"progressive": True}),
        ("grey.jpg", "L", {}),
        ("print.jpg", "CMYK", {"quality": 95}),
        ("lossy.webp", "RGB", {"quality": 80}),
        ("lossless.webp", "RGBA", {"lossless": True}),
    ],
)
def test_other_formats_are_within_two_levels_of_pillow(
    media: Media, seen: Callable, name: str, mode: str, options: dict
) -> None:
    found = seen(name, photograph(mode), **options).astype(int)
    apart = np.abs(found - pillow(Path(media.root, name)))
    assert (apart <= 2).mean() >= 0.999
    assert np.abs(found - np.asarray(photograph(mode).convert("RGB"))).mean() < 12, "and it is that picture"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_turned_photograph_comes_upright(media: Media, seen: Callable, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    name = f"turned{orientation}.{ending}"
    found = seen(name, photograph(), exif=exif, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(found, pillow(Path(media.root, name)))
    assert found.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    assert media.inspect(name).width == found.shape[1]


def test_exif_that_is_damaged_turns_nothing(media: Media, seen: Callable) -> None:
    found = seen("broken.jpg", photograph(), exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage", quality=95)
    with Image.open(Path(media.root, "broken.jpg")) as picture:
        assert np.array_equal(found, np.asarray(picture.convert("RGB")))


def test_alpha_is_dropped_and_not_painted_over(seen: Callable) -> None:
    hidden_HW4 = np.dstack([np.asarray(photograph()), np.zeros((HEIGHT, WIDTH), np.uint8)])
    found = seen("clear.png", Image.fromarray(hidden_HW4))
    assert np.array_equal(found, np.asarray(photograph())), "neither black nor white shows through"
    palette = photograph("P")
    assert np.array_equal(seen("key.png", palette, transparency=b"\0" * 256), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_keep_their_upper_half(media: Media, seen: Callable) -> None:
    levels_HW = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    found = seen("deep.png", Image.fromarray(levels_HW))
    assert np.array_equal(found, np.repeat((levels_HW >> 8).astype(np.uint8)[..., None], 3, axis=2))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.repeat(levels_HW[..., None], 3, axis=2))
    chunks = [
        (b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    assert np.array_equal(seen("deep_rgb.png", b"\x89PNG\r\n\x1a\n" + content), found)


def test_what_is_in_a_picture_is_told_by_its_content_among_pictures(seen: Callable) -> None:
    stream = io.BytesIO()
    photograph().save(stream, "PNG")
    assert np.array_equal(seen("called.jpg", stream.getvalue()), np.asarray(photograph()))


def saved(kind: str, *pictures: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    pictures[0].save(
        stream, kind, **({"save_all": True, "append_images": pictures[1:]} if pictures[1:] else {}), **options
    )
    return stream.getvalue()


TWO = (photograph(), photograph().rotate(90))
HARMED: dict[str, tuple[bytes, type[MediaError], str]] = {
    "moves.webp": (saved("WEBP", *TWO), MediaUnreadable, "an animation of 2 frames, not one picture"),
    "moves.png": (saved("PNG", *TWO), MediaUnreadable, "an animation of 2 frames, not one picture"),
    "film.jpg": (saved("GIF", *TWO), MediaUnreadable, "not one of the pictures jpeg, png, webp"),
    "cut.jpg": (saved("JPEG", photograph())[:900], MediaUnreadable, "cannot be decoded: image file is truncated"),
    "cut.png": (saved("PNG", photograph())[:900], MediaUnreadable, "cannot be decoded: image file is truncated"),
    "small.png": (saved("PNG", photograph(size=(70, 7))), MediaUnreadable, "70x7 pixels, less than 8 a side"),
    "text.png": (b"<html>404</html>" * 9, MediaUnreadable, "not one of the pictures"),
    "empty.jpg": (b"", MediaUnreadable, "not one of the pictures"),
    "large.png": (saved("PNG", photograph(size=(300, 200))), MediaTooLarge, "frames of 300x200, and limits.max_pixels"),
    "heavy.webp": (saved("WEBP", photograph()) + b"\0" * 200_000, MediaTooLarge, "200"),
}


@pytest.mark.parametrize("name", HARMED)
def test_a_bad_picture_is_refused_with_the_reason(media: Media, name: str) -> None:
    content, kind, reason = HARMED[name]
    Path(media.root, name).write_bytes(content)
    strict = Media(media.root, isolate=media.isolate, limits=Limits(max_pixels=50_000, max_bytes=200_000))  # type: ignore[arg-type]
    with pytest.raises(kind, match=reason) as caught:
        list(strict.pictures(name, [Wanted(Fraction(0), 16, 16)]))
    assert str(caught.value).startswith(f"{name}: ")
    assert "/proc/" not in str(caught.value)
    with pytest.raises(kind):
        strict.inspect(name)
    strict.close()


def test_a_photograph_with_another_behind_it_is_the_first(seen: Callable) -> None:
    found = seen("two.jpg", saved("MPO", *TWO, quality=95)).astype(int)
    assert np.abs(found - np.asarray(photograph())).mean() < 8


def test_the_name_decides_what_is_opened(media: Media, world: Path) -> None:
    Path(media.root, "film.png").write_bytes(next(world.rglob("*.mp4")).read_bytes())
    Path(media.root, "picture.mp4").write_bytes(saved("PNG", photograph()))
    for name, reason in (("film.png", "not one of the pictures"), ("picture.mp4", "not one of the video containers")):
        with pytest.raises(MediaUnreadable, match=reason):
            media.probe(name)


def test_a_picture_is_read_in_its_tar_and_behind_the_door(media: Media) -> None:
    content = saved("PNG", photograph())
    with tarfile.open(Path(media.root, "shard.tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("coco/a.png")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    ((name, offset, size),) = members_of(Path(media.root, "shard.tar"))
    ((_, found),) = media.pictures(key_of("shard.tar", name, offset, size), [Wanted(Fraction(0), WIDTH, HEIGHT)])
    assert np.array_equal(found, np.asarray(photograph()))
    Path(media.root, "linked.png").unlink(missing_ok=True)
    Path(media.root, "linked.png").symlink_to("/etc/passwd")
    for key in ("linked.png", "../outside.png", "gone.png"):
        with pytest.raises(MediaMissing):
            media.probe(key)


def test_a_reader_of_videos_leaves_pictures_to_theirs(media: Media) -> None:
    photograph().save(Path(media.root, "any.png"))
    try:
        other = Media(media.root, "decord", isolate=media.isolate)  # type: ignore[arg-type]
    except ValueError as error:
        pytest.skip(str(error))
    ((_, found),) = other.pictures("any.png", [Wanted(Fraction(0), WIDTH, HEIGHT)])
    assert np.array_equal(found, np.asarray(photograph()))
    other.close()
