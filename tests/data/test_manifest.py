"""Manifests: what a line may say, how a wrong one is told, and how the checked rows are kept."""

from __future__ import annotations

import json
import re

import pytest

from vista_train.data import manifest as module
from vista_train.data.manifest import LineCheck, line_of, open_manifest
from vista_train.data.sidecars import publish

GOOD = {"video": "a.mp4", "caption": "A dog runs."}


def written(tmp_path, *lines):
    path = tmp_path / "m.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def column(manifest, name):
    return manifest.rows().data.table[name].to_pylist()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"caption": "x"}, "video is missing; it must be a string"),
        ({"video": "a.mp4"}, "caption is missing; it must be a string"),
        (GOOD | {"caption": None}, "caption is missing; it must be a string"),
        (GOOD | {"caption": " \n "}, "caption is empty; it must say something"),
        (GOOD | {"caption": 7}, "caption is 7; it must be a string"),
        (GOOD | {"caption": "\ud800"}, "caption holds half a surrogate pair"),
        (GOOD | {"source": ""}, "source is empty"),
        (GOOD | {"video": "/etc/passwd"}, "video is '/etc/passwd'; it must be a path under the data root"),
        (GOOD | {"video": "a/../../b.mp4"}, "video is 'a/../../b.mp4'; it must be a path under"),
        (GOOD | {"video": "https://host/a.mp4"}, "video is 'https://host/a.mp4'; it must be a path under"),
        (GOOD | {"video": "a\0.mp4"}, "video is 'a\\x00.mp4'; it must be a path under"),
        (GOOD | {"start": -0.5}, "start is -0.5; it must be a number, 0 or more"),
        (GOOD | {"source_start": -1}, "source_start is -1; it must be a number, 0 or more"),
        (GOOD | {"start": 5, "end": 5}, "end is 5.0, start is 5.0; end must be after start"),
        (GOOD | {"end": "5"}, "end is '5'; it must be a number"),
        (GOOD | {"end": True}, "end is True; it must be a number"),
        (GOOD | {"duration": 0}, "duration is 0; it must be a number, above 0"),
        (GOOD | {"fps": -25}, "fps is -25; it must be a number, above 0"),
        (GOOD | {"width": 12.5}, "width is 12.5; it must be a whole number, above 0"),
        (GOOD | {"height": 10**400}, "height is not finite; it must be a whole number"),
        (json.dumps(GOOD)[:-1] + ', "end": NaN}', "line holds NaN, which is not JSON"),
        (json.dumps(GOOD)[:-1] + ', "end": -Infinity}', "line holds -Infinity, which is not JSON"),
        (json.dumps(GOOD)[:-1] + ', "end": 1e999}', "end is not finite; it must be a number"),
        (json.dumps(GOOD)[:-1], "line is not JSON ("),
        ("[" * 100_000, "line is not JSON that can be read: it is nested too deeply"),
        ("[1, 2]", "line is [1, 2]; it must be a JSON object"),
        (GOOD | {"qa": "no"}, "qa is 'no'; it must be a list of objects"),
        (GOOD | {"qa": ["no"]}, "qa[0] is 'no'; it must be an object"),
        (GOOD | {"qa": [{"question": "q", "answer": "a"}, {"question": "q"}]}, "qa[1].answer is missing"),
        (GOOD | {"qa": [{"question": "q", "answer": "a", "distractors": "b"}]}, "qa[0].distractors is 'b'; it must be"),
        (GOOD | {"qa": [{"question": "q", "anwser": "a"}]}, "qa[0].anwser is not a key of a manifest; did you mean"),
        (GOOD | {"captions": "x"}, "captions is not a key of a manifest; did you mean `caption`?"),
    ],
)
def test_a_wrong_line_is_told_by_file_line_and_key(tmp_path, line, message):
    path = written(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        open_manifest(path, tmp_path / "cache")


def test_several_wrong_lines_are_told_together_up_to_five(tmp_path):
    bad = {"video": "a.mp4"}
    path = written(tmp_path, bad, "   ", GOOD, "", bad, GOOD, *[bad] * 10)
    with pytest.raises(ValueError, match="caption is missing") as caught:
        open_manifest(path, tmp_path / "cache")
    told = [line.split(":")[-2] for line in str(caught.value).splitlines()]
    assert told == ["1", "5", "7", "8", "9"]
    assert not list((tmp_path / "cache" / "manifests").iterdir())


def test_bytes_that_are_not_text_are_told(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"video": "\xff.mp4"}\n')
    with pytest.raises(ValueError, match=r"m.jsonl:2: line is not UTF-8 text"):
        open_manifest(path, tmp_path / "cache")


def test_a_line_over_one_megabyte_is_told_and_one_just_under_is_read(tmp_path):
    room = module.MAX_LINE_BYTES - len(json.dumps(GOOD | {"caption": ""})) - 1
    fits, too_long = GOOD | {"caption": "x" * room}, GOOD | {"caption": "x" * (room + 1)}
    assert len(column(open_manifest(written(tmp_path, fits), tmp_path / "cache"), "caption")[0]) == room
    with pytest.raises(ValueError, match=r"m.jsonl:2: line is longer than 1 MB"):
        open_manifest(written(tmp_path, GOOD, too_long), tmp_path / "cache")


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_an_empty_manifest_has_no_clips(tmp_path, lines):
    with pytest.raises(ValueError, match="no clips"):
        open_manifest(written(tmp_path, *lines), tmp_path / "cache")


def test_a_manifest_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"manifest .*none.jsonl is not a file"):
        open_manifest(tmp_path / "none.jsonl", tmp_path / "cache")


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ("captions", "caption"),
        ("Caption", "caption"),
        ("vidoe", "video"),
        ("videos", "video"),
        ("starts", "start"),
        ("ends", "end"),
        ("sorce", "source"),
        ("source_strat", "source_start"),
        ("widht", "width"),
        ("hieght", "height"),
        ("durration", "duration"),
        ("fp", "fps"),
        ("qas", "qa"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_right_one(key, right):
    with pytest.raises(ValueError, match=f"^{key} is not a key of a manifest; did you mean `{right}`"):
        LineCheck().row(json.dumps(GOOD | {key: 1}).encode())


def test_ordinary_foreign_keys_pass():
    foreign = """num_frames provenance bytes pix_fmt note codec licence license id video_id videoid source_id source_url
    caption_en captioner weight score language size text title audio bitrate frame_rate sha256 view tags kind"""
    row = LineCheck().row(json.dumps(GOOD | dict.fromkeys(foreign.split(), 1)).encode())
    assert row[:3] == ("a.mp4", "A dog runs.", "a.mp4")


def test_defaults_nulls_and_whitespace(tmp_path):
    full = {
        "video": "b/c.mp4",
        "caption": "  A cat.\n",
        "start": 1,
        "end": 2.5,
        "source": "film",
        "source_start": 0,
        "duration": 9,
        "width": 640.0,
        "height": 480,
        "fps": 29.97,
        "qa": [{"question": "What?", "answer": "A cat.", "distractors": ["A dog."]}, {"question": "q", "answer": "a"}],
    }
    manifest = open_manifest(written(tmp_path, GOOD | {"end": None, "qa": []}, full), tmp_path / "cache")
    assert column(manifest, "caption") == ["A dog runs.", "A cat."]
    assert column(manifest, "source") == ["a.mp4", "film"]
    assert column(manifest, "start") == [0.0, 1.0]
    assert column(manifest, "end") == [None, 2.5]
    assert column(manifest, "source_start") == [None, 0.0]
    assert column(manifest, "width") == [None, 640.0]
    assert column(manifest, "qa")[0] is None
    assert json.loads(column(manifest, "qa")[1])[1] == {"question": "q", "answer": "a", "distractors": []}
    assert manifest.unprobed().to_pylist() == ["a.mp4"]


def test_only_files_with_something_open_are_to_be_probed_each_once(tmp_path):
    known = {"duration": 9.0, "width": 64, "height": 48, "fps": 25}
    lines = [GOOD | {"video": f"{name}.mp4"} | known for name in "abcdef"]
    lines[1].pop("fps")
    lines[2].pop("width")
    lines[3].pop("height")
    lines[4].pop("duration")
    lines[5] = lines[5] | {"end": 3.0}
    lines[5].pop("duration")
    manifest = open_manifest(written(tmp_path, *lines, lines[1] | {"start": 1}), tmp_path / "cache")
    assert manifest.unprobed().to_pylist() == ["b.mp4", "c.mp4", "d.mp4", "e.mp4"]


def test_batches_hold_every_row_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    monkeypatch.setattr(module, "BATCH_BYTES", 2000)
    lines = [GOOD | {"caption": f"Clip {number}."} for number in range(23)]
    lines[10] = lines[10] | {"note": "n" * 2000}
    manifest = open_manifest(written(tmp_path, " " * 3000, *lines), tmp_path / "cache")
    assert column(manifest, "caption") == [f"Clip {number}." for number in range(23)]
    assert [len(chunk) for chunk in manifest.rows().data.table["video"].chunks] == [1, 7, 3, 7, 5]


def test_rows_know_their_lines(tmp_path):
    path = written(tmp_path, "", GOOD, "  ", "", GOOD, GOOD)
    assert [line_of(path, row) for row in range(3)] == [2, 5, 6]


def test_a_second_open_reads_no_line_again_and_a_changed_file_is_read_anew(tmp_path, monkeypatch):
    path = written(tmp_path, GOOD)
    first = open_manifest(path, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(LineCheck, "row", lambda *_: pytest.fail("a line was read again"))
        assert open_manifest(path, tmp_path / "cache") == first
    written(tmp_path, GOOD, GOOD)
    second = open_manifest(path, tmp_path / "cache")
    assert (len(first.rows()), len(second.rows())) == (1, 2)
    assert first.sha256 != second.sha256
    written(tmp_path, GOOD, GOOD | {"caption": "A cat runs."})
    assert column(open_manifest(path, tmp_path / "cache"), "caption")[1] == "A cat runs."


@pytest.mark.parametrize("lost", ["done.json", "rows.arrow", "order.npy"])
def test_a_cache_that_is_not_whole_is_built_anew(tmp_path, lost):
    path = written(tmp_path, GOOD)
    first = open_manifest(path, tmp_path / "cache")
    (first.folder / lost).unlink()
    assert column(open_manifest(path, tmp_path / "cache"), "video") == ["a.mp4"]
    assert [file.name for file in first.folder.parent.iterdir()] == [first.key]


def test_who_loses_the_race_to_build_takes_the_winner_s_folder(tmp_path):
    folder = tmp_path / "sidecar"

    def fast(building):
        (building / "x").write_text("fast")
        return {}

    def slow(building):
        assert publish(folder, fast) == folder
        (building / "x").write_text("slow")
        return {}

    assert publish(folder, slow) == folder
    assert (folder / "x").read_text() == "fast"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_manifest_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path, GOOD)
    row = LineCheck.row

    def grow(check, line, where):
        with path.open("a") as stream:
            stream.write("\n")
        return row(check, line, where)

    monkeypatch.setattr(LineCheck, "row", grow)
    with pytest.raises(ValueError, match="the manifest changed while it was read"):
        open_manifest(path, tmp_path / "cache")


def test_the_cache_stands_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("VISTA_TRAIN_CACHE", str(tmp_path / "elsewhere"))
    manifest = open_manifest(written(tmp_path, GOOD))
    assert manifest.folder.is_relative_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="set VISTA_TRAIN_CACHE to a folder that can be written"):
        open_manifest(tmp_path / "m.jsonl", tmp_path / "file" / "cache")
