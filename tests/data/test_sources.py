"""Clips out of a manifest: headers probed once, spans inside their files, and who follows whom in a source."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest

from vista_train.data import headers as headers_module
from vista_train.data.sources import ClipSource, check, clip_of
from vista_train.video.composition import QA, Clip
from vista_train.video.decode.base import Header, MediaMissing, MediaUnreadable
from vista_train.video.media import Media

SHARED = Path(os.environ.get("VISTA_TRAIN_SHARED", Path(__file__).parents[2] / ".." / "shared"))
KNOWN = {"duration": 10, "width": 640, "height": 480, "fps": 25}
HEADER = Header(Fraction(1001, 100), 320, 240, Fraction(30000, 1001), 300, "h264", "mp4")


class FakeProbe:
    """A probe that counts its calls and says `HEADER` of every file but those told otherwise."""

    def __init__(self, **says: Header | str) -> None:
        self.says = says
        self.calls: list[str] = []

    def __call__(self, key: str) -> Header:
        self.calls.append(Path(key).name)
        said = self.says.get(Path(key).stem, HEADER)
        if isinstance(said, str):
            raise MediaUnreadable(key, said)
        return said


def never(key: str) -> Header:
    raise AssertionError(f"{key} was probed")


def written(tmp_path, *lines):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"caption": "A dog."} | line) + "\n" for line in lines))
    return path


def opened(tmp_path, *lines, probe=never, **options):
    return ClipSource(written(tmp_path, *lines), tmp_path, tmp_path / "cache", probe, **options)


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_bytes(b"media")


def spans(source):
    return [(clip.start, clip.end) for clip in map(source.__getitem__, range(len(source)))]


def timeline(*starts_and_ends, **known):
    return [{"video": "a.mp4", "start": start, "end": end} | KNOWN | known for start, end in starts_and_ends]


def test_a_line_becomes_its_clip_with_exact_decimals(tmp_path):
    qa = [{"question": "What?", "answer": "A dog.", "distractors": ["A cat."]}]
    line = (
        {"video": "a/b.mp4", "start": 0.1, "end": 0.3, "source": "film", "qa": qa, "note": 1} | KNOWN | {"fps": 29.97}
    )
    source = opened(tmp_path, line)
    assert source[0] == Clip(
        path="a/b.mp4",
        start=Fraction(1, 10),
        end=Fraction(3, 10),
        width=640,
        height=480,
        fps=Fraction(2997, 100),
        caption="A dog.",
        qa=(QA("What?", "A dog.", ("A cat.",)),),
        source="film",
    )
    assert source[0].duration == Fraction(1, 5)
    assert (len(source), source.key(0), source.unusable) == (1, "a/b.mp4", ())


def test_without_a_span_a_clip_is_its_whole_file(tmp_path):
    clip = opened(tmp_path, {"video": "a.mp4"} | KNOWN | {"duration": 2.6})[0]
    assert (clip.start, clip.end, clip.source) == (0, Fraction(13, 5), "a.mp4")


def test_what_a_line_leaves_open_comes_from_the_header_exactly_and_what_it_gives_stays(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4")
    source = opened(tmp_path, {"video": "a.mp4"}, {"video": "b.mp4", "end": 3, "width": 64}, probe=FakeProbe())
    assert (source[0].end, source[0].fps, source[0].size) == (Fraction(1001, 100), Fraction(30000, 1001), (320, 240))
    assert (source[1].end, source[1].fps, source[1].size) == (3, Fraction(30000, 1001), (64, 240))


def test_each_file_is_probed_once_over_two_opens_and_again_when_it_changed(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    lines = [
        {"video": "a.mp4", "end": 3},
        {"video": "a.mp4", "start": 3},
        {"video": "b.mp4"},
        {"video": "c.mp4"} | KNOWN,
    ]
    probe = FakeProbe()
    first = opened(tmp_path, *lines, probe=probe)
    assert sorted(probe.calls) == ["a.mp4", "b.mp4"]
    assert opened(tmp_path, *lines, probe=never).digest == first.digest
    os.utime(tmp_path / "b.mp4", ns=(1, 1))
    probe = FakeProbe(b=Header(Fraction(7), 32, 24, Fraction(5), None, "vp9", "webm"))
    again = opened(tmp_path, *lines, probe=probe)
    assert probe.calls == ["b.mp4"]
    assert (again[2].end, again[2].size) == (7, (32, 24))
    assert again.digest != first.digest


def test_another_line_in_the_manifest_probes_no_old_file_again(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4")
    opened(tmp_path, {"video": "a.mp4"}, probe=FakeProbe())
    probe = FakeProbe()
    assert len(opened(tmp_path, {"video": "a.mp4"}, {"video": "b.mp4"}, probe=probe)) == 2
    assert probe.calls == ["b.mp4"]


def test_probing_that_is_broken_off_keeps_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(headers_module, "PORTION", 2)
    names = [f"{letter}.mp4" for letter in "abcde"]
    files(tmp_path, *names)
    lines = [{"video": name} for name in names]

    def breaks(path):
        if path == "e.mp4":
            raise KeyError("a bug")
        return HEADER

    with pytest.raises(KeyError, match="a bug"):
        opened(tmp_path, *lines, probe=breaks)
    probe = FakeProbe()
    assert len(opened(tmp_path, *lines, probe=probe)) == 5
    assert probe.calls == ["e.mp4"]


def test_a_file_that_cannot_be_probed_is_left_out_and_told(tmp_path):
    files(tmp_path, "a.mp4", "bad.mp4", "nil.mp4")
    (tmp_path / "folder.mp4").mkdir()
    nil = Header(Fraction(0), 32, 24, Fraction(5), None, "vp9", "webm")
    names = ("bad", "a", "gone", "nil", "folder", "bad")
    probe = FakeProbe(bad="no video stream", nil=nil)
    source = opened(tmp_path, *({"video": f"{name}.mp4", "end": 2} for name in names), probe=probe)
    assert [source.key(index) for index in range(len(source))] == ["a.mp4"]
    assert [key for key, _ in source.unusable] == [f"{name}.mp4" for name in names if name != "a"]
    reasons = dict(source.unusable)
    assert reasons["bad.mp4"] == "no video stream"
    assert reasons["gone.mp4"] == "cannot be opened: No such file or directory"
    assert reasons["nil.mp4"] == "its header tells no length, size or frame rate above 0"
    assert reasons["folder.mp4"] == "is not a file"


def test_a_failure_is_remembered_until_check_probes_it_again(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4")
    lines = [{"video": "a.mp4"}, {"video": "b.mp4"}]
    first = opened(tmp_path, *lines, probe=FakeProbe(b="timed out"))
    assert opened(tmp_path, *lines, probe=never).unusable == first.unusable == (("b.mp4", "timed out"),)
    probe = FakeProbe()
    checked = check(tmp_path / "m.jsonl", tmp_path, tmp_path / "cache", probe)
    assert probe.calls == ["b.mp4"]
    assert (len(checked), checked.unusable) == (2, ())
    assert opened(tmp_path, *lines, probe=never).digest == checked.digest != first.digest


def test_too_many_files_to_probe_ask_for_check_which_has_no_limit(tmp_path):
    names = [f"{number}.mp4" for number in range(6)]
    files(tmp_path, *names[:5])
    lines = [{"video": name} for name in names]
    with pytest.raises(ValueError, match=r"5 files lack .* at most 4 .* run `vista-train check .*m.jsonl` first"):
        opened(tmp_path, *lines, probe_limit=4)
    assert len(check(tmp_path / "m.jsonl", tmp_path, tmp_path / "cache", FakeProbe())) == 5
    assert len(opened(tmp_path, *lines, probe_limit=0)) == 5


def test_a_span_outside_its_file_is_left_out_and_half_a_second_too_long_is_cut(tmp_path):
    lines = timeline((0, 10.5), (0, 10.51), (9.9, 10.2), (10, 10.3), (12, 13), (2, 3))
    source = opened(tmp_path, *lines)
    assert spans(source) == [(0, 10), (Fraction(99, 10), 10), (2, 3)]
    assert [reason for _, reason in source.unusable] == [
        "its span 0.0..10.51 s lies outside the file, which lasts 10.0 s",
        "its span 10.0..10.3 s lies outside the file, which lasts 10.0 s",
        "its span 12.0..13.0 s lies outside the file, which lasts 10.0 s",
    ]


def test_a_probed_length_goes_before_the_manifest_s(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4")
    lines = [{"video": f"{name}.mp4"} | KNOWN | {"duration": seconds} for name, seconds in (("a", 10.4), ("b", 11))]
    for line in lines:
        line.pop("fps")
    source = opened(tmp_path, *lines, probe=FakeProbe())
    assert spans(source) == [(0, Fraction(1001, 100))]
    assert source.unusable == (("b.mp4", "its span 0.0..11.0 s lies outside the file, which lasts 10.01 s"),)


def test_no_usable_clip_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no usable clips; the first, a.mp4: its span 11.0..12.0 s lies outside"):
        opened(tmp_path, *timeline((11, 12)))
    assert not list((tmp_path / "cache" / "pools").iterdir())


def test_spans_of_one_file_run_until_a_gap_is_too_long(tmp_path):
    source = opened(tmp_path, *timeline((5, 6), (0, 2), (2, 3), (8.5, 9), (3.04, 4)))
    assert source.run(2, 0) == [1, 2]
    assert source.run(2, 0.04) == [1, 2, 4]
    assert source.run(1, 1) == [1, 2, 4, 0]
    assert source.run(0, 2.5) == [1, 2, 4, 0, 3]
    assert source.run(3, 2.4) == [3]


def test_decimal_times_that_meet_leave_no_gap_and_small_overlaps_pass(tmp_path):
    assert 0.1 + 0.2 > 0.3
    meeting = timeline((0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 0.8), (0.8, 1.1))
    assert opened(tmp_path, *meeting).run(4, 0) == [0, 1, 2, 3, 4]
    source = opened(tmp_path, *timeline((0, 2), (1.95, 3), (2.94, 4)))
    assert [source.run(index, 0) for index in range(3)] == [[0, 1], [0, 1], [2]]


def test_separate_files_of_a_source_run_by_their_time_in_it(tmp_path):
    starts = {"c": 12.5, "a": 0, "b": 4, "d": 30}
    lines = [{"video": f"{name}.mp4", "source": "film", "source_start": at} | KNOWN for name, at in starts.items()]
    for line in lines:
        line["duration"] = 4
    source = opened(tmp_path, *lines)
    assert source.run(0, 4.5) == [1, 2, 0]
    assert source.run(1, 4.4) == [1, 2]
    assert source.run(3, 13.4) == [3]
    assert source.run(3, 13.5) == [1, 2, 0, 3]


def test_separate_files_without_times_run_in_the_order_of_lines(tmp_path):
    names = [("x", "f"), ("b", "film"), ("y", "g"), ("a", "film"), ("c", "film")]
    source = opened(tmp_path, *({"video": f"{video}.mp4", "source": name} | KNOWN for video, name in names))
    assert source.run(3, 0) == [1, 3, 4]
    assert source.run(0, math.inf) == [0]
    assert source.run(3, math.inf) == [1, 3, 4]
    broken = [{"video": f"{video}.mp4", "source": name} | KNOWN for video, name in names]
    broken[3]["start"] = 11
    source = opened(tmp_path, *broken)
    assert [source.key(index) for index in source.run(1, 0)] == ["b.mp4"]
    assert [source.key(index) for index in source.run(3, math.inf)] == ["c.mp4"]


def test_a_source_whose_clips_only_partly_tell_their_time_is_refused(tmp_path):
    lines = [{"video": f"{name}.mp4", "source": "film", "source_start": 1} | KNOWN for name in "abc"]
    lines[1].pop("source_start")
    with pytest.raises(ValueError, match=r"m.jsonl:2: source_start is missing, though other clips of source 'film'"):
        opened(tmp_path, *lines)


def test_runs_are_those_of_a_plain_search(tmp_path):
    rng = random.Random(5)
    lines = []
    for _ in range(300):
        start = round(rng.uniform(0, 9.5), 1)
        lines.append(
            {"video": f"{rng.randrange(60)}.mp4", "start": start, "end": round(start + rng.uniform(0.1, 0.9), 1)}
            | KNOWN
        )
    source = opened(tmp_path, *lines)
    clips = [source[index] for index in range(len(source))]
    ordered = sorted(range(len(clips)), key=lambda index: (clips[index].source, clips[index].start, index))
    longest = []
    for gap in (0, 0.3, 1.5):
        runs = [[ordered[0]]]
        for left, right in itertools.pairwise(ordered):
            between = clips[right].start - clips[left].end
            joined = clips[left].source == clips[right].source and Fraction(-1, 20) <= between <= Fraction(str(gap))
            runs[-1].append(right) if joined else runs.append([right])
        assert all(source.run(index, gap) == run for run in runs for index in run)
        longest.append(max(map(len, runs)))
    assert longest[0] < longest[1] < longest[2]


def test_the_digest_names_the_clips_and_not_where_they_lie(tmp_path):
    digests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files(tmp_path / name, "a.mp4", "b.mp4")
        digests.append(opened(tmp_path / name, {"video": "a.mp4"}, {"video": "b.mp4"}, probe=FakeProbe()).digest)
    assert digests[0] == digests[1]
    (tmp_path / "one" / "b.mp4").unlink()
    fewer = opened(tmp_path / "one", {"video": "a.mp4"}, {"video": "b.mp4"}, probe=never)
    assert (len(fewer), fewer.unusable[0][0]) == (1, "b.mp4")
    assert fewer.digest != digests[0]


def test_a_source_travels_to_a_worker_by_its_paths(tmp_path):
    files(tmp_path, "a.mp4")
    source = opened(
        tmp_path, {"video": "a.mp4"}, *timeline(*((n / 2, n / 2 + 0.5) for n in range(20))), probe=FakeProbe()
    )
    bundle = pickle.dumps(source)
    assert len(bundle) < 2000
    twin = pickle.loads(bundle)
    assert [twin[index] for index in range(21)] == [source[index] for index in range(21)]
    assert (twin.run(3, 0), twin.digest, twin.unusable) == (source.run(3, 0), source.digest, source.unusable)


def test_an_index_beyond_the_end_is_an_index_error(tmp_path):
    source = opened(tmp_path, *timeline((0, 1), (1, 2)))
    assert source[-1] == source[1]
    for ask in (source.__getitem__, source.key):
        with pytest.raises(IndexError):
            ask(2)


def test_one_file_by_hand(world, tmp_path):
    path = json.loads((world / "clips.jsonl").read_text().splitlines()[0])["video"]
    clip = clip_of(world, path, "A dog.")
    assert (clip.path, clip.source, clip.caption, clip.size, clip.fps) == (path, path, "A dog.", (160, 120), 12)
    assert (clip.start, clip.duration) == (0, Media(world, isolate="inline").probe(path).duration)
    with pytest.raises(MediaMissing, match="leads outside the data root"):
        clip_of(world, f"../{world.name}/{path}")
    files(tmp_path, "a.mp4")
    with pytest.raises(MediaUnreadable, match=r"^a\.mp4: "):
        clip_of(tmp_path, "a.mp4")


def _open_in_process(folder, barrier, answers):
    barrier.wait(60)
    source = ClipSource(folder / "m.jsonl", folder, folder / "cache", FakeProbe())
    answers.put((source.digest, len(source), source.run(40, 0)))


def test_processes_that_race_to_build_the_cache_agree(tmp_path):
    files(tmp_path, "0.mp4", "1.mp4")
    lines = [{"video": f"{n // 4}.mp4", "start": n % 4, "end": n % 4 + 1} | KNOWN for n in range(20_000)]
    lines[0].pop("fps")
    lines[4].pop("fps")
    written(tmp_path, *lines)
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_open_in_process, args=(tmp_path, barrier, answers)) for _ in range(2)]
    for racer in racers:
        racer.start()
    found = [answers.get(timeout=90) for _ in racers]
    for racer in racers:
        racer.join(30)
    assert found[0] == found[1]
    assert found[0][1:] == (20_000, [40, 41, 42, 43])
    for kind in ("manifests", "pools"):
        assert len(list((tmp_path / "cache" / kind).iterdir())) == 1
    assert not list((tmp_path / "cache").rglob(".building-*"))


REOPEN = """
import os, sys
from pathlib import Path
from vista_train.data.sources import ClipSource
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
root = Path(sys.argv[1])
before = resident()
source = ClipSource(root / "m.jsonl", root, root / "cache")
clip, run = source[150_001], source.run(150_001, 0)
print(len(source), clip.start, len(run), resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_two_hundred_thousand_lines_do_not_sit_in_memory(tmp_path):
    words = "A person walks far away through the tall green grass. " * 3
    with (tmp_path / "m.jsonl").open("w") as stream:
        for n in range(200_000):
            line = {"video": f"{n // 8}.mp4", "start": n % 8, "end": n % 8 + 1, "caption": f"{words}{n}"} | KNOWN
            stream.write(json.dumps(line) + "\n")
    began = time.perf_counter()
    ClipSource(tmp_path / "m.jsonl", tmp_path, tmp_path / "cache", never)
    print(f"checked {200_000 / (time.perf_counter() - began):,.0f} lines a second")
    command = [sys.executable, "-c", REOPEN, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    num_clips, start, run, grown_mb = answer.stdout.split()
    print(f"reopened at {float(grown_mb):.0f} MB more")
    assert (num_clips, start, run) == ("200000", "1", "8")
    assert float(grown_mb) < 50


@pytest.mark.skipif(not (SHARED / "clips" / "clips.jsonl").is_file(), reason="the shared clips are not here")
def test_the_thirty_shared_clips_load_without_probing(tmp_path):
    root = SHARED / "clips"
    source = ClipSource(root / "clips.jsonl", root, tmp_path, never)
    assert (len(source), source.unusable) == (30, ())
    clips = {source.key(index): source[index] for index in range(30)}
    assert all((root / key).is_file() and clip.caption for key, clip in clips.items())
    assert clips["bottles.mp4"].end == Fraction("39.855")
    assert clips["bottles.mp4"].fps == Fraction("29.8333")
    assert clips["webcam_drawing_880p60.mp4"].size == (1920, 880)
