"""Check before you train: what is refused and what is written anew, once a file, stopped and continued to the byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from vista_train.cli import main
from vista_train.data.check import Interrupted, check_manifest, shard_of
from vista_train.data.findings import members_of
from vista_train.data.journal import Draft, Journal
from vista_train.data.sources import ClipSource
from vista_train.video.decode import Inspected, Limits, MediaTooLarge, MediaUnreadable
from vista_train.video.media import Media

FOUND = Inspected(Fraction(1001, 100), 320, 240, Fraction(30000, 1001), 300)
TRUE = {"duration": 10.01, "width": 320, "height": 240, "fps": 30000 / 1001, "num_frames": 300}
LISTED = ("width", "height", "fps", "num_frames")


class Stub:
    """An inspection that counts its calls, finds `FOUND` in all files but those told otherwise, and can take time."""

    def __init__(self, seconds: float = 0.0, **says: Inspected | Exception) -> None:
        self.says, self.seconds = says, seconds
        self.calls: list[str] = []

    def __call__(self, key: str) -> Inspected:
        self.calls.append(key)
        time.sleep(self.seconds)
        said = self.says.get(Path(key).stem, FOUND)
        if isinstance(said, Exception):
            raise said
        return said


def told(name, at, number):
    """The inspection `at`, but while it looks into the file `name` this process gets a signal."""

    def inspect(key):
        if key == name:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
        return at(key)

    return inspect


def never(key):
    raise AssertionError(f"{key} was inspected")


def written(folder, *lines, name="m.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps({"caption": "A dog."} | line) + "\n" for line in lines))
    return path


def many(folder, number):
    """A manifest of `number` files, every fifth of which is bad, named by three lines each."""
    videos = [f"{index:03}{'-bad' if index % 5 == 0 else ''}.mp4" for index in range(number)]
    for video in videos:
        (folder / video).write_bytes(b"media")
    lines = [{"video": video, "start": start, "note": start} for start in range(3) for video in videos]
    return written(folder, *lines)


def says(key):
    if "bad" in key:
        raise MediaTooLarge(key, "has 9 bytes, and limits.max_bytes is 8")
    return FOUND


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def checked(manifest, inspect=says, **options):
    return check_manifest(manifest, Media(manifest.parent), inspect=inspect, **{"workers": 2} | options)


def results(outcome):
    return outcome.clean.read_bytes(), outcome.report.read_bytes()


@pytest.fixture
def whole(tmp_path):
    """The results of a check of `many` that nobody stopped, and that many files."""
    folder = tmp_path / "whole"
    folder.mkdir()
    return results(checked(many(folder, 40)))


def test_the_real_and_the_odd_files_are_what_their_lists_say_also_when_interrupted(shared, tmp_path, capfd):
    listed = []
    for folder, name in (("clips", "clips.jsonl"), ("odd_media", "odd_media.jsonl")):
        listed += [line | {"video": f"{folder}/{line['video']}"} for line in read(shared / folder / name)]
    manifest = written(tmp_path, *listed)
    status = main(["check", str(manifest), "--root", str(shared), "--workers", "2"])
    said = capfd.readouterr().out
    clean = {line["video"]: line for line in read(tmp_path / "m.clean.jsonl")}
    faults = read(tmp_path / "m.report.jsonl")
    refused = [line["video"] for line in listed if line.get("expect", "").startswith("reject")]
    assert (status, len(clean), len(refused)) == (1, 45, 10)
    assert [fault["video"] for fault in faults] == refused
    assert {fault["kind"] for fault in faults} == {"MediaUnreadable"}
    assert [listed[fault["line"] - 1]["video"] for fault in faults] == refused
    assert "45 lines are clean" in said
    assert "10 lines are refused (10 MediaUnreadable)" in said
    different = set()
    for line in listed[:30]:
        found = clean[line["video"]]
        # What is listed is rounded to the millisecond, and the length of the whole file: its sound may last longer.
        assert line["duration"] - 0.05 < found["duration"] < line["duration"] + 0.001 or "nasa" in line["video"]
        different |= {(line["video"], key) for key in LISTED if found[key] != pytest.approx(line[key], rel=1e-5)}
    # 65 frames in 2.2 s are not 30 a second, whatever its header says. The other file has two video streams: the larger
    # is shown, the smaller is listed, with the length of the longest track of all, its subtitles.
    assert different == {("clips/asl_brother.mkv", "fps")} | {("clips/nasa_13013.mp4", key) for key in LISTED}
    nasa = {key: clean["clips/nasa_13013.mp4"][key] for key in TRUE}
    assert nasa == {"duration": 13.013, "width": 480, "height": 270, "fps": 30000 / 1001, "num_frames": 390}
    frames = {"editlist_copycut.mp4": 194, "no_duration.webm": 74, "one_frame.mp4": 1, "rot90.mp4": 109, "vfr.mp4": 134}
    assert {name: clean[f"odd_media/{name}"]["num_frames"] for name in frames} == frames
    assert (clean["odd_media/rot90.mp4"]["width"], clean["odd_media/rot90.mp4"]["height"]) == (480, 640)
    # The same once more, stopped in the middle.
    stopped, media = written(tmp_path, *listed, name="stopped.jsonl"), Media(shared, isolate="inline")
    with pytest.raises(Interrupted, match=r"after \d+ of 55 files"):
        check_manifest(stopped, media, workers=2, inspect=told(listed[40]["video"], media.inspect, signal.SIGINT))
    assert not (tmp_path / "stopped.clean.jsonl").exists()
    continued = check_manifest(stopped, media, workers=2)
    assert 10 <= continued.num_inspected <= 20
    assert results(continued) == tuple((tmp_path / f"m.{name}.jsonl").read_bytes() for name in ("clean", "report"))


def test_a_killed_check_goes_on_to_the_same_end(whole, tmp_path):
    manifest = many(tmp_path, 40)
    program = f"""
import time
from fractions import Fraction
from vista_train.data.check import check_manifest
from vista_train.video.decode import Inspected, MediaTooLarge
from vista_train.video.media import Media

def inspect(key):
    time.sleep(0.05)
    if "bad" in key:
        raise MediaTooLarge(key, "has 9 bytes, and limits.max_bytes is 8")
    return Inspected({FOUND.duration!r}, {FOUND.width}, {FOUND.height}, {FOUND.fps!r}, {FOUND.num_frames})

check_manifest({str(manifest)!r}, Media({str(tmp_path)!r}), inspect=inspect, workers=2)
"""
    journal = tmp_path / "m.clean.jsonl.journal"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 8):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "m.clean.jsonl").exists()
    # It may have been in the middle of a line.
    with journal.open("ab") as stream:
        stream.write(b'{"video": "039.mp4", "mark": [5')
    continued = checked(manifest)
    assert 8 <= 40 - continued.num_inspected < 40
    assert results(continued) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_how_far_it_got_and_goes_on(number, whole, tmp_path, monkeypatch, capsys):
    manifest = many(tmp_path, 40)
    command = ["check", str(manifest), "--root", str(tmp_path), "--workers", "1"]
    before = signal.getsignal(signal.SIGTERM)
    stopping = told("022.mp4", says, number)
    monkeypatch.setattr(Media, "inspect", lambda self, key: stopping(key))
    assert main(command) == 130
    assert "interrupted after 22 of 40 files; the same command goes on from there" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
    # What was under way when it was told to stop is not kept, whatever it came to.
    assert len(read(tmp_path / "m.clean.jsonl.journal")) == 1 + 22
    monkeypatch.setattr(Media, "inspect", lambda self, key: says(key))
    assert main(command) == 1
    assert "40 files, 18 of them inspected now" in capsys.readouterr().out
    assert ((tmp_path / "m.clean.jsonl").read_bytes(), (tmp_path / "m.report.jsonl").read_bytes()) == whole


def test_shards_are_the_whole_together_and_the_whole_need_not_look_again(whole, tmp_path):
    manifest = many(tmp_path, 40)
    inspect, parts = Stub(), []
    for number in (1, 2, 3):
        inspect = Stub()
        parts.append(checked(manifest, lambda key, stub=inspect: stub(key) and says(key), shard=(number, 3)))
        assert sorted(inspect.calls) == sorted({line["video"] for line in read(manifest)})[number - 1 :: 3]
    assert [part.clean.name for part in parts] == [f"m.clean-{number}-of-3.jsonl" for number in (1, 2, 3)]
    assert [part.report.name for part in parts] == [f"m.report-{number}-of-3.jsonl" for number in (1, 2, 3)]
    for which, content in enumerate(whole):
        lines = [line for part in parts for line in results(part)[which].splitlines()]
        assert sorted(lines) == sorted(content.splitlines())
    assert sum(part.num_clean for part in parts) == 96
    together = checked(manifest, never)
    assert (together.num_inspected, results(together)) == (0, whole)


def test_a_file_that_changed_is_looked_at_again_and_no_other(tmp_path):
    manifest = many(tmp_path, 10)
    checked(manifest)
    assert checked(manifest, never).num_inspected == 0
    os.utime(tmp_path / "003.mp4", ns=(1, 1))
    (tmp_path / "004.mp4").write_bytes(b"longer media")
    inspect = Stub(**{"003": MediaUnreadable("003.mp4", "no video stream")})
    outcome = checked(manifest, inspect)
    assert sorted(inspect.calls) == ["003.mp4", "004.mp4"]
    assert outcome.refused == {"MediaTooLarge": 6, "MediaUnreadable": 3}


def test_what_failed_is_looked_at_again_only_if_asked_and_what_was_missing_always(tmp_path):
    manifest = many(tmp_path, 10)
    (tmp_path / "001.mp4").unlink()
    first = check_manifest(manifest, Media(tmp_path, isolate="inline"), workers=1)
    assert first.refused == {"MediaMissing": 3, "MediaUnreadable": 27}
    (tmp_path / "001.mp4").write_bytes(b"media")
    inspect = Stub()
    assert checked(manifest, inspect).num_clean == 3
    assert inspect.calls == ["001.mp4"]
    assert checked(manifest, never).num_clean == 3
    assert checked(manifest, retry=True).refused == {"MediaTooLarge": 6}
    assert checked(manifest, never).num_clean == 24


def test_every_key_is_kept_as_it_is_written_and_the_numbers_are_the_files(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"media")
    text = (
        '{ "huge":1e400,"width" : null, "caption":"{\\"a\\": \\u00e9}, ö", "video": " a.mp4 ",\t"n":1.50, '
        '"nested": {"fps": [1, {}]},"fps":7,"big": 12345678901234567890.123456789, "start": 1, "end" :10.4 }'
    )
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(f"\n{text}\n \n")
    clean = checked(manifest).clean.read_text()
    assert clean == (
        '{"huge":1e400, "width": 320, "caption":"{\\"a\\": \\u00e9}, ö", "video": " a.mp4 ", "n":1.50, '
        '"nested": {"fps": [1, {}]}, "fps": 29.97002997002997, "big": 12345678901234567890.123456789, "start": 1, '
        '"end": 10.01, "duration": 10.01, "height": 240, "num_frames": 300}\n'
    )
    assert members_of('{"a": {"b": "}"}, "a" : 2}') == {"a": ('"a" : 2', 2)}
    assert members_of("{}") == {}


def test_a_span_is_cut_to_its_file_or_refused_with_its_line(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"media")
    spans = ({}, {"end": 10.51}, {"end": 10.52}, {"start": 10}, {"start": 10.01}, {"end": 3}, {"duration": 99})
    outcome = checked(written(tmp_path, *({"video": "a.mp4"} | span for span in spans)))
    assert [line.get("end") for line in read(outcome.clean)] == [None, 10.01, None, 3, None]
    assert all({key: line[key] for key in TRUE} == TRUE for line in read(outcome.clean))
    assert read(outcome.report) == [
        {"line": 3, "video": "a.mp4", "kind": "SpanOutside"}
        | {"reason": "its span 0.0..10.52 s lies outside the file, which lasts 10.01 s"},
        {"line": 5, "video": "a.mp4", "kind": "SpanOutside"}
        | {"reason": "its span 10.01..10.01 s lies outside the file, which lasts 10.01 s"},
    ]
    assert outcome.seconds == pytest.approx(3 * 10.01 + 0.01 + 3)


def test_the_clean_manifest_needs_no_probing_and_is_found_clean(world, tmp_path, capsys):
    shutil.copy(world / "clips.jsonl", tmp_path / "m.jsonl")
    assert main(["check", str(tmp_path / "m.jsonl"), "--root", str(world), "--isolate", "inline"]) == 0
    clean = tmp_path / "m.clean.jsonl"
    source = ClipSource(clean, world, probe=never)
    assert (len(source), source.unusable) == (16, ())
    assert (tmp_path / "m.report.jsonl").read_bytes() == b""
    assert main(["check", str(clean), "--root", str(world), "--isolate", "inline", "--out", f"{clean}.2"]) == 0
    assert Path(f"{clean}.2").read_bytes() == clean.read_bytes()
    assert "16 lines are clean" in capsys.readouterr().out


def test_links_are_refused_unless_allowed(world, tmp_path):
    video = read(world / "clips.jsonl")[0]["video"]
    (tmp_path / "link.mp4").symlink_to((world / video).resolve())
    manifest = written(tmp_path, {"video": "link.mp4"})
    command = ["check", str(manifest), "--root", str(tmp_path), "--isolate", "inline"]
    assert main(command) == 1
    (fault,) = read(tmp_path / "m.report.jsonl")
    assert fault["kind"] == "MediaMissing"
    assert fault["reason"].startswith("is a symbolic link")
    assert main([*command, "--allow-symlinks"]) == 0
    outside = written(tmp_path, {"video": str((world / video).resolve())}, name="outside.jsonl")
    assert main(["check", str(outside), "--isolate", "inline"]) == 2
    assert main(["check", str(outside), "--isolate", "inline", "--allow-absolute", "--root", str(tmp_path)]) == 0


def test_a_file_that_takes_too_long_is_reported_and_not_tried_again(tmp_path):
    stub = """
import json, socket, struct, sys, time
control = socket.socket(fileno=int(sys.argv[1]))
text = json.dumps({"ready": True, "no_network": True, "resident": 0}).encode()
control.sendall(struct.pack("<I", len(text)) + text)
time.sleep(60)
"""
    (tmp_path / "a.mp4").write_bytes(b"media")
    manifest = written(tmp_path, {"video": "a.mp4"}, {"video": "a.mp4", "start": 1})
    limits = Limits(deadline_seconds=0.1, max_deadline_seconds=0.3)
    media = Media(tmp_path, limits=limits, program=("-c", stub))
    began = time.monotonic()
    outcome = check_manifest(manifest, media, workers=2)
    assert time.monotonic() - began < 5
    assert (outcome.refused, outcome.num_inspected) == ({"MediaTimeout": 2}, 1)
    assert read(outcome.report)[1]["reason"] == "not decoded within 0.3 s"
    assert check_manifest(manifest, media, inspect=never).refused == {"MediaTimeout": 2}


def test_a_hundred_thousand_lines_of_three_files_take_three_inspections_and_little_memory(tmp_path, monkeypatch):
    videos, note = ("a.mp4", "b.mp4", "c.mp4"), "x" * 500
    for name in videos:
        (tmp_path / name).write_bytes(b"media")
    manifest = tmp_path / "m.jsonl"
    with manifest.open("w") as stream:
        for at in range(100_000):
            stream.write(f'{{"video": "{videos[at % 3]}", "caption": "A dog.", "note": "{note}", "id": {at}}}\n')
    add, resident = Draft.add, []

    def watched(self, line):
        add(self, line)
        if line.endswith("000, " + line[line.index('"duration"') :]):
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    monkeypatch.setattr(Draft, "add", watched)
    inspect = Stub()
    outcome = checked(manifest, inspect)
    assert sorted(inspect.calls) == list(videos)
    assert outcome.num_clean == 100_000
    assert len(resident) == 99
    # The lines are 60 MB.
    assert max(resident) - resident[0] < 10e6
    assert read(outcome.clean)[-1]["id"] == 99_999


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "m.jsonl/x.jsonl"}, r"x.jsonl.journal cannot be written \(Not a directory\).* --out"),
        ({"out": "no/x.jsonl"}, r"cannot be written \(No such file or directory\)"),
        ({"out": "folder"}, r"folder is a folder; --out must name a file"),
        ({"out": "m.jsonl"}, r"is the manifest itself"),
        ({"workers": 0}, r"workers is 0; at least one"),
        ({"root": "no"}, r"root .*no is not a folder"),
        ({"manifest": "wrong.jsonl"}, r"wrong.jsonl:1: caption is missing"),
        ({"shard": "0/2"}, r"shard is '0/2'; it must be i/n.* from 1 to n"),
    ],
)
def test_what_the_user_can_mend_is_a_sentence(options, words, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "wrong.jsonl").write_text('{"video": "a.mp4"}\n')
    many(tmp_path, 2)
    options = {"root": "", "manifest": "m.jsonl"} | options
    for name in {"root", "manifest", "out"} & options.keys():
        options[name] = str(tmp_path / options[name])
    manifest = options.pop("manifest")
    assert main(["check", manifest, *(f"--{name}={value}" for name, value in options.items())]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("vista_train: ")
    assert re.search(words, said), said


def test_a_full_disk_is_a_sentence_and_costs_nothing_that_was_found(whole, tmp_path, monkeypatch):
    manifest, add = many(tmp_path, 40), Journal.add

    def full(self, record):
        if record.get("video") == "017.mp4":
            self._file.close()
            self._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        return add(self, record)

    monkeypatch.setattr(Journal, "add", full)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with pytest.raises(ValueError, match=r"m.clean.jsonl.journal cannot be written \(No space left on device\)"):
        checked(manifest, workers=1)
    monkeypatch.undo()
    continued = checked(manifest)
    assert (continued.num_inspected, results(continued)) == (40 - 17, whole)


def test_an_error_that_nobody_foresaw_ends_the_check(tmp_path):
    with pytest.raises(AssertionError, match="was inspected"):
        checked(many(tmp_path, 4), never)


def test_one_check_at_a_time_and_one_manifest_a_journal(tmp_path):
    manifest = many(tmp_path, 4)
    first = threading.Event()

    def inspect(key):
        if first.is_set():
            return says(key)
        first.set()
        with pytest.raises(ValueError, match="in use: another run writes to it already"):
            checked(manifest)
        return says(key)

    outcome = checked(manifest, inspect)
    with pytest.raises(ValueError, match=r"belongs to a check of m.jsonl, shard 1/1; this is one of .* shard 2/2"):
        checked(manifest, out=outcome.clean, shard=(2, 2))
    other = written(tmp_path, {"video": "001.mp4"}, name="other.jsonl")
    with pytest.raises(ValueError, match=r"belongs to a check of m.jsonl"):
        checked(other, out=outcome.clean)


def test_a_manifest_that_changes_meanwhile_is_an_error(tmp_path):
    manifest = many(tmp_path, 4)

    def inspect(key):
        manifest.write_text(manifest.read_text() + "\n")
        return FOUND

    with pytest.raises(ValueError, match="the manifest changed while its files were checked; start again"):
        checked(manifest, inspect, workers=1)
    assert checked(manifest, never).num_inspected == 0


def test_a_journal_that_was_damaged_costs_what_is_damaged(whole, tmp_path):
    manifest = many(tmp_path, 40)
    journal = checked(manifest).clean.with_name("m.clean.jsonl.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[5], lines[9], lines[30] = b"\0\0\xff\n", b"[1]\n", b'{"half": \n'
    journal.write_bytes(b"".join(lines)[:-3])
    again = checked(manifest)
    assert (again.num_inspected, results(again)) == (4, whole)


def test_shards_are_counted_from_one():
    assert (shard_of("1/1"), shard_of("3/12")) == ((1, 1), (3, 12))
    for wrong in ("3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"):
        with pytest.raises(ValueError, match="it must be i/n"):
            shard_of(wrong)
