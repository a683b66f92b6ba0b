"""The study: arms differ in what is shown alone, its exam is what it promises to be, and its intervals are right."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from vista_train.types import Sample

REPO = Path(__file__).parents[2]
POSITIONS = range(120)


@pytest.fixture(scope="module")
def study() -> SimpleNamespace:
    """The study's modules, which are scripts and find each other by their folder."""
    sys.path.insert(0, str(REPO / "scripts" / "study"))
    try:
        names = ("arms", "exam", "lessons", "marks", "paired", "parted", "run", "sizes", "text_only", "world")
        modules: dict[str, ModuleType] = {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(REPO / "scripts" / "study"))
    return SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def place(study: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A small world, its size, and a learner of random weights."""
    folder = tmp_path_factory.mktemp("study")
    size = study.sizes.smoke(study.sizes.CPU)
    study.world.make_world(folder / "world", size, 0, 2)
    learner = folder / "learner"
    learner.mkdir()
    __import__("learner").write_learner(learner, size, study.lessons.study_words(folder / "world"), 0)
    return SimpleNamespace(folder=folder, size=size, learner=learner)


def samples(study: SimpleNamespace, place: SimpleNamespace, arm: str) -> tuple[list[Sample], list[tuple[int, int]]]:
    """The arm's samples, and the frames and labels of each as they are planned."""
    recipe = study.lessons.recipe_of(
        place.size, place.folder / "world", place.learner, place.folder / "out", 0, is_base=False
    )
    family = recipe.make_family()
    dataset = study.lessons.dataset_of(recipe, family, study.arms.arm_of(arm))
    composed = [dataset.planned(position) for position in POSITIONS]
    made = [one.sample for one in composed]
    if arm == "parted":
        made = [dataset.codec.parted(sample) for sample in made]
    return made, [(len(one.plan.times), one.plan.labels) for one in composed]


def words(sample: Sample) -> list[str]:
    return [message.content for message in sample.messages]


def test_arms_differ_in_what_is_shown_alone(study: SimpleNamespace, place: SimpleNamespace) -> None:
    ours, our_costs = samples(study, place, "B")
    padded, costs = samples(study, place, "A2")
    assert costs == our_costs
    assert len({sample.kind for sample in ours}) == 7
    for composed, alone in zip(ours, padded, strict=True):
        assert (composed.kind, composed.shown.duration) == (alone.kind, alone.shown.duration)
        assert words(composed)[0] == words(alone)[0]
        assert len({clip.path for clip in alone.shown.clips()}) == 1
        clip = study.arms.asked_about(composed)
        assert alone.shown.clips()[0].path == clip.path
        if composed.kind == "long_video_caption":
            assert words(alone)[1].count(clip.caption) == len(composed.shown.clips()) > 1
        else:
            assert words(composed) == words(alone)
            # The clip that is shown is the one that the answer is true of.
            assert words(alone)[1] in (clip.caption, *(qa.answer for qa in clip.qa))


def test_one_left_out_and_one_alone_are_made_of_both(study: SimpleNamespace, place: SimpleNamespace) -> None:
    ours, padded = samples(study, place, "B")[0], samples(study, place, "A2")[0]
    without, only = samples(study, place, "C3")[0], samples(study, place, "D3")[0]
    for b, a2, c3, d3 in zip(ours, padded, without, only, strict=True):
        third = b.kind == study.sizes.COMPOSED[2]
        assert (c3, d3) == ((a2, b) if third else (b, a2))


def test_the_blind_are_shown_everything_but_what_they_are_asked_about(
    study: SimpleNamespace, place: SimpleNamespace
) -> None:
    ours, blind = samples(study, place, "B")[0], samples(study, place, "blind")[0]
    for composed, other in zip(ours, blind, strict=True):
        assert words(composed) == words(other)
        assert composed.shown.duration == other.shown.duration
        assert composed.shown.size == other.shown.size
        asked = study.arms.asked_about(composed)
        if composed.kind != "long_video_caption":
            assert asked.path not in {clip.path for clip in other.shown.clips()}


def test_parted_answers_are_those_of_others(study: SimpleNamespace, place: SimpleNamespace) -> None:
    ours, parted = samples(study, place, "B")[0], samples(study, place, "parted")[0]
    assert [words(sample)[0] for sample in ours] == [words(sample)[0] for sample in parted]
    assert [sample.video for sample in ours] == [sample.video for sample in parted]
    kept = sum(words(a)[1] == words(b)[1] for a, b in zip(ours, parted, strict=True))
    # Answers of one word come again by chance, one time in seven or so.
    assert kept < 0.4 * len(ours)
    # Of one kind and question all answers are of one kind, too.
    names = {name.capitalize() for name in (*study.world.NAMES, "grey", "brown", "pink")}
    assert [words(a)[1] in names for a in ours] == [words(b)[1] in names for b in parted]


def test_an_exam_holds_what_it_promises(study: SimpleNamespace, place: SimpleNamespace) -> None:
    items = study.run.exam_of(place.size, place.folder / "world")
    assert Counter(item.skill for item in items).keys() == set(study.exam.SKILLS)
    assert len({item.key for item in items}) == len(items)
    seen = 0
    for item in items:
        assert len(set(item.options)) == 4
        if item.skill != "needle":
            continue
        times = int(item.cell.split("x")[0])
        assert item.video.duration == times * study.sizes.LENGTH == item.without.duration
        (needle,) = {clip.path for clip in item.video.clips()} - {clip.path for clip in item.without.clips()}
        clip = next(clip for clip in item.video.clips() if clip.path == needle)
        assert item.options[item.right] in {qa.answer for qa in clip.qa}
        (host,) = {clip.path: clip for clip in item.without.clips()}.values()
        of_host = {qa.answer for qa in host.qa if qa.question in item.text}
        assert item.is_off_screen == (not of_host & set(item.options))
        seen += not item.is_off_screen
        trained = {line["source"] for line in lines(place.folder / "world", "clips", "haystacks")}
        assert not {clip.source for clip in item.video.clips()} & trained
    assert seen


def test_some_pairs_are_shown_in_the_exam_alone(study: SimpleNamespace, place: SimpleNamespace) -> None:
    def pairs(*names: str) -> set[tuple[str, str]]:
        return {
            tuple(line["caption"].lower().rstrip(".").split(" on ")) for line in lines(place.folder / "world", *names)
        }

    new = {pair for pair in pairs("held_out_clips") if study.world.is_held_out(*pair)}
    assert new
    assert not new & pairs("clips", "haystacks")


def lines(world: Path, *names: str) -> list[dict]:
    return [json.loads(line) for name in names for line in (world / f"{name}.jsonl").read_text().splitlines()]


def test_chance_is_the_middle_of_the_binomial(study: SimpleNamespace) -> None:
    """Of 20 guesses at one in four: P(X <= 1) = 0.0243, P(X <= 2) = 0.0913, P(X <= 8) = 0.9591, P(X <= 9) = 0.9861."""
    assert study.paired.chance_interval(20, 0.25) == (2 / 20, 9 / 20)
    assert study.paired.chance_interval(1, 0.25) == (0, 1)


def test_differences_are_paired_with_the_seed_as_unit(study: SimpleNamespace) -> None:
    def marks(shares: list[float]) -> list:
        return [
            study.marks.Mark(str(number), "needle", "1x/0", False, False, bool(share), share)
            for number, share in enumerate(shares)
        ]

    one = study.paired.difference([marks([1, 1, 1, 0])], [marks([0, 1, 0, 0])])
    # Differences 1, 0, 1, 0: mean 0.5, standard deviation 0.577, of the mean 0.289.
    assert (one.unit, one.mean) == ("question", 0.5)
    assert one.low == pytest.approx(0.5 - 1.96 * math.sqrt(1 / 3) / 2, abs=1e-4)
    ours = [marks([1, 1]), marks([1, 0]), marks([1, 1])]
    theirs = [marks([0, 0]), marks([0, 0]), marks([1, 0])]
    three = study.paired.difference(ours, theirs)
    # By seed 1, 0.5, 0.5: mean 0.667, standard deviation 0.2887; t of two degrees of freedom 4.303.
    assert (three.unit, three.mean) == ("seed", pytest.approx(2 / 3))
    assert three.high - three.mean == pytest.approx(4.303 * 0.28868 / math.sqrt(3), rel=1e-4)
    with pytest.raises(ValueError, match="over the same questions"):
        study.paired.difference([marks([1, 1])], [marks([1])])


@pytest.mark.slow
def test_all_of_it_runs_in_small(tmp_path: Path) -> None:
    """Every stage of the gpu size but most of its arms; a second start does nothing again."""
    command = [
        sys.executable,
        "scripts/study/run.py",
        "--size",
        "gpu",
        "--smoke",
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
    ]
    command += ["--arms", "A", "A2", "B", "C7", "D1", "parted", "blind", "--json"]
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    for _ in range(2):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800, check=False, cwd=REPO)
        assert done.returncode in (0, 1), done.stderr[-3000:]
        assert set(json.loads(done.stdout.splitlines()[-1])["right"]) == {"A", "A2", "B", "C7", "D1", "parted", "blind"}
    assert "of seed" not in done.stdout
    assert {"bars.png", "needles.png", "report.json", "report.txt"} <= {path.name for path in tmp_path.iterdir()}
