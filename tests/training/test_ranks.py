"""What processes tell one another: alone, in two processes, and when one of them is gone."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed

from vista_train.training.ranks import LostRankError, Ranks, lost
from vista_train.training.report import Agreed, Calls, Report, Wait
from vista_train.types import Encoded, Failure, Row

FACTS = [("torch", "2.9"), ("the plan of the samples", "abc")]


class Told(Ranks):
    """One rank of several, which hears what a test says."""

    def __init__(self, heard: Sequence[Any]) -> None:
        self.heard = list(heard)

    def gathered(self, told: Any) -> list[Any]:
        return [told, *self.heard]


def two_ranks(rank: int, folder: str) -> None:
    """What each of two processes does; the second one goes without a word, and the first one tells what it heard."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    ranks = Ranks()
    found = {
        "world": [ranks.rank, ranks.count],
        "gathered": ranks.gathered({"rank": rank}),
        "tables": ranks.tables(np.full((2, 3), rank + 0.5)[:, ::-1]).tolist(),
        "alike": ranks.same(FACTS),
        "unlike": ranks.same([("torch", f"2.{9 + rank}"), FACTS[1]]),
    }
    ranks.barrier()
    if rank == 1:
        os._exit(0)
    try:
        ranks.gathered("is anybody there?")
    except LostRankError as error:
        found["lost"] = [str(error), type(error.__cause__).__name__]
    try:
        ranks.tables(np.zeros((1, 1)))
    except LostRankError:
        found["planning"] = "lost, too"
    Path(folder, "found.json").write_text(json.dumps(found))
    os._exit(0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=two_ranks, args=(rank, str(folder))) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
    return json.loads((folder / "found.json").read_text())


def test_alone_a_rank_hears_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    ranks = Ranks()
    table = np.arange(6.0).reshape(3, 2)
    assert (ranks.rank, ranks.count, ranks.on_this_machine) == (0, 1, 1)
    assert ranks.gathered("word") == ["word"]
    assert np.array_equal(ranks.tables(table), table[None])
    assert ranks.same(FACTS) == ""
    ranks.barrier()


@pytest.mark.distributed
@pytest.mark.xdist_group("launches")
def test_two_processes_hear_each_other_in_rank_order(found: dict[str, Any]) -> None:
    assert found["world"] == [0, 2]
    assert found["gathered"] == [{"rank": 0}, {"rank": 1}]
    assert found["tables"] == [[[0.5] * 3] * 2, [[1.5] * 3] * 2]
    assert found["alike"] == ""
    assert found["unlike"] == "torch is 2.9 on rank 0, but 2.10 on rank 1"


@pytest.mark.distributed
@pytest.mark.xdist_group("launches")
def test_one_that_is_gone_is_told_in_a_sentence(found: dict[str, Any]) -> None:
    told, cause = found["lost"]
    assert told.startswith("another process of the run is gone or does not answer (")
    assert cause == "RuntimeError" or cause.startswith("Dist")
    assert found["planning"] == "lost, too"


def test_ranks_that_differ_are_named_for_each_fact() -> None:
    others = [[("torch", "2.9"), FACTS[1]], [("torch", "2.8"), ("the plan of the samples", "abd")]]
    others += [[("torch", "2.8"), FACTS[1]]]
    assert Told(others).same(FACTS) == (
        "torch is 2.9 on rank 0, but 2.8 on rank 2, 3; the plan of the samples is abc on rank 0, but abd on rank 2"
    )


def test_of_many_ranks_eight_are_named() -> None:
    others = [[("torch", "2.8"), FACTS[1]] for _ in range(11)]
    assert Told(others).same(FACTS) == "torch is 2.9 on rank 0, but 2.8 on rank 1, 2, 3, 4, 5, 6, 7, 8, ..."
    assert Told(others[:8]).same(FACTS).endswith("7, 8")


@pytest.mark.parametrize(
    ("said", "brief"),
    [
        ("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:4242", "Connection closed by peer"),
        ("[enforce fail at x.cc:1] Read error [::1]:5: Connection reset by peer", "Connection reset by peer"),
        ("NCCL error: remote process exited or there was a network error\nand its stack", "a network error)"),
        ("Timed out waiting 1800000ms for recv operation to complete", "(Timed out waiting 1800000ms"),
    ],
)
def test_a_broken_connection_is_a_lost_rank(said: str, brief: str) -> None:
    error = lost(RuntimeError(said))
    assert isinstance(error, LostRankError)
    assert brief in str(error)
    assert "goes on from its newest checkpoint" in str(error)
    assert "stack" not in str(error)


def test_other_errors_are_none_and_one_told_already_stays() -> None:
    assert lost(RuntimeError("mat1 and mat2 cannot be multiplied")) is None
    assert lost(RuntimeError("")) is None
    told = LostRankError("another process of the run is gone")
    assert lost(told) is told


def row(*lengths: int, first: int = 0) -> Row:
    """Samples of so many labels each, and one token that has none."""
    samples = []
    for number, length in enumerate(lengths):
        ids = torch.arange(length + 1)
        labels = torch.where(ids > 0, ids, -100)
        frames_TCHW = torch.zeros((number, 3, 2, 2), dtype=torch.uint8)
        lost_one = Failure(first + number, 0, "a.mp4", "broken")
        samples.append(Encoded(first + number, "made", ids, labels, frames_TCHW, failures=(lost_one,)))
    return Row.packed(samples)


def report(*rows: Row, **more: Any) -> Report:
    family: Any = SimpleNamespace(
        tower_passes=lambda row: (len(row.shown), row.num_frames),
        mlp_tiles=lambda row: 1 + row.num_tokens // 1000,
        codec=SimpleNamespace(flops=lambda row: 2.0 * row.num_tokens),
    )
    return Report.of(rows, family, more.pop("wait", Wait()), **more)


def test_a_report_counts_what_its_rows_need() -> None:
    told = report(row(1024, 1), row(1024, first=5), row(), row(5, 5, 5, first=9))
    assert (told.labels, told.tokens, told.frames) == (2064, 2070, 4)
    assert told.head_calls == (2, 1, 1, 1)
    assert told.tower_passes == ((1, 1), (0, 0), (0, 0), (2, 3))
    assert told.mlp_tiles == (2, 2, 1, 1)
    assert told.samples == ((0, 1), (5,), (), (9, 10, 11))
    assert [failure.position for failure in told.failures] == [0, 1, 5, 9, 10, 11]


def test_what_ranks_agree_on_is_what_the_one_that_needs_most_says() -> None:
    waits = [Wait(0.5, (1,), 0), Wait(2.0, (7,), 1), Wait(1.0, (), 2)]
    first = report(row(2000), row(3, first=1), wait=waits[0])
    second = report(row(4, 4, 4, first=2), row(), wait=waits[1], stop="SIGTERM", is_saving=True)
    third = report(row(), row(1, 1, first=7), wait=waits[2], stop="SIGINT")
    agreed = Agreed((first, second, third))
    assert agreed.calls == [Calls(2, (2, 3), 3), Calls(1, (1, 1), 1)]
    assert (agreed.labels, agreed.tokens, agreed.frames) == (2017, 2024, 4)
    assert [failure.position for failure in agreed.failures] == [0, 1, 2, 3, 4, 7, 8]
    assert agreed.longest == waits[1]
    assert agreed.stop == (1, "SIGTERM")
    assert agreed.is_saving
    assert not Agreed((first,)).is_saving
    assert Agreed((first, first)).stop is None


def test_ranks_with_unlike_numbers_of_rows_are_named_with_their_samples() -> None:
    """Each would else wait for ever for the micro-step that the other has not."""
    alike, odd = report(row(1), row(1)), report(row(1, 1, first=30), row(1, first=41), row())
    with pytest.raises(ValueError, match="every rank must bring as many") as raised:
        Agreed((alike, alike, odd))
    assert "rank 0 brings 2 rows to the step, rank 2 3 (of samples [[30, 31], [41], []])" in str(raised.value)
    with pytest.raises(ValueError, match=r"rank 0 brings 2 rows to the step, rank 1 0 \(of samples \[\]\)"):
        Agreed((alike, report()))
