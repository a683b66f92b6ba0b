"""A root with one honest film, canaries outside it that tell when they are opened, and the ways in that users have."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import yaml

from vista_train import train
from vista_train.models.base import load_family
from vista_train.training.checkpoint import published
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.media import ISOLATION, Media
from vista_train.video.sampling import View

SECRET = "canary-5d41402abc4b2a76"
"""What stands in the file outside the root: it must never be in a message, a log or a picture."""
RED, BLUE = (255, 0, 0), (0, 0, 255)
IN_OPEN, IN_NONBLOCK, EVENT = 0x20, 0o4000, struct.Struct("iIII")
STUB = Path(__file__).with_name("stub.py")
SMALL = {"vision_width": 32, "language_width": 64, "language_layers": 2}
VIEW = View(frames=4, width=56, height=56, min_pixels=7)


class Canary:
    """A secret text and a red film outside the root. The kernel tells when either is opened, by whatever process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.text, self.film = folder, folder / "secret.txt", folder / "secret.mp4"
        self.text.write_text(f"{SECRET}\n" * 100)
        make_film(self.film, RED)
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(IN_NONBLOCK)
        for path in (self.text, self.film):
            if self._watch < 0 or libc.inotify_add_watch(self._watch, bytes(path), IN_OPEN) < 0:
                pytest.skip("nobody tells here when a file is opened (no inotify)")

    def was_opened(self) -> bool:
        """Whether anybody has opened one of them since this was last asked."""
        try:
            return len(os.read(self._watch, 1 << 16)) >= EVENT.size
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._watch)


class Bomb:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def make_film(
    path: Path,
    colour: tuple[int, int, int] = BLUE,
    frames: int = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    pixels: str = "yuv420p",
    step: int = 1,
    tags: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A film of one colour at ten frames a second, shown `step` ticks apart; skips where there is no such encoder."""
    picture_HWC = np.full((size[1], size[0], 3), colour, dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24").reformat(format=pixels)
    try:
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=10, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, pixels
            stream.metadata.update(tags or {})
            for number in range(frames):
                frame.pts = number * step
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"no {codec} can be encoded here: {error}")
    return path


def ways(media: Media, key: str) -> dict[str, Callable[[], Any]]:
    """All ways to what is in a file."""
    wanted = [Wanted(Fraction(0), 16, 12), Wanted(Fraction(1, 2), 16, 12)]
    return {
        "probe": lambda: media.probe(key),
        "inspect": lambda: media.inspect(key),
        "pictures": lambda: [picture_HWC.copy() for _, picture_HWC in media.pictures(key, wanted)],
    }


def refusals(media: Media, key: str, *kinds: type[MediaError]) -> list[str]:
    """What is said when a file is refused each way, as one of these kinds, in words that are fit to be shown."""
    said = []
    for name, way in ways(media, key).items():
        with pytest.raises(MediaError) as caught:
            pytest.fail(f"{name} takes {key}: {way()}")
        assert caught.type in kinds, f"{name}: {caught.value!r}"
        assert caught.value.reason.isprintable()
        assert SECRET not in str(caught.value)
        said.append(caught.value.reason)
    return said


def colour_of(pictures: list[np.ndarray]) -> str:
    """What colour pictures are."""
    red, _, blue = np.mean([picture_HWC.mean((0, 1)) for picture_HWC in pictures], axis=0)
    return "red" if red > 128 > blue else "blue" if blue > 128 > red else "neither"


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """What tests of this folder share: a test module cannot import another."""
    shared = (Bomb, make_film, ways, refusals, colour_of, SECRET, BLUE, RED, SMALL, VIEW)
    names = ("Bomb", "make_film", "ways", "refusals", "colour_of", "SECRET", "BLUE", "RED", "SMALL", "VIEW")
    return SimpleNamespace(**dict(zip(names, shared, strict=True)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The data root, with an honest blue film in it."""
    folder = tmp_path / "root"
    folder.mkdir()
    make_film(folder / "honest.mp4")
    return folder


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    canary = Canary(tmp_path / "outside")
    yield canary
    canary.close()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What a payload that runs leaves behind."""
    return tmp_path / "it-ran"


@pytest.fixture(params=ISOLATION)
def isolate(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_media(root: Path, isolate: str) -> Iterator[Callable[..., Media]]:
    """Media over the root, decoding in both of the ways there are."""
    made = []

    def make(**settings: Any) -> Media:
        made.append(Media(root, isolate=isolate, **settings))
        return made[-1]

    yield make
    for media in made:
        media.close()


@pytest.fixture
def with_stub(root: Path) -> Iterator[Callable[..., Media]]:
    """Media over the root whose decoding process misbehaves in a way that has a name (stub.py)."""
    made = []

    def make(*arguments: object, **settings: Any) -> Media:
        made.append(Media(root, program=(str(STUB), *map(str, arguments)), **settings))
        return made[-1]

    yield make
    for media in made:
        media.close()


@pytest.fixture
def write_manifest(root: Path) -> Callable[..., Path]:
    """A manifest in the root of lines that are complete, each with what a test puts in its place; or of bare text."""

    def write(*lines: dict[str, Any] | str) -> Path:
        path = root / "clips.jsonl"
        known = {"caption": "A film.", "duration": 1.0, "width": 64, "height": 48, "fps": 10}
        texts = [line if isinstance(line, str) else json.dumps(known | line) for line in lines]
        path.write_text("".join(text + "\n" for text in texts))
        return path

    return write


@pytest.fixture
def write_recipe(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """A recipe over the root: text, or sections laid over sound ones."""

    def write(text: str | None = None, **sections: Any) -> Path:
        data = {
            "output": str(tmp_path / "run"),
            "family": {"name": "tiny", **SMALL, "max_tokens": 2048},
            "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
            "data": {"root": str(root), "cache": str(tmp_path / "cache")},
            "augment": {"plain": {}},
            "train": {"steps": 1, "batch_samples": 1, "max_row_tokens": 2048, "workers": 0, "max_failed_share": 1.0},
        }
        for name, section in sections.items():
            data[name] = data.get(name, {}) | section if isinstance(section, dict) else section
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(data) if text is None else text)
        return path

    return write


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a finished run of one step on one clip, and its recipe; to be copied."""
    folder = tmp_path_factory.mktemp("run")
    make_film(folder / "film.mp4")
    line = {"video": "film.mp4", "caption": "Blue.", "duration": 1.0, "width": 64, "height": 48, "fps": 10}
    (folder / "clips.jsonl").write_text(json.dumps(line) + "\n")
    recipe = {
        "output": str(folder / "out"),
        "family": {"name": "tiny", **SMALL, "max_tokens": 2048},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(folder), "cache": str(folder / "cache"), "isolate": "inline"},
        "augment": {"plain": {}},
        "train": {"steps": 1, "batch_samples": 1, "max_row_tokens": 2048, "workers": 0},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert train.main([str(folder / "recipe.yaml")]) == 0
    return folder


@pytest.fixture
def resumable(run_once: Path, tmp_path: Path) -> SimpleNamespace:
    """A recipe of two steps, of which a checkpoint holds the first; to be spoilt."""
    output = tmp_path / "out"
    shutil.copytree(run_once / "out", output)
    recipe = yaml.safe_load((run_once / "recipe.yaml").read_text()) | {"output": str(output)}
    recipe["train"]["steps"] = 2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return SimpleNamespace(recipe=tmp_path / "recipe.yaml", checkpoint=published(output)[-1], output=output)


@pytest.fixture(scope="session")
def hub_once(make_checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a real family, as the Hub lays it out; to be copied."""
    folder = tmp_path_factory.mktemp("hub") / "llava_onevision"
    make_checkpoint.main(["llava_onevision", str(folder)])
    return folder


@pytest.fixture
def hub(hub_once: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint folder, to be spoilt."""
    return Path(shutil.copytree(hub_once, tmp_path / "hub"))


@pytest.fixture
def load_hub(hub: Path) -> Callable[..., Any]:
    """The family on the spoilt folder."""

    def load(**settings: Any) -> Any:
        return load_family("llava_onevision", {"path": str(hub), **settings}, View(frames=4, width=70, height=70))

    return load


@pytest.fixture
def pickled(marker: Path) -> bytes:
    """A pickle that makes the marker; it is known to work."""
    content = pickle.dumps(Bomb(marker))
    pickle.loads(content)
    assert marker.exists()
    marker.rmdir()
    return content
