"""What is asked: each clip, and the rows of clips that training would draw."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from vista_train.augment import LongVideoCaption
from vista_train.augment.temporal import long_enough
from vista_train.data import casting
from vista_train.data.manifest import open_manifest
from vista_train.data.sources import ClipSource
from vista_train.synthesis.tasks import Asking, Tasks


@pytest.fixture
def odd(tmp_path):
    """Sixty clips of six recordings, of 2 to 30 s, with gaps of 0 to 9 s, in no order; one recording is of files."""
    rng = np.random.default_rng(5)
    lines = []
    for recording in range(6):
        at = 0.0
        for number in range(10):
            seconds = float(rng.integers(20, 300)) / 10
            known = {"caption": f"{recording} {number}", "width": 160, "height": 120, "fps": 10}
            if recording == 5:
                lines.append(known | {"video": f"5-{number}.mp4", "source": "five", "duration": seconds})
            else:
                span = {"start": round(at, 1), "end": round(at + seconds, 1), "duration": 900.0}
                lines.append(known | {"video": f"{recording}.mp4"} | span)
            at += seconds + float(rng.choice([0, 0, 1.5, 5, 9]))
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(lines[index]) + "\n" for index in rng.permutation(60)))
    return path


@pytest.mark.parametrize("settings", [{}, {"min_seconds": 45.0, "max_clips": 3, "max_gap_seconds": 0.0}])
def test_rows_are_those_that_training_draws(odd, tmp_path, settings):
    source = ClipSource(odd, tmp_path, tmp_path / "cache")
    (role,) = LongVideoCaption(**settings).roles
    drawn = set()
    for row in range(len(source)):
        clips = casting.window(role, source, row)
        if len(clips) >= 2:
            drawn.add(tuple(clip.caption for clip in long_enough({"clip": clips}, role.min_seconds)))
    manifest = open_manifest(odd, tmp_path / "cache")
    tasks = Tasks(manifest, Asking(("story",), overlapping=True, **settings))
    asked = [tuple(tasks[number].captions) for number in range(len(tasks))]
    assert len(asked) == len(set(asked)) > 20
    assert set(asked) == drawn
    # One after another they are some of these, and every clip that is in any is in one of them.
    apart = Tasks(manifest, Asking(("order",), **settings))
    chosen = [tuple(apart[number].captions) for number in range(len(apart))]
    assert set(chosen) < drawn
    covered = Counter(caption for captions in chosen for caption in captions)
    assert set(covered) == {caption for captions in drawn for caption in captions}
    assert sum(covered.values()) < 1.6 * len(covered)


def test_tasks_are_counted_and_found_by_row(odd, tmp_path):
    manifest = open_manifest(odd, tmp_path / "cache")
    tasks = Tasks(manifest, Asking())
    by_number = [tasks[number] for number in range(len(tasks))]
    by_row = [task for row in range(60) for task in tasks.of_row(row)]
    assert Counter(by_number) == Counter(by_row)
    assert max(Counter(by_number).values()) == 1
    assert all(task.rows[0] == row for row in range(60) for task in tasks.of_row(row))
    with pytest.raises(IndexError):
        tasks[len(tasks)]
    few = Tasks(manifest, Asking(limit=7))
    assert [task for row in range(60) for task in few.of_row(row)] == [
        task for row in range(7) for task in tasks.of_row(row)
    ]
    assert len(few) == sum(1 for row in range(7) for _ in tasks.of_row(row))


def test_clips_of_unknown_length_are_in_no_row(tmp_path):
    lines = [{"video": f"{n}.mp4", "caption": f"Clip {n}.", "source": "s", "source_start": 10.0 * n} for n in range(4)]
    lines[0]["end"] = lines[1]["duration"] = lines[3]["end"] = 10.0
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = Tasks(open_manifest(path, tmp_path / "cache"), Asking(("story", "needle")))
    assert tasks.num_unknown == 1
    assert [task.rows for task in (tasks[n] for n in range(len(tasks))) if task.kind == "story"] == [(0, 1)]
    assert len(tasks) == 5


def test_of_words_nothing_is_asked_and_pictures_are_in_no_row(tmp_path):
    known = {"source": "s", "caption": "x", "duration": 4.0}
    names = ["a.mp4", "b.mp4", "c.png", "d.mp4", None, "e.mp4", "f.mp4"]
    lines = [known | {"video": name} for name in names]
    lines[4] = {"video": None, "source": "s", "qa": [{"question": "Why?", "answer": "So."}]}
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = Tasks(open_manifest(path, tmp_path / "cache"), Asking(("story", "needle")))
    asked = [(task.kind, task.rows) for task in (tasks[number] for number in range(len(tasks)))]
    assert [rows for kind, rows in asked if kind == "story"] == [(0, 1), (5, 6)]
    assert [rows for kind, rows in asked if kind == "needle"] == [(0,), (1,), (2,), (3,), (5,), (6,)]
    assert sorted((task.kind, task.rows) for row in range(7) for task in tasks.of_row(row)) == sorted(asked)
    assert list(tasks.of_row(4)) == []


def test_a_key_names_all_that_an_answer_depends_on(odd, tmp_path):
    tasks = Tasks(open_manifest(odd, tmp_path / "cache"), Asking(("needle", "choice")))
    first, second = tasks[0], tasks[1]
    key = first.key("m", 0.7, 3)
    assert key == first.key("m", 0.7, 3)
    others = {second.key("m", 0.7, 3), first.key("n", 0.7, 3), first.key("m", 0.8, 3), first.key("m", 0.7, 4)}
    assert len(others | {key, tasks[60].key("m", 0.7, 3)}) == 6
    # How many needle questions there are to be is nothing to other kinds.
    assert tasks[60].key("m", 0.7, 3) == tasks[60].key("m", 0.7, 4)


@pytest.mark.parametrize(
    "wrong",
    [{"kinds": ()}, {"kinds": ("poem",)}, {"kinds": ("story", "story")}, {"pairs": 0}, {"max_clips": 1}, {"limit": 0},
     {"min_seconds": -1}, {"max_gap_seconds": -1}],
)  # fmt: skip
def test_settings_that_cannot_be_meant(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        Asking(**wrong)
