"""The ledger: what is lost is written once, can be read after a kill, and is cut back to where a run goes on."""

from __future__ import annotations

import json

import pytest

from vista_train.data import ledger
from vista_train.types import Failure

LEFT_OUT = Failure(ledger.NO_POSITION, 0, "left/out.mp4", "not a video")
LOST = tuple(
    Failure(position, attempt, f"{position}.mp4", 'said "no"\n') for position in (3, 8, 9) for attempt in (0, 1)
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def test_what_is_written_is_read(path):
    ledger.append(path, [LEFT_OUT])
    ledger.append(path, LOST)
    assert ledger.read(path) == [LEFT_OUT, *LOST]


def test_a_line_is_one_attempt_with_its_file_and_reason(path):
    ledger.append(path, LOST[:1])
    (line,) = path.read_text().splitlines()
    assert json.loads(line) == {"position": 3, "attempt": 0, "key": "3.mp4", "reason": 'said "no"\n', "source": ""}


def test_nothing_lost_is_no_file(path):
    ledger.append(path, [])
    assert not path.exists()
    assert ledger.read(path) == []
    ledger.rewind(path, 5)
    assert ledger.known(path, 0) == []
    assert not path.exists()


def test_a_line_cut_short_by_a_kill_is_left_out(path):
    ledger.append(path, LOST[:2])
    whole = path.read_text()
    for end in range(len(whole) // 2 + 1, len(whole) - 1, 7):
        path.write_text(whole[:end])
        assert ledger.read(path) == [LOST[0]]


def test_a_resumed_run_keeps_what_was_lost_before_it(path):
    ledger.append(path, [LEFT_OUT, *LOST])
    ledger.rewind(path, 8)
    assert ledger.known(path, 8) == [*LOST[2:]]
    assert ledger.read(path) == [LEFT_OUT, *LOST[:2]]
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["ledger.jsonl", "ledger.pending.jsonl"]


def test_going_on_behind_the_last_loss_changes_nothing(path):
    ledger.append(path, LOST)
    before = path.read_bytes()
    ledger.rewind(path, 10)
    assert ledger.known(path, 10) == []
    assert path.read_bytes() == before


def test_starting_over_leaves_no_ledger(path):
    ledger.append(path, LOST)
    ledger.rewind(path, 8)
    ledger.rewind(path, 0)
    assert ledger.known(path, 0) == []
    assert not path.exists()


def test_what_a_resumed_run_has_yet_to_come_to_survives_its_kill(path):
    """Resumed, killed at once, resumed again, and once more from further back."""
    ledger.append(path, LOST)
    ledger.rewind(path, 8)
    ledger.rewind(path, 8)
    assert ledger.known(path, 8) == [*LOST[2:]]
    ledger.append(path, LOST[2:3])
    assert ledger.known(path, 8) == [*LOST[2:]]
    ledger.rewind(path, 2)
    assert sorted(ledger.known(path, 2), key=lambda lost: lost.position) == [*LOST]


def test_rewinding_mends_a_line_cut_short(path):
    """What is appended next would else be lost with it."""
    ledger.append(path, LOST[:2])
    path.write_text(path.read_text()[:-9])
    ledger.rewind(path, 100)
    ledger.append(path, LOST[2:3])
    assert ledger.read(path) == [LOST[0], LOST[2]]


def test_a_rewind_that_was_killed_does_no_harm(path):
    ledger.append(path, LOST)
    path.with_suffix(".rewound").write_text("half a li")
    ledger.rewind(path, 9)
    assert ledger.read(path) == [*LOST[:4]]
