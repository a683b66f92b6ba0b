"""Manifests that are no lists of clips: endless lines, nested without end, numbers that are none, words that move a
terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vista_train import preview, train
from vista_train.augment import REGISTRY
from vista_train.cli import main as vista_train
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.manifest import MAX_LINE_BYTES
from vista_train.data.sources import ClipSource
from vista_train.models.base import load_family
from vista_train.video.media import Media

WriteManifest = Callable[..., Path]
LINE = '{"video": "honest.mp4", "caption": "Blue.", %s}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"video": "' + "a" * MAX_LINE_BYTES + '"}', "line is longer than 1 MB"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        (LINE % ('"qa": ' + "[" * 990 + "]" * 990), "nested too deeply"),
        (LINE % ('"qa": ' + "[" * 900 + "]" * 900), "qa"),
        (LINE % '"duration": NaN', "line holds NaN"),
        (LINE % '"fps": Infinity', "line holds Infinity"),
        (LINE % '"start": -Infinity', "line holds -Infinity"),
        (LINE % '"duration": 1e999', "duration is not finite"),
        (LINE % f'"width": {"9" * 5000}', "4300 digits"),
        (LINE % f'"width": {"9" * 400}', "width is not finite"),
        (LINE % '"width": -64', "width is -64"),
        (LINE % '"fps": true', "fps is True"),
        (LINE % '"duration": "10"', "duration is '10'"),
        ('{"video": "a\\u0000.mp4", "caption": "x"}', "path under the data root"),
        ('{"video": "\\ud800.mp4", "caption": "x"}', "surrogate"),
        ('{"video": ["honest.mp4"], "caption": "x"}', "video is ['honest.mp4']"),
        ('"honest.mp4"', "must be a JSON object"),
        ("\x80\x04cos\nsystem", "is not JSON"),
    ],
)
def test_a_line_that_is_no_clip_is_named(
    write_manifest: WriteManifest, root: Path, capsys: pytest.CaptureFixture, line: str, said: str
) -> None:
    manifest = write_manifest({"video": "honest.mp4"}, line)
    assert vista_train(["check", str(manifest), "--root", str(root)]) == 2
    message = capsys.readouterr().err
    assert "clips.jsonl:2: " in message
    assert said in message
    assert len(message) < 1000


def test_a_pickle_is_no_manifest(write_manifest: WriteManifest, root: Path, pickled: bytes, marker: Path) -> None:
    manifest = write_manifest({"video": "honest.mp4"})
    manifest.write_bytes(pickled)
    with pytest.raises(ValueError, match=r"clips\.jsonl:1: line is not"):
        ClipSource(manifest, root)
    assert not marker.exists()


def test_a_file_of_zeros_is_one_line_that_is_not_read_to_its_end(root: Path) -> None:
    with (root / "zeros.jsonl").open("wb") as file:
        file.truncate(10 << 30)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"zeros\.jsonl:1: line is longer than 1 MB"):
        ClipSource(root / "zeros.jsonl", root)
    assert time.monotonic() - began < 5


def test_a_long_path_that_leads_out_is_refused_at_once(write_manifest: WriteManifest, root: Path) -> None:
    """It looks like the beginning of a URL, again and again, where secrets are looked for."""
    manifest = write_manifest({"video": "/" + "a." * 20_000})
    began = time.monotonic()
    with pytest.raises(ValueError, match="path under the data root"):
        ClipSource(manifest, root)
    assert time.monotonic() - began < 0.6


@pytest.mark.parametrize("way", ["left out", "no usable clips", "misspelt"])
def test_no_word_of_a_manifest_moves_the_terminal(
    write_manifest: WriteManifest, root: Path, capsys: pytest.CaptureFixture, way: str
) -> None:
    gone = '{"video": "\\u001b[2J\\u001b]0;owned\\u0007.mp4", "caption": "x"}'
    lines: dict[str, tuple[Any, ...]] = {
        "left out": ({"video": "honest.mp4"}, gone),
        "no usable clips": (gone,),
        "misspelt": ('{"video": "honest.mp4", "captio\\u009b": "x"}',),
    }
    vista_train(["check", str(write_manifest(*lines[way])), "--root", str(root)])
    said = capsys.readouterr()
    assert (said.out + said.err).replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "claim",
    [
        {"width": 1e300}, {"height": 1e18}, {"width": 1, "height": 1e9}, {"duration": 1e300}, {"duration": 5e-324},
        {"fps": 1e300}, {"fps": 1e-300}, {"start": 1e300}, {"start": 0.5, "end": 1e300},
    ],
)  # fmt: skip
def test_numbers_beyond_measure_cost_their_clips_and_no_more(
    write_manifest: WriteManifest, root: Path, kit: SimpleNamespace, claim: dict[str, float]
) -> None:
    """A manifest says what it likes of a file; nothing is made as large as it says."""
    media = Media(root, isolate="inline")
    began = time.monotonic()
    with suppress(ValueError):
        source = ClipSource(write_manifest({"video": "honest.mp4", **claim}), media)
        codec = load_family("tiny", kit.SMALL, kit.VIEW).codec
        dataset = VistaDataset({"clips": source}, (Ingredient(REGISTRY["plain"]()),), codec, media)
        assert dataset[0].frames_TCHW.shape[2:] in {(56, 56), (0, 0)}
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["order.npy", "gap.npy", "done.json", "rows.arrow", "unprobed.arrow"])
def test_a_pickle_in_the_cache_is_not_loaded(
    write_manifest: WriteManifest, root: Path, tmp_path: Path, pickled: bytes, marker: Path, kit: Any, name: str
) -> None:
    """Caches may be shared, and what is in them be somebody else's."""
    manifest, cache = write_manifest({"video": "honest.mp4"}), tmp_path / "cache"
    ClipSource(manifest, root, cache)
    target = max(cache.rglob(name), key=lambda path: path.parent.parent.name == "pools")
    target.write_bytes(pickled)
    with pytest.raises((ValueError, OSError)):
        ClipSource(manifest, root, cache)[0]
    if target.suffix == ".npy":
        # An array of objects is a pickle too.
        objects = np.empty(1, dtype=object)
        objects[0] = kit.Bomb(marker)
        np.save(target, objects, allow_pickle=True)
        with pytest.raises(ValueError, match="object"):
            ClipSource(manifest, root, cache)[0]
        assert not marker.exists()
        np.load(target, allow_pickle=True)
        assert marker.exists()
        marker.rmdir()
    assert not marker.exists()


@pytest.mark.parametrize("main", [train.main, preview.main])
def test_a_manifest_outside_is_not_shown(
    write_recipe: Callable[..., Path], canary: Any, kit: SimpleNamespace, capsys: pytest.CaptureFixture, main: Any
) -> None:
    """A recipe may name any file as its manifest; what stands in it is not told."""
    recipe = write_recipe(data={"manifests": [{"path": str(canary.text)}]})
    assert main([str(recipe)]) == 2
    said = capsys.readouterr()
    assert "is not JSON" in said.err
    assert kit.SECRET not in said.err + said.out
