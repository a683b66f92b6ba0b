"""When frames are shown, which packets they need, and that a seek must give these packets. No media."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest

from vista_train.video.decode import Wanted
from vista_train.video.decode import pyav as reader
from vista_train.video.decode.packets import Anomaly, PacketIndex, Run, Stamps, plan_gops


def stamps(pts: list[int], keys: set[int], hidden: int = 0) -> list[Stamps]:
    return [Stamps(at, place, place in keys, place >= hidden) for place, at in enumerate(pts)]


def test_plan_of_groups() -> None:
    closed = PacketIndex.of(stamps([0, 2, 1, 3, 5, 4, 6, 8, 7], {0, 3, 6}), Fraction(1, 4), True, True)
    assert plan_gops(closed, [1]) == [Run(0, 2, frozenset({2}))]
    assert plan_gops(closed, [1, 7]) == [Run(0, 2, frozenset({2})), Run(6, 8, frozenset({8}))]
    assert plan_gops(closed, [1, 4]) == [Run(0, 5, frozenset({2, 5}))], "the next group follows: no seek"
    assert plan_gops(closed, [0, 3]) == [Run(0, 0, frozenset({0})), Run(3, 3, frozenset({3}))]
    leading = PacketIndex.of(stamps([0, 1, 4, 2, 3, 5], {0, 2}), Fraction(1, 4), True, True)
    assert plan_gops(leading, [3]) == [Run(0, 4, frozenset({4}))], "shown before its keyframe"
    assert plan_gops(leading, [5]) == [Run(2, 5, frozenset({5}))]


def test_index_of_odd_streams() -> None:
    tick = Fraction(1, 10)
    cut = PacketIndex.of(stamps([-2, -1, 0, 1], {0}, hidden=2), tick, True, False)
    assert (cut.shown_F.tolist(), cut.rank_at(Fraction(0)), cut.rank_at(Fraction(1, 10)), cut.can_seek) == (
        [0, 1],
        0,
        1,
        True,
    )
    twice = PacketIndex.of(stamps([0, 1, 1, 2], {0}), tick, True, False)
    assert (twice.by_pts, twice.can_seek, twice.rank_at(tick)) == (False, False, 2)
    made_up = PacketIndex.of([Stamps(at + 1, at, at == 0, True) for at in range(4)], tick, True, True)
    assert (made_up.by_pts, made_up.can_seek) == (False, False), "B-frames, and yet pts rise as they are decoded"
    only_dts = PacketIndex.of([Stamps(None, at, at == 0, True) for at in range(4)], tick, True, False)
    assert (only_dts.shown_F.tolist(), only_dts.can_seek) == ([0, 1, 2, 3], False)
    assert PacketIndex.of(stamps([3, 0, 4], {0}), tick, True, True).may_start_late
    for packets, reason in (([], "no frame"), ([Stamps(None, None, True, True)], "no times")):
        with pytest.raises(Anomaly, match=reason):
            PacketIndex.of(packets, tick, True, False)


@pytest.mark.parametrize(
    ("given", "phrase"),
    [([2, 3], "does not lead"), ([7, 0, 1, 3], "does not lead"), ([0, 1], "missing after"), ([], "missing after")],
)
def test_packets_after_a_seek_must_be_the_promised_ones(given: list[int], phrase: str) -> None:
    packets = [SimpleNamespace(pts=at, size=1) for at in given]
    container = SimpleNamespace(format=SimpleNamespace(name="mov"), seek=lambda *_, **__: None)
    container.demux = lambda _: iter(packets)
    source = reader.Source(container, SimpleNamespace(codec_context=SimpleNamespace()))  # type: ignore[arg-type]
    index = PacketIndex.of(stamps([0, 1, 2, 3], {0}), Fraction(1, 10), True, False)
    with pytest.raises(Anomaly, match=phrase):
        list(source.run_packets(index, Run(0, 3, frozenset({3}))))


def test_frames_out_of_order_are_an_anomaly() -> None:
    frames = iter([(0, None), (2, None), (1, None)])
    with pytest.raises(Anomaly, match="out of order"):
        list(reader._pictures(frames, {5: [0]}, [Wanted(Fraction(1), 8, 8)]))  # type: ignore[arg-type]


def test_a_damaged_packet_is_an_anomaly() -> None:
    source = reader.Source(SimpleNamespace(), SimpleNamespace(decode=lambda _: []))  # type: ignore[arg-type]
    assert list(source.frames([SimpleNamespace(is_corrupt=False)])) == []  # type: ignore[list-item]
    with pytest.raises(Anomaly, match="packet is damaged"):
        list(source.frames([SimpleNamespace(is_corrupt=True)]))  # type: ignore[list-item]


def test_a_still_picture_lasts_as_long_as_its_packet_says() -> None:
    index = PacketIndex.of([Stamps(0, 0, True, True, 50)], Fraction(1, 10), True, False)
    assert index.last_seconds == 5
    assert index.rank_at(Fraction(5)) == 0


def test_a_keyframe_in_the_window_stands_in_for_the_frame_shown() -> None:
    """Ten frames a second, every fourth a key, B-frames between."""
    pts = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11]
    index = PacketIndex.of(stamps(pts, {0, 4, 8}), Fraction(1, 10), True, True)

    def rank(time: float, start: float, end: float) -> int:
        exact = [Fraction(round(100 * seconds), 100) for seconds in (time, start, end)]
        return index.rank_for(Wanted(exact[0], 8, 8, (exact[1], exact[2])))

    assert rank(0.55, 0.35, 0.75) == 4
    assert rank(0.65, 0.35, 0.85) == 8, "the nearest"
    assert rank(0.65, 0.35, 0.80) == 4, "a window does not hold its end"
    assert rank(0.65, 0.41, 0.80) == 6, "none in the window: the frame shown"
    assert rank(0.05, 0.00, 0.40) == 0
    assert rank(0.39, 0.39, 0.41) == 4, "also one that begins later"
    assert rank(1.15, 0.85, 1.20) == 11
    assert [index.rank_for(Wanted(Fraction(at, 10), 8, 8)) for at in range(12)] == list(range(12))
    wanted = [Wanted(Fraction(6, 10), 8, 8, (Fraction(0), Fraction(9, 10))), Wanted(Fraction(1, 2), 8, 8)]
    assert index.ranks(wanted) == {4: [0], 5: [1]}


@pytest.mark.parametrize("base", [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(7)])
def test_many_times_are_found_at_once_as_one_by_one(base: Fraction) -> None:
    """Also exactly at a frame's first moment, a hair before it, before the first frame, and behind the last."""
    rng = random.Random(3)
    shown = sorted(rng.sample(range(-50, 1000), 40))
    index = PacketIndex.of([Stamps(pts, pts, True, True) for pts in shown], base, can_seek=True, reorders=False)
    index = replace(index, first=3)
    begins = [index.starts_at(rank) for rank in range(len(shown))]
    times = [time + shift for time in begins for shift in (Fraction(0), base / 3, -base / 1000)]
    times += [Fraction(10**9), Fraction(0)]
    found = index.ranks_at(index.ticks(times))
    assert found == [index.rank_at(time) for time in times]
    # By its meaning, in fractions.
    assert found == [max([3, *(rank for rank, begin in enumerate(begins) if begin <= time)]) for time in times]
