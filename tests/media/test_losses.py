"""A dataset of nothing but bad and odd files: every position is a sample or an empty slot, every loss is told."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from tests.data.conftest import BareCodec, ClipList
from tests.media.kinds import EXPECTED, MADE, RIGHT, SHARED
from tests.media.outcome import LIMITS
from vista_train.augment import Plain
from vista_train.data import ledger
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.video.composition import Clip
from vista_train.video.decode import MediaError
from vista_train.video.media import Media

SPARED = {"cut_half.webm"}
"""Files that lack their end, but no more than half a second before the last of four frames."""


def clip_of(media: Media, key: str, number: int) -> Clip:
    """A clip as a manifest would describe it; one second where the file tells nothing."""
    try:
        header = media.probe(key)
    except MediaError:
        return Clip(key, Fraction(0), Fraction(1), 160, 96, Fraction(24), f"Scene {number}.", source=key)
    size = (header.width, header.height)
    return Clip(key, Fraction(0), header.duration, *size, header.fps, f"Scene {number}.", source=key)


def check(root: Path, keys: list[str], path: Path) -> None:
    """Every position is taken once; what is lost is named, once an attempt, with the error that the table has."""
    media = Media(root, "pyav", limits=LIMITS)
    clips = [clip_of(media, key, number) for number, key in enumerate(keys)]
    dataset = VistaDataset({"odd": ClipList(clips)}, (Ingredient(Plain()),), BareCodec(), media, seed=3)
    lost = []
    for position in range(len(dataset)):
        encoded = dataset[position]
        is_empty = encoded.kind == "lost"
        assert is_empty == (len(encoded.input_ids) == 0) == (encoded.frames_TCHW.numel() == 0)
        assert {failure.position for failure in encoded.failures} <= {position}
        assert is_empty or encoded.attempt not in {failure.attempt for failure in encoded.failures}
        lost += encoded.failures
        first = {failure.key for failure in encoded.failures if failure.attempt == 0}
        anchor = dataset.sample(position, 0).video.path
        is_bad = EXPECTED[anchor].pyav != RIGHT and anchor not in SPARED
        assert first == ({anchor} if is_bad else set()), f"position {position}"
    assert max(Counter((failure.position, failure.attempt) for failure in lost).values()) == 1
    assert [EXPECTED[failure.key].pyav for failure in lost] == [failure.kind for failure in lost]
    assert {failure.source for failure in lost} == {"odd"}
    ledger.append(path, lost)
    assert path.read_bytes().count(b"\n") == len(lost)
    assert ledger.read(path) == lost
    media.close()


def test_every_loss_in_a_dataset_of_odd_files_is_told(odd: Path, tmp_path: Path) -> None:
    check(odd, list(MADE), tmp_path / "ledger.jsonl")


def test_every_loss_in_a_dataset_of_shared_files_is_told(odd_shared: Path, tmp_path: Path) -> None:
    check(odd_shared, list(SHARED), tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("key", ["plain.mp4", "cut_half.mp4", "missing.mp4", "too_many_bytes.mp4", "pipe.mp4"])
def test_without_processes_of_its_own_the_same_comes_of_a_file(odd: Path, key: str) -> None:
    media = Media(odd, "pyav", isolate="inline", limits=LIMITS)
    try:
        media.probe(key)
        found = RIGHT
    except MediaError as error:
        found = type(error).__name__
    assert found == EXPECTED[key].pyav
