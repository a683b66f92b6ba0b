"""Published files become manifests: a test a layout on small files in it, and which clips are taken."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vista_train.cli import main
from vista_train.data.layouts import LAYOUTS, Layout, seconds
from vista_train.data.manifest import open_manifest
from vista_train.data.reading import Reading

KEYS = ("video", "caption", "source", "start", "end", "duration", "fps")


def rows(path: object, reading: Reading, root: Path = Path(".")) -> list[dict]:
    manifest = open_manifest(path, reading=reading, root=root)  # type: ignore[arg-type]
    found = manifest.rows().data.table.to_pylist()
    return [{key: value for key, value in row.items() if value not in (None, "")} for row in found]


def table(path: Path, lines: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def as_lines(path: Path, entries: list) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_panda70m_has_a_row_a_video_and_lists_in_its_cells(tmp_path: Path) -> None:
    path = table(
        tmp_path / "panda70m_training_2m.csv",
        [
            {
                "videoID": "--C_7sHF8vk",
                "url": "https://www.youtube.com/watch?v=--C_7sHF8vk",
                "timestamp": "[['0:00:09.676', '0:00:17.433'], ['0:01:02.5', '1:00:05.005']]",
                "caption": """['A man\\'s "dog", running.', 'A hill.']""",
                "matching_score": "[0.48, 0.51]",
            },
            {"videoID": "b", "url": "u", "timestamp": "[['0:00:01', '0:00:02']]", "caption": "['One', 'Two']"},
        ],
    )
    reading = Reading("panda70m", {"video": "videos/{videoID}.mp4"})
    found = rows(path, reading)
    assert [[row[key] for key in KEYS[:5]] for row in found] == [
        ["videos/--C_7sHF8vk.mp4", 'A man\'s "dog", running.', "--C_7sHF8vk", 9.676, 17.433],
        ["videos/--C_7sHF8vk.mp4", "A hill.", "--C_7sHF8vk", 62.5, 3605.005],
    ]
    ((where, reason),) = open_manifest(path, reading=reading).refused
    assert where == f"{path}:3"
    assert "timestamp[] 1" in reason
    assert "caption[] 2" in reason


def test_internvid_openvid_and_miradata(tmp_path: Path) -> None:
    path = as_lines(
        tmp_path / "InternVid-10M-flt.jsonl",
        [
            {
                "YoutubeID": "xyz", "Start_timestamp": "00:07:33.689", "End_timestamp": "00:07:51.085",
                "Caption": "a goat", "Aesthetic_Score": 4.29, "UMT_Score": 0.4,
            }
        ],
    )  # fmt: skip
    assert rows(path, Reading("internvid")) == [
        {"video": "xyz.mp4", "caption": "a goat", "source": "xyz", "start": 453.689, "end": 471.085}
    ]
    path = table(
        tmp_path / "OpenVid-1M.csv",
        [
            {
                "video": "celebv_x_1_0to120.mp4", "caption": "A woman, talking.", "aesthetic score": "5.1",
                "motion score": "", "temporal consistency score": "0.99", "camera motion": "static", "frame": "120",
                "fps": "23.976", "seconds": "5.005",
            }
        ],
    )  # fmt: skip
    (row,) = rows(path, Reading("openvid1m"))
    assert (row["video"], row["duration"], row["fps"]) == ("celebv_x_1_0to120.mp4", 5.005, 23.976)
    path = table(
        tmp_path / "miradata.csv",
        [
            {
                "clip_id": "7.2", "source": "youtube", "video_url": "u", "video_id": "v7", "width": "1280",
                "height": "720", "fps": "24", "seconds": "72.5", "short_caption": "s", "dense_caption": "long",
            }
        ],
    )  # fmt: skip
    (row,) = rows(path, Reading("miradata", {"caption": "short_caption"}))
    assert (row["video"], row["caption"], row["source"], row["width"], row["duration"]) == (
        "7.2.mp4", "s", "v7", 1280.0, 72.5,
    )  # fmt: skip


FINE = {
    "original_video_filename": "fine/a.mp4",
    "duration_seconds": 62,
    "content_metadata": {
        "description": "A day at the harbour.",
        "qAndA": [{"question": "What is unloaded?", "answer": "Fish."}],
        "scenes": [
            {"activities": [
                {"description": "Boats come in.",
                 "timestamp": {"start_timestamp": "00:00:00.000", "end_timestamp": "00:00:20.500"}},
                {"description": "Men shout.",
                 "timestamp": {"start_timestamp": "00:00:21", "end_timestamp": "00:00:30"}},
            ]},
            {"activities": [
                {"description": "Fish is sold.",
                 "timestamp": {"start_timestamp": "00:00:30", "end_timestamp": "00:01:02"}},
            ]},
        ],
    },
}  # fmt: skip


def test_finevideo_whole_and_by_its_activities(tmp_path: Path) -> None:
    (tmp_path / "fine.json").write_text(json.dumps([FINE]))
    (row,) = rows(tmp_path / "fine.json", Reading("finevideo"))
    assert (row["video"], row["caption"], row["duration"]) == ("fine/a.mp4", "A day at the harbour.", 62)
    assert json.loads(row["qa"])[0]["answer"] == "Fish."
    inside = "content_metadata.scenes[].activities[]."
    columns = {
        "video": "original_video_filename",
        "caption": inside + "description",
        "start": inside + "timestamp.start_timestamp",
        "end": inside + "timestamp.end_timestamp",
    }
    found = rows(tmp_path / "fine.json", Reading("columns", columns))
    assert [(row["caption"], row["start"], row["end"]) for row in found] == [
        ("Boats come in.", 0, 20.5),
        ("Men shout.", 21, 30),
        ("Fish is sold.", 30, 62),
    ]


def test_parquet_shards_are_read_without_the_videos_in_them(tmp_path: Path, monkeypatch) -> None:
    for shard in range(2):
        data = {"mp4": [b"x" * 1000] * 3, "clip": [f"{shard}_{at}.mp4" for at in range(3)], "text": ["A cat."] * 3}
        pq.write_table(pa.table(data), tmp_path / f"train-0000{shard}-of-00002.parquet")
    asked = []
    batches = pq.ParquetFile.iter_batches

    def noted(self, *args, **kwargs):
        asked.append(kwargs["columns"])
        return batches(self, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    reading = Reading("columns", {"video": "clip", "caption": "text"})
    found = [row["video"] for row in rows(tmp_path, reading)]
    assert found == [row["video"] for row in rows(tmp_path / "train-*.parquet", reading)]
    assert found == ["0_0.mp4", "0_1.mp4", "0_2.mp4", "1_0.mp4", "1_1.mp4", "1_2.mp4"]
    assert asked == [["clip", "text"]] * 4


def test_llava_and_sharegpt_conversations(tmp_path: Path) -> None:
    talk = [
        {"from": "human", "value": "<video>\nWhat happens?"},
        {"from": "gpt", "value": "A dog runs."},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": "On a beach."},
    ]
    entries = [
        {"id": "1", "video": "a.mp4", "conversations": talk},
        {"id": "2", "image": "b.jpg", "conversations": talk[:2]},
        {"id": "3", "video": "c.mp4", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who? <video>"},
            {"role": "assistant", "content": "A man."},
        ]},
        {"id": "4", "video": "d.mp4", "conversations": talk[1:]},
        {"id": "5", "conversations": talk[:2]},
        {"id": "6", "video": "e.mp4", "conversations": [{"from": "human", "value": "<video><video>"}, talk[1]]},
        {"id": "7", "video": "f.mp4", "conversations": [{"from": "narrator", "value": "x"}, talk[1]]},
    ]  # fmt: skip
    (tmp_path / "mix.json").write_text(json.dumps(entries))
    reading = Reading("llava")
    found = rows(tmp_path / "mix.json", reading)
    assert [row["video"] for row in found] == ["a.mp4", "b.jpg", "c.mp4"]
    assert json.loads(found[0]["qa"]) == [
        {"question": "What happens?", "answer": "A dog runs.", "distractors": []},
        {"question": "Where?", "answer": "On a beach.", "distractors": []},
    ]
    assert json.loads(found[2]["qa"])[0]["question"] == "Who?"
    refused = open_manifest(tmp_path / "mix.json", reading=reading).refused
    assert [where.rsplit(":", 1)[1] for where, _ in refused] == ["3", "4", "5", "6"]
    for (_, reason), part in zip(refused, ("human to gpt", "video is missing", "2 videos", "'narrator'"), strict=True):
        assert part in reason


def test_vista400k_and_videochat2(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "What is in the 3rd row?"}, {"from": "gpt", "value": "A mower."}]
    (tmp_path / "hr.json").write_text(json.dumps([{"image": "hr_video_grid_qa/x.mp4", "conversations": talk}]))
    (row,) = rows(tmp_path / "hr.json", Reading("vista400k", {"video": "VISTA/{image}"}))
    assert (row["video"], json.loads(row["qa"])[0]["answer"]) == ("VISTA/hr_video_grid_qa/x.mp4", "A mower.")
    entries = [
        {"video": "k400/a.mp4", "QA": [{"i": "Choose.", "q": "What? (A) run (B) sit", "a": "(A) run"}]},
        {"video": "vg/b.mp4", "start": 3.5, "end": 7.25, "QA": [{"i": "Describe it.", "q": "", "a": "A cat sits."}]},
    ]
    (tmp_path / "vc2.json").write_text(json.dumps(entries))
    first, second = rows(tmp_path / "vc2.json", Reading("videochat2"))
    assert json.loads(first["qa"])[0]["question"] == "Choose.\nWhat? (A) run (B) sit"
    assert (second["start"], second["end"]) == (3.5, 7.25)
    assert json.loads(second["qa"])[0] == {"question": "Describe it.", "answer": "A cat sits.", "distractors": []}


def test_a_folder_of_clips_with_captions_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "00000"
    folder.mkdir()
    for name in ("0_0.mp4", "0_1.mp4", "0_2.MP4", "0_3.webm"):
        (folder / name).write_bytes(b"")
    (folder / "0_0.txt").write_text("A dog.\n")
    (folder / "0_1.json").write_text(json.dumps({"caption": "A cat.", "clip": [1, 2]}))
    (folder / "0_3.json").write_text("{")
    reading = Reading("folder")
    found = rows(tmp_path, reading, tmp_path)
    assert [(row["video"], row["caption"]) for row in found] == [
        ("00000/0_0.mp4", "A dog."),
        ("00000/0_1.mp4", "A cat."),
    ]
    refused = open_manifest(tmp_path, reading=reading, root=tmp_path).refused
    assert [Path(where).name for where, _ in refused] == ["0_2.MP4", "0_3.webm"]
    assert "caption is missing" in refused[0][1]
    with pytest.raises(ValueError, match="below the data root"):
        open_manifest(tmp_path, reading=reading, root=folder)


def test_a_data_set_by_name_is_streamed(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    as_lines(folder / "train.jsonl", [{"file": f"{at}.mp4", "text": f"Clip {at}.", "more": 1} for at in range(3)])
    reading = Reading("columns", {"video": "file", "caption": "text"})
    assert [row["caption"] for row in rows(f"hub:{folder}", reading)] == ["Clip 0.", "Clip 1.", "Clip 2."]
    with pytest.raises(ValueError, match="hub:no-such-owner/no-such-set cannot be had"):
        open_manifest("hub:no-such-owner/no-such-set", reading=reading)


def clips(tmp_path: Path, number: int = 400) -> Path:
    lines = [{"video": f"{at}.mp4", "caption": "x", "source": f"s{at // 2}"} for at in range(number)]
    return as_lines(tmp_path / "m.jsonl", lines)


def test_held_out_sources_are_whole_and_the_rest_is_all_else(tmp_path: Path) -> None:
    path = clips(tmp_path)
    train = rows(path, Reading(held_out=0.25))
    held = rows(path, Reading(held_out=0.25, part="held_out"))
    assert len(train) + len(held) == 400
    assert not {row["source"] for row in train} & {row["source"] for row in held}
    assert 60 < len(held) < 140
    assert {row["source"] for row in held} <= {
        row["source"] for row in rows(path, Reading(held_out=0.5, part="held_out"))
    }


def test_limit_and_share(tmp_path: Path) -> None:
    path = clips(tmp_path)
    assert [row["video"] for row in rows(path, Reading(limit=3))] == ["0.mp4", "1.mp4", "2.mp4"]
    half = rows(path, Reading(share=0.5))
    assert 120 < len(half) < 280
    assert len({row["source"] for row in half}) * 2 == len(half)
    plain, limited = open_manifest(path), open_manifest(path, reading=Reading(limit=3))
    assert plain.key != limited.key
    assert plain.sha256 != limited.sha256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "panda"}, "format is 'panda'; choose one of manifest, columns, folder, panda70m"),
        ({"format": "columns"}, "columns names no `video`"),
        ({"columns": {"video": "x"}}, "columns are given, but format is 'manifest'"),
        ({"share": 0}, "share is 0; it must lie above 0"),
        ({"held_out": 1}, "held_out is 1; it must be 0 or more, and below 1"),
        ({"part": "held_out"}, "nothing is held out"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_a_reading_that_cannot_be_meant_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading(**settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: an empty file"),
        ("b.csv", 'video,caption\n"a.mp4,x', "b.csv:.*not CSV"),
        ("c.csv", b"video,caption\na.mp4,\xff\n", "c.csv:.*not CSV in UTF-8"),
        ("d.json", "{}", "d.json: a dict; it must be a list"),
        ("e.parquet", "no", "e.parquet: not parquet"),
        ("f.txt", "no", "files of .txt"),
        ("g.csv", "video,caption\na.mp4\n", "g.csv: no clips.*1 were refused, the first at .*g.csv:2: 1 cells"),
        ("h.jsonl", "{\n", "1 were refused, the first at .*h.jsonl:1: line is not JSON"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        open_manifest(path, reading=Reading("columns", {"video": "video", "caption": "caption"}))


@pytest.mark.parametrize("video", ["../x.mp4", "/etc/passwd", "https://host/x.mp4", "a\x00b.mp4"])
def test_a_published_file_cannot_name_what_lies_outside_the_root(tmp_path: Path, video: str) -> None:
    entries = [{"video": video, "caption": "x"}, {"video": "a.mp4", "caption": "y"}]
    path = as_lines(tmp_path / "a.jsonl", entries)
    reading = Reading("columns", {"video": "video", "caption": "caption"})
    assert [row["video"] for row in rows(path, reading)] == ["a.mp4"]
    ((_, reason),) = open_manifest(path, reading=reading).refused
    assert "must be a path under the data root" in reason


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [{"v": "a.mp4", "c": "x"}])
    reading = Reading("columns", {"video": "v", "caption": "c"})
    assert len(rows(path, reading)) == 1
    table(path, [{"v": "a.mp4", "c": "x"}, {"v": "b.mp4", "c": "y"}])
    assert len(rows(path, reading)) == 2


@pytest.mark.parametrize(
    ("text", "number"), [("1:02.5", 62.5), ("01:00:00", 3600), ("9.25", 9.25), (7, 7), ("0:00:09.676", 9.676)]
)
def test_times_are_seconds_or_a_clock(text: object, number: float) -> None:
    assert seconds(text, "start") == number


def test_every_layout_names_keys_of_a_manifest() -> None:
    known = {"video", "caption", "source", "start", "end", "duration", "fps", "width", "height", "qa", "span"}
    assert all(set(columns) <= known and "video" in columns for columns in LAYOUTS.values())
    assert list(Layout({"video": "b"}).lines({"a": 1})) == [{}]


def test_import_writes_a_manifest_that_reads_the_same(tmp_path: Path, capsys) -> None:
    path = table(
        tmp_path / "clips.csv", [{"file": "a.mp4", "text": "A dog.", "from": "0:02", "to": "0:05"}, {"file": ""}]
    )
    out = tmp_path / "clips.jsonl"
    columns = ["video=videos/{file}", "caption=text", "start=from", "end=to"]
    assert main(["import", str(path), str(out), *[part for column in columns for part in ("--column", column)]]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"1 clips in {out}, 1 left out:\n  {path}:3: ")
    assert json.loads(out.read_text()) == {
        "video": "videos/a.mp4", "caption": "A dog.", "source": "videos/a.mp4", "start": 2.0, "end": 5.0,
    }  # fmt: skip
    assert rows(out, Reading()) == rows(path, Reading("columns", dict(column.split("=") for column in columns)))
    assert main(["import", str(path), str(out), "--column", "video"]) == 2
    assert "write key=column" in capsys.readouterr().err


NESTED = {"s": [{"title": "A", "a": []}, {"title": "B", "a": [{"t": 0}, {"t": 5}]}], "caps": "cat"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video": "v", "caption": "s[].title", "start": "s[].a[].t"}, "lists within lists that are not the same"),
        ({"video": "{s[].title}.mp4"}, "a list cannot be put together"),
        ({"video": "v", "caption": "caps[]|cap"}, "a list cannot be put together, or chosen"),
    ],
)
def test_columns_that_would_mix_clips_up_are_refused(columns: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reading("columns", columns)


def test_what_is_missing_in_a_list_moves_nothing() -> None:
    layout = Layout({"video": "v", "caption": "s[].a[].c", "start": "s[].a[].t"})
    record = {"v": "x.mp4", "s": [{"a": [{"c": "one", "t": 1}]}, {}, {"a": None}, {"a": [{"c": "two", "t": 2}]}]}
    assert [(line["caption"], line["start"]) for line in layout.lines(record)] == [("one", 1), ("two", 2)]
    with pytest.raises(ValueError, match="start is empty in entry 1"):
        list(layout.lines({"v": "x.mp4", "s": [{"a": [{"c": "one", "t": 1}, {"c": "two"}]}]}))
    with pytest.raises(ValueError, match="holds 'cat'; it must be a list"):
        list(Layout({"video": "v", "caption": "caps[]"}).lines(NESTED))


@pytest.mark.parametrize("empty", ["Start_timestamp", "End_timestamp", "YoutubeID"])
def test_a_time_or_name_that_is_empty_is_no_time_at_all(tmp_path: Path, empty: str) -> None:
    whole = {"YoutubeID": "x", "Start_timestamp": "0:01", "End_timestamp": "0:03", "Caption": "A goat."}
    path = table(tmp_path / "x.csv", [whole, whole | {empty: ""}])
    assert len(rows(path, Reading("internvid"))) == 1
    assert len(open_manifest(path, reading=Reading("internvid")).refused) == 1


def test_hostile_cells_are_refused_one_by_one(tmp_path: Path) -> None:
    good = {"videoID": "a", "timestamp": "[[0, 1]]", "caption": "['x']"}
    cells = ["[" * 100_000, "{[]:1}", "-" * 100_000 + "1", "__import__('os')", "[[0, None]]", "[[1_0, 2_0]]"]
    path = table(tmp_path / "x.csv", [good, *(good | {"timestamp": cell} for cell in cells[:5]), good])
    assert len(rows(path, Reading("panda70m"))) == 2
    assert len(open_manifest(path, reading=Reading("panda70m")).refused) == 5


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("v,c,c\na.mp4,one,two\n")
    with pytest.raises(ValueError, match="two columns are called 'c'"):
        open_manifest(tmp_path / "x.csv", reading=Reading("columns", {"video": "v", "caption": "c"}))


def test_openvid_clips_of_one_recording_are_held_out_together(tmp_path: Path) -> None:
    lines = [
        {"video": f"id_{number:02d}_{scene}_0to{20 + scene}.mp4", "caption": "x", "fps": "24", "seconds": "2"}
        for number in range(40)
        for scene in range(4)
    ]
    path = table(tmp_path / "o.csv", lines)
    train, held = (rows(path, Reading("openvid1m", held_out=0.3, part=part)) for part in ("train", "held_out"))
    assert len(train) + len(held) == 160
    assert held
    assert not {row["source"] for row in train} & {row["source"] for row in held}
    assert len({row["source"] for row in [*train, *held]}) == 40


def test_captions_beside_videos_are_small_plain_files(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("not a caption")
    folder = tmp_path / "root"
    folder.mkdir()
    for name in ("good", "link", "pipe", "large", "deep"):
        (folder / f"{name}.mp4").write_bytes(b"")
    (folder / "good.txt").write_text("A dog.")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "pipe.txt")
    (folder / "large.txt").write_text("x" * (1 << 20))
    (folder / "deep.json").write_text("[" * 100_000)
    assert [row["caption"] for row in rows(folder, Reading("folder"), folder)] == ["A dog."]
    assert len(open_manifest(folder, reading=Reading("folder"), root=folder).refused) == 4


def test_an_import_spoils_nothing(tmp_path: Path, capsys) -> None:
    path = table(tmp_path / "a[1].csv", [{"v": "a\x1b[31m.mp4", "c": "x"}, {"v": "b.mp4", "c": "y"}])
    columns = ["--column", "video=v", "--column", "caption=c"]
    assert main(["import", *columns, str(path), str(path)]) == 2
    assert main(["import", *columns, str(path), str(tmp_path / "none" / "m.jsonl")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["import", *columns, str(path), str(tmp_path / "m.jsonl")]) == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
