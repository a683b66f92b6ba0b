"""Every kind of bad or odd file with every reader: the right pictures, or one error that says so."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.media.kinds import EXPECTED, FAILURES, MADE, RIGHT, SAID, SHARED, UNLISTED, UNSTEADY, WRONG
from tests.media.outcome import inspected, outcome
from tests.media.spoilt import SPOILT
from tests.media.table import shown
from tests.media.written import WRITTEN
from vista_train.data import ledger
from vista_train.types import Failure
from vista_train.video.decode import READERS
from vista_train.video.media import Media

MediaOf = Callable[[str], Media]


def check(media: Media, key: str, path: Path) -> None:
    """What comes of a file is what the table says, and an error is one line of a ledger."""
    expected = EXPECTED[key].of(media.reader)
    found, error = outcome(media, key)
    if (media.reader, key) in UNSTEADY and found == RIGHT:
        return
    reason = "" if error is None else error.reason
    assert found == expected, f"{key!r} with {media.reader}: {found} ({reason}), where {expected} is expected"
    if error is None:
        return
    assert error.path == key
    assert reason
    assert media.reader != "pyav" or SAID.get(key, "") in reason
    assert reason.isprintable()
    assert str(media.root) not in reason
    assert "/proc" not in reason
    failure = Failure(3, 0, error.path, f"{found}: {reason}")
    ledger.append(path, [failure])
    assert path.read_bytes().count(b"\n") == 1
    assert ledger.read(path) == [failure]
    assert failure.kind == found


def test_every_kind_has_its_line_in_the_table():
    assert list(MADE) == [*WRITTEN, *SPOILT]
    assert len(MADE) >= 150


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", MADE, ids=shown)
def test_a_file_gives_what_the_table_says(medias: MediaOf, tmp_path: Path, key: str, reader: str) -> None:
    check(medias(reader), key, tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", SHARED)
def test_a_shared_file_gives_what_the_table_says(
    odd_shared: Path, medias: MediaOf, tmp_path: Path, key: str, reader: str
) -> None:
    check(medias(reader), key, tmp_path / "ledger.jsonl")


@pytest.mark.parametrize("key", MADE, ids=shown)
def test_inspecting_finds_what_the_table_says(medias: MediaOf, key: str) -> None:
    assert inspected(medias("pyav"), key) == EXPECTED[key].of("inspect")


@pytest.mark.parametrize("key", SHARED)
def test_inspecting_a_shared_file_finds_what_the_table_says(odd_shared: Path, medias: MediaOf, key: str) -> None:
    assert inspected(medias("pyav"), key) == EXPECTED[key].of("inspect")


def test_the_default_reader_never_shows_a_wrong_picture() -> None:
    assert [key for key, expected in EXPECTED.items() if expected.of("pyav") not in (RIGHT, *FAILURES)] == []


@pytest.mark.parametrize("reader", sorted(UNLISTED))
def test_wrong_pictures_are_of_kinds_that_are_known(reader: str) -> None:
    """Each is in the reader's own list or in the table's, and the table's has no more than it needs."""
    said = {expected.said(reader) for expected in EXPECTED.values() if expected.of(reader) == WRONG}
    try:
        known = set(importlib.import_module(f"vista_train.video.decode.{reader}").KNOWN_WRONG)
    except ImportError as error:
        pytest.skip(str(error))
    assert said - known == set(UNLISTED[reader])
