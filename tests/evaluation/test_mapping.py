"""Rows of the benchmarks that a mapping is at hand for, in their published layouts; and rows that are wrong."""

from __future__ import annotations

import csv
import json
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vista_train.config import load_settings
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.mapping import ColumnMapping, known_mappings, mapping_file, read_rows
from vista_train.video.composition import Clip

ROWS = {
    "video_mme": {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Astronomy",
        "url": "https://example.org",
        "videoID": "abc",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "How many are seen?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
        "answer": "C",
    },
    "mlvu": {
        "video": "movie_1.mp4",
        "duration": 480.0,
        "question": "How many are seen?",
        "candidates": ["One.", "Two.", "Three.", "Four."],
        "answer": "Three.",
        "question_type": "count",
    },
    "lvbench": {
        "key": "abc",
        "type": "sport",
        "video_info": {"duration_minutes": 40},
        "qa": [
            {
                "uid": "7",
                "question": "How many are seen?\n(A) One.\n(B) Two.\n(C) Three.\n(D) Four.",
                "answer": "C",
                "question_type": ["reasoning", "entity recognition"],
                "time_reference": "00:10-00:20",
            },
            {"uid": "8", "question": "And now?\n(A) No\n(B) Yes", "answer": "B", "question_type": ["reasoning"]},
        ],
    },
    "longvideobench": {
        "video_id": "abc",
        "question": "How many are seen?",
        "candidates": ["One.", "Two.", "Three.", "Four.", "N/A"],
        "correct_choice": 2,
        "question_category": "S2E",
        "id": "abc_0",
        "video_path": "abc.mp4",
        "duration_group": 60,
    },
    "mvbench": {
        "video": "abc.mp4",
        "question": "How many are seen?",
        "candidates": ["One.", "Two.", "Three.", "Four."],
        "answer": "Three.",
        "start": 1.5,
        "end": 4.0,
    },
    "next_qa": {
        "video": 4010069381,
        "frame_count": 369,
        "question": "How many are seen?",
        "answer": 2,
        "qid": 6,
        "type": "CH",
        **{f"a{n}": word for n, word in enumerate(("One.", "Two.", "Three.", "Four.", "Five."))},
    },
}
PATHS = {
    "video_mme": ("001-1", "data/abc.mp4"),
    "mlvu": ("0", "movie_1.mp4"),
    "lvbench": ("abc-7", "abc.mp4"),
    "longvideobench": ("abc_0", "videos/abc.mp4"),
    "mvbench": ("0", "abc.mp4"),
    "next_qa": ("4010069381-6", "4010069381.mp4"),
}
GROUPS = {
    "video_mme": {"duration": "short", "domain": "Knowledge", "task_type": "Counting Problem"},
    "mlvu": {"question_type": "count"},
    "lvbench": {"type": "sport", "qa.question_type": "reasoning, entity recognition"},
    "longvideobench": {"duration_group": "60", "question_category": "S2E"},
    "mvbench": {},
    "next_qa": {"type": "CH"},
}


class AnyFootage(Footage):
    """Every file is there, and lasts 10 s."""

    def __init__(self) -> None:
        super().__init__(None)  # type: ignore[arg-type]

    def clip(self, key: str) -> Clip:
        return Clip(key, 0, 10, 64, 48)


def known(name: str) -> ColumnMapping:
    return load_settings(mapping_file(name), ColumnMapping)


def plain(**changes) -> ColumnMapping:
    settings = {"name": "test", "video": "{file}", "question": "q", "options": "o", "answer": "a", **changes}
    return ColumnMapping(**settings)


def asked(mapping: ColumnMapping, *rows: dict):
    return list(mapping.questions(rows, AnyFootage()))


def test_there_is_a_mapping_for_each():
    assert known_mappings() == sorted(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_a_published_row_becomes_a_question(name):
    first = asked(known(name), ROWS[name])[0]
    assert (first.key, first.video.path) == PATHS[name]
    assert first.groups == GROUPS[name]
    assert first.text == "How many are seen?"
    assert first.options[:4] == ("One.", "Two.", "Three.", "Four.")
    assert len(first.options) == (5 if name == "next_qa" else 4)
    assert first.options[first.right] == "Three."
    text = first.prompt().messages[0].content
    assert text.count("Three.") == 1
    assert f"{'(C)' if name == 'lvbench' else 'C.'} Three." in text


def test_a_row_with_several_questions_is_several():
    first, second = asked(known("lvbench"), ROWS["lvbench"])
    assert (second.key, second.text, second.options, second.right) == ("abc-8", "And now?", ("No", "Yes"), 1)
    assert second.video == first.video


def test_a_part_of_a_video_is_cut_out():
    (cut,) = asked(known("mvbench"), ROWS["mvbench"])
    assert (cut.video.start, cut.video.end) == (Fraction(3, 2), 4)
    (whole,) = asked(known("mvbench"), {**ROWS["mvbench"], "start": None, "end": None})
    assert whole.video.duration == 10
    (outside,) = asked(known("mvbench"), {**ROWS["mvbench"], "start": 12, "end": 14})
    assert outside.video is None
    assert outside.failure == "its part, 12..14 s, lies outside the video, which lasts 10 s"


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
def test_rows_are_read_from_any_of_the_files(tmp_path, ending):
    rows = [{"file": f"{n}.mp4", "q": "Which?", "o": ["x", "y"], "a": "B"} for n in range(3)]
    path = tmp_path / f"rows.{ending}"
    match ending:
        case "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        case "json":
            path.write_text(json.dumps(rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "csv":
            with path.open("w", newline="") as stream:
                writer = csv.DictWriter(stream, ["file", "q", "o", "a"])
                writer.writeheader()
                writer.writerows([{**row, "o": json.dumps(row["o"])} for row in rows])
    found = asked(plain(), *read_rows(path))
    assert [(one.key, one.options, one.right, one.video.path) for one in found] == [
        (str(n), ("x", "y"), 1, f"{n}.mp4") for n in range(3)
    ]


@pytest.mark.parametrize(
    ("changed", "row", "told"),
    [
        ({}, {"a": "12"}, "row 0: a is '12'; it must be a letter"),
        ({}, {"a": "C"}, "option 2 is right, but there are 2"),
        ({}, {"o": "x"}, "row 0: o is 'x'; it must be a list of options"),
        ({"answer_is": "index"}, {"a": "one"}, "row 0: a is 'one'; it must be a number from 0"),
        ({"answer_is": "text"}, {"a": "z"}, "row 0: a is 'z'; it must be the words of an option"),
        ({"question": "asked"}, {}, "row 0: there is no column 'asked'; there are file, q, o, a"),
        ({"video": "{a.b}.mp4"}, {}, "row 0: there is no column 'a.b'"),
        ({"each": "q"}, {}, r"row 0: q is 'Which\?'; it must be a list of questions"),
        ({"options": ()}, {}, "has 0 options"),
    ],
)
def test_wrong_rows_are_named(changed, row, told):
    with pytest.raises(ValueError, match=told):
        asked(plain(**changed), {"file": "0.mp4", "q": "Which?", "o": ["x", "y"], "a": "A", **row})


def test_a_mapping_is_read_strictly(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nvideo: '{file}'\nquestion: q\nanswers: a\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: answers: unknown key; did you mean 'answer'"):
        load_settings(path, ColumnMapping)
    path.write_text("name: mine\nvideo: '{file}'\nquestion: q\nanswer_is: word\n")
    with pytest.raises(ValueError, match=r"answer_is is 'word'; it must be 'letter', 'index' or 'text'"):
        load_settings(path, ColumnMapping)
    path.write_text("name: mine\nvideo: '{file}'\nquestion: q\nprompt: hello\n")
    with pytest.raises(ValueError, match="prompt is 'hello'; it must hold"):
        load_settings(path, ColumnMapping)
    assert mapping_file(str(path)) == path
    with pytest.raises(ValueError, match="--mapping is 'video-mme'; it must be a YAML file, or one of longvideobench"):
        mapping_file("video-mme")


def test_wrong_files_are_named(tmp_path):
    for name, text, told in (
        ("rows.txt", "", r"the name ends in '\.txt'"),
        ("rows.json", "{}", "must hold a list of objects"),
        ("rows.jsonl", "{", "rows.jsonl: Expecting"),
        ("rows.parquet", "x", "rows.parquet: "),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=told):
            read_rows(tmp_path / name)
    with pytest.raises(ValueError, match="there is no such file"):
        read_rows(tmp_path / "no.json")
