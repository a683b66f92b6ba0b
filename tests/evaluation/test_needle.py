"""Where needles lie, what is asked of them, and what a guesser, an oracle and an untrained model score."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.evaluation.players import Guesser, Oracle
from vista_train.augment.questions import normal
from vista_train.data.sources import ClipSource
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.heatmap import heat_map
from vista_train.evaluation.needle import NeedleTest, UnseenError, casts, trial
from vista_train.types import Message, Sample
from vista_train.video.composition import Clip
from vista_train.video.media import Media
from vista_train.video.render import render, render_view

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MEDIA = Media(".", isolate="inline")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def cells(test: NeedleTest, made, codec):
    return [
        (length, depth, trial(test, cast, length, depth, codec))
        for length in test.lengths_seconds
        for depth in test.depths
        for cast in made
    ]


def knowing(test: NeedleTest, made, codec) -> Oracle:
    right = {}
    for _, _, one in cells(test, made, codec):
        right[one.open.key] = 0
        for shift in range(test.options):
            right[f"{one.choice.key}#{shift}"] = one.choice.right_after(shift)
    return Oracle(right, codec)


@pytest.mark.parametrize(
    "view",
    [
        {"frames": 8},
        {"frames": 64},
        {"frames": 12, "sampling": "linspace_ends"},
        {"frames": 64, "sampling": "fps", "fps": 1.0},
        {"frames": 64, "sampling": "fps", "fps": 2.0, "min_visible": 3},
    ],
)
def test_the_needle_is_on_the_frames_at_every_length_and_depth(coloured_clips, codec, view):
    chosen = codec(**view)
    test = NeedleTest((6, 20, 45), DEPTHS, trials=3)
    for length, depth, one in cells(test, casts(test, coloured_clips, MEDIA, rng()), chosen):
        video, span = one.choice.video, one.evidence.span
        assert video.duration == length
        assert span.end - span.start == 2
        for messages, answer in ((one.open.messages, one.open.candidates[0]), (one.choice.prompt().messages, "A")):
            times = chosen.plan(Sample(video, (*messages, Message("assistant", answer)), (), "x")).times
            assert sum(time in span for time in times) >= chosen.view.min_visible
        wanted = Fraction(str(depth)) * (length - 2)
        assert abs(span.start - wanted) == one.moved * (length - 2)
        assert one.moved <= Fraction(1, 8)
        if view == {"frames": 64}:
            # Frames this dense pass no needle by: it lies where it was asked for.
            assert one.moved == 0


def test_the_frames_show_the_needle_where_the_evidence_says_and_nowhere_else(coloured_clips, codec):
    chosen = codec(frames=10)
    test = NeedleTest((30,), DEPTHS, trials=2)
    seen = []
    for _, _, one in cells(test, casts(test, coloured_clips, MEDIA, rng(1)), chosen):
        video = one.choice.video
        needle = next(part for part, at in zip(video.parts, video.spans(), strict=True) if at == one.evidence.span)
        times = chosen.view.times(video.duration, video.frame_measure)
        frames_TCHW = render_view(video, times, chosen.view)
        colour_C = needle.frames_TCHW[0, :, 0, 0]
        is_needle = [torch.equal(frame_CHW[:, 28, 28], colour_C) for frame_CHW in frames_TCHW]
        assert is_needle == [time in one.evidence.span for time in times]
        seen.append(is_needle.index(True))
    # Two trials a depth, depth by depth: the deeper, the later.
    assert seen == sorted(seen)
    assert (len(seen), len(set(seen)), seen[0], seen[-1]) == (10, 5, 0, 9)


def test_a_trial_is_the_same_in_every_cell_but_for_place_and_length(coloured_clips, codec):
    test = NeedleTest((8, 30), DEPTHS, trials=4)
    made = casts(test, coloured_clips, MEDIA, rng(2))
    assert len({cast.needle.path for cast in made}) == 4
    by_number: dict[str, set] = {}
    for _, _, one in cells(test, made, codec()):
        number = one.choice.key.split("/")[-1]
        said = (one.open.messages, one.open.candidates, one.choice.text, one.choice.options, one.choice.right)
        by_number.setdefault(number, set()).add(said)
    assert [len(said) for said in by_number.values()] == [1, 1, 1, 1]
    again = casts(test, coloured_clips, MEDIA, rng(2))
    assert again == made
    assert casts(test, coloured_clips, MEDIA, rng(3)) != made


def test_options_are_equal_in_kind_and_the_haystack_never_holds_the_needle(coloured_clips, codec):
    test = NeedleTest((40,), (0.5,), trials=16)
    made = casts(test, coloured_clips, MEDIA, rng(4))
    captions = {f"{clip.caption}." for clip in coloured_clips}
    answers = {clip.qa[0].answer for clip in coloured_clips if clip.qa}
    kinds = set()
    for (_, _, one), cast in zip(cells(test, made, codec()), made, strict=True):
        options = one.choice.options
        assert len({normal(option) for option in options}) == 4
        assert options[one.choice.right] == one.open.candidates[0]
        assert set(options) <= captions or set(options) <= answers
        kinds.add(set(options) <= captions)
        others = [part.path for part in one.choice.video.clips() if part.path != cast.needle.path]
        assert len(others) == len(one.choice.video.parts) - 1
        assert not {clip.path for clip in cast.absent} & set(others)
    assert kinds == {True, False}
    # Places of the right option are spread evenly: always saying one letter scores what chance gives.
    assert np.bincount([cast.letter for cast in made]).tolist() == [4, 4, 4, 4]


def test_a_stride_that_is_too_long_is_said_and_not_scored(coloured_clips, codec):
    chosen = codec(frames=2)
    test = NeedleTest((4, 60), DEPTHS, trials=2)
    made = casts(test, coloured_clips, MEDIA, rng())
    keys = [(f"{length}s/{depth:g}/{n}", n) for length in (4, 60) for depth in DEPTHS for n in (0, 1)]
    oracle = Oracle({f"{key}/open": 0 for key, _ in keys} | {f"{key}#0": made[n].letter for key, n in keys}, chosen)
    found = heat_map(test, made, Answers(oracle))
    unseen = {(cell.length_seconds, cell.depth) for cell in found.cells if cell.unseen}
    # Frames at 15 and 45 s: of the rows, only those at a quarter and at three quarters are near one.
    assert unseen == {(60, 0.0), (60, 0.5), (60, 1.0)}
    for cell in found.cells:
        assert bool(cell.unseen) == (cell.choice is None) == (cell.exact is None)
    assert "frames are 30 s apart: no needle of 2 s is on 1 of them within 0.125 of depth 0.5" in {
        cell.unseen for cell in found.cells
    }
    assert found.overall("choice").share == found.overall("exact").share == 1
    assert found.overall("choice").count == 7 * 2


def test_frames_dropped_for_their_tokens_are_taken_account_of(coloured_clips, codec):
    """With room for six frames, a needle goes where those six show it."""
    chosen = codec(max_tokens=400, frames=64)
    test = NeedleTest((60,), DEPTHS, trials=2)
    for _, _, one in cells(test, casts(test, coloured_clips, MEDIA, rng()), chosen):
        assert one.frames < 64
        for messages, answer in ((one.open.messages, one.open.candidates[0]), (one.choice.prompt().messages, "A")):
            times = chosen.plan(Sample(one.choice.video, (*messages, Message("assistant", answer)), (), "x")).times
            assert any(time in one.evidence.span for time in times)


def test_too_small_a_needle_is_unseen(coloured_clips, codec):
    test = NeedleTest((8,), (0.5,), trials=1)
    (cast,) = casts(test, coloured_clips, MEDIA, rng())
    with pytest.raises(UnseenError, match="56x42 px on the canvas, is not on 1 of 8 frames at 50 px or more"):
        trial(test, cast, 8, 0.5, codec(frames=8, min_pixels=50))


def test_an_image_needle_is_one_picture_held(world, codec):
    media = Media(world, isolate="inline")
    clips = [*ClipSource(world / "clips.jsonl", media)]
    test = NeedleTest((16,), (0.5,), trials=2, kind="image", needle_seconds=3)
    made = casts(test, clips, media, rng())
    chosen = codec(frames=32)
    for cast in made:
        one = trial(test, cast, 16, 0.5, chosen)
        assert cast.needle.frames_TCHW.shape[0] == 1
        assert one.evidence.span.end - one.evidence.span.start == 3
        video = one.choice.video
        times = [time for time in chosen.view.times(video.duration, video.frame_measure) if time in one.evidence.span]
        frames_TCHW = render_view(video, times, chosen.view, media)
        assert len(times) == 6
        assert all(torch.equal(frame_CHW, frames_TCHW[0]) for frame_CHW in frames_TCHW)
        source = next(clip for clip in clips if clip.caption == cast.needle.caption)
        middle = render(source, [source.duration / 2], source.size, media=media)
        assert torch.equal(middle, cast.needle.frames_TCHW)


@pytest.mark.parametrize("shifted", [False, True])
def test_an_oracle_finds_every_needle(coloured_clips, codec, shifted):
    chosen = codec(frames=8)
    test = NeedleTest((8, 24), DEPTHS, trials=4, shifted=shifted)
    made = casts(test, coloured_clips, MEDIA, rng())
    found = heat_map(test, made, Answers(knowing(test, made, chosen)))
    assert [(cell.choice.share, cell.exact.share, cell.choice.count) for cell in found.cells] == [(1, 1, 4)] * 10
    assert all(cell.frames == (8, 8) for cell in found.cells)


def test_a_guesser_finds_what_chance_predicts(coloured_clips, codec):
    test = NeedleTest((8, 16), DEPTHS, trials=30)
    made = casts(test, coloured_clips, MEDIA, rng())
    found = heat_map(test, made, Answers(Guesser(codec(frames=8))))
    overall = found.overall("choice")
    assert (found.chance, overall.count) == (0.25, 300)
    assert overall.interval[0] <= 0.25 <= overall.interval[1]
    inside = [cell.choice.interval[0] <= 0.25 <= cell.choice.interval[1] for cell in found.cells]
    assert sum(inside) >= 9
    assert found.overall("exact").right == 0


def test_an_untrained_model_stays_near_chance_however_it_is_batched(coloured_clips, tiny):
    scorer = tiny()
    test = NeedleTest((8, 16), (0.0, 1.0), trials=8)
    made = casts(test, coloured_clips, MEDIA, rng())
    found = heat_map(test, made, Answers(scorer, batch=1))
    overall = found.overall("choice")
    assert overall.interval[0] <= 0.25 <= overall.interval[1]
    assert found.overall("exact").right == 0
    scorer.max_row_tokens = 100_000
    assert heat_map(test, made, Answers(scorer, batch=16)) == found


@pytest.mark.parametrize("kind", ["video", "image"])
def test_lost_media_count_as_wrong_and_are_shown(coloured_clips, tiny, codec, kind):
    """Every needle whose file is gone is in the count of its cell."""
    clips = [replace(clip, path=f"gone-{n}.mp4", frames_TCHW=None, qa=()) for n, clip in enumerate(coloured_clips)]
    test = NeedleTest((8,), (0.0, 1.0), trials=4, kind=kind)
    made = casts(test, clips, MEDIA, rng())
    found = heat_map(test, made, Answers(tiny()))
    for cell in found.cells:
        assert (cell.choice.right, cell.choice.count, cell.choice.failed) == (0, 4, 4)
        assert cell.exact == cell.choice
    assert found.failed == 8


def test_too_few_clips_are_an_error(coloured_clips):
    test = NeedleTest((8,), (0.5,), trials=3)
    with pytest.raises(ValueError, match="0 of 3 clips can be needles, and trials is 3"):
        casts(test, coloured_clips[:3], MEDIA, rng())
    silent = [replace(clip, caption="", qa=()) for clip in coloured_clips]
    with pytest.raises(ValueError, match="0 of 40 clips can be needles"):
        casts(test, silent, MEDIA, rng())
    alike = [replace(clip, caption="the same", qa=()) for clip in coloured_clips]
    with pytest.raises(ValueError, match="0 of 40 clips can be needles"):
        casts(test, alike, MEDIA, rng())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lengths_seconds": ()}, "at least one length"),
        ({"lengths_seconds": (16, 8)}, "lengths are 16, 8; they must rise"),
        ({"depths": (0.0, 1.5)}, "depths are 0, 1.5; they must lie in 0..1"),
        ({"trials": 0}, "trials is 0"),
        ({"kind": "text"}, "needle is 'text'; it must be video or image"),
        ({"needle_seconds": 5}, "needle_seconds is 5; .* half of the shortest length, 8 s"),
        ({"options": 1}, "options is 1"),
    ],
)
def test_wrong_settings_are_told(changed, told):
    with pytest.raises(ValueError, match=told):
        NeedleTest(**{"lengths_seconds": (8,), **changed})


def test_a_clip_of_its_own_length_is_a_needle_as_long(coloured_clips, codec):
    short = [Clip.from_frames(clip.frames_TCHW[:4], 1, clip.caption) for clip in coloured_clips]
    test = NeedleTest((8,), (0.5,), trials=2)
    for _, _, one in cells(test, casts(test, short, MEDIA, rng()), codec()):
        assert one.evidence.span.end - one.evidence.span.start == 1
