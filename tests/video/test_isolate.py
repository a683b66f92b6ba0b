"""Decoding in a process of its own: the same pictures, and whatever a file does there is one `MediaError`."""

from __future__ import annotations

import gc
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.video.stub_child import Harmful
from vista_train.video import decode
from vista_train.video.decode import (
    Limits,
    MediaCrashed,
    MediaError,
    MediaTimeout,
    MediaTooLarge,
    MediaUnreadable,
    Wanted,
)
from vista_train.video.isolate import PROGRAM, IsolationError
from vista_train.video.media import NOT_AGAIN, Media

STUB = ("-m", "tests.video.stub_child")
GOOD = "source_000/000.mp4"
WANTED = [Wanted(Fraction(time), *size) for time, size in ((2, (64, 48)), (0, (30, 20)), (2, (64, 48)), (1, (64, 48)))]
FATES = {
    "hang": (MediaTimeout, "not decoded within 0.4 s"),
    "deaf": (MediaTimeout, "not decoded within 0.4 s"),
    "spin": (MediaTimeout, "not decoded within 0.4 s"),
    "abort": (MediaCrashed, "the process that decoded it died (SIGABRT)"),
    "segv": (MediaCrashed, "the process that decoded it died (SIGSEGV)"),
    "killed": (MediaCrashed, "the process that decoded it died (SIGKILL)"),
    "exit": (MediaCrashed, "the process that decoded it died (exit code 3)"),
    "raise": (MediaCrashed, "the process that decoded it died (KeyError was raised)"),
    "fill": (MediaTooLarge, "decoding it takes more memory than limits.max_memory_mib"),
}
"""What becomes of a file that does this to who decodes it."""


@pytest.fixture
def harmful(world: Path, tmp_path: Path) -> Iterator[Media]:
    """The first clip of the world, under its own name and one for each harm."""
    (tmp_path / "source_000").mkdir()
    for name in (GOOD, *(f"{harm}_{number}.mp4" for harm in (*FATES, "slow", "few") for number in (0, 1))):
        shutil.copy(world / GOOD, tmp_path / name)
    media = Media(tmp_path, limits=Limits(deadline_seconds=0.4), program=STUB)
    # A loaded machine may need longer than that deadline for a good file.
    yield media
    media.close()


@pytest.fixture(autouse=True)
def _no_process_of_another_test() -> None:
    gc.collect()


def pictures(media: Media, key: str = GOOD) -> list[np.ndarray]:
    got = {which: picture_HWC.copy() for which, picture_HWC in media.pictures(key, WANTED, predicted_seconds=2.0)}
    assert sorted(got) == list(range(len(WANTED)))
    return [got[which] for which in range(len(WANTED))]


def child_pids(of: int) -> list[int]:
    """The decoding processes that process `of` has."""
    alive = [child for child in psutil.Process(of).children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child.pid for child in alive if {PROGRAM[1], STUB[1]} & set(child.cmdline())]


def test_pictures_and_headers_are_those_of_this_process(world: Path) -> None:
    inline, apart = Media(world, isolate="inline"), Media(world)
    keys = sorted(path.relative_to(world).as_posix() for path in world.rglob("*.mp4"))[:4]
    for key in keys:
        assert apart.probe(key) == inline.probe(key)
        assert apart.inspect(key) == inline.inspect(key)
        for ours, theirs in zip(pictures(inline, key), pictures(apart, key), strict=True):
            assert np.array_equal(ours, theirs)
    order = [which for which, _ in apart.pictures(keys[0], WANTED)]
    assert order == [1, 3, 0, 2]
    assert child_pids(os.getpid())


@pytest.mark.parametrize("harm", FATES)
def test_whatever_a_file_does_is_one_error_and_the_next_file_is_decoded(harmful: Media, harm: str) -> None:
    kind, reason = FATES[harm]
    key = f"{harm}_0.mp4"
    pictures(harmful)
    since = time.monotonic()
    with pytest.raises(kind) as caught:
        list(harmful.pictures(key, WANTED))
    assert (type(caught.value), caught.value.path, caught.value.reason) == (kind, key, reason)
    # The kernel would end it too, GRACE_SECONDS later.
    assert time.monotonic() - since < 4.5
    assert len(pictures(harmful)) == 4


@pytest.mark.parametrize(("harm", "kind"), [("hang", MediaTimeout), ("abort", MediaCrashed)])
def test_what_has_cost_a_process_is_not_tried_again(harmful: Media, harm: str, kind: type[MediaError]) -> None:
    bad, other = f"{harm}_0.mp4", f"{harm}_1.mp4"
    with pytest.raises(kind):
        list(harmful.pictures(bad, WANTED))
    harmful.refuse([GOOD, other])
    for media in (harmful, harmful.at(0), pickle.loads(pickle.dumps(harmful))):
        with pytest.raises(kind, match=NOT_AGAIN) as caught:
            media.refuse([GOOD, bad])
        assert caught.value.path == bad
    with pytest.raises(MediaTooLarge):
        list(harmful.pictures("fill_0.mp4", WANTED))
    harmful.refuse(["fill_0.mp4"])


def test_a_deadline_grows_with_what_the_metadata_predict() -> None:
    limits = Limits(deadline_seconds=10, max_deadline_seconds=60)
    assert [limits.deadline(seconds) for seconds in (0, 1, 2, 4, 12, 100)] == [10, 10, 10, 20, 60, 60]


def test_a_process_is_used_again_and_replaced_when_it_is_worn(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = Media(world)
    pictures(media)
    (first,) = child_pids(os.getpid())
    pictures(media)
    assert child_pids(os.getpid()) == [first]
    monkeypatch.setattr("vista_train.video.isolate.MAX_REQUESTS", 3)
    pictures(media)
    assert child_pids(os.getpid()) == []
    pictures(media)
    assert child_pids(os.getpid()) not in ([], [first])
    del media
    gc.collect()
    assert child_pids(os.getpid()) == []


def test_threads_have_a_process_each(world: Path) -> None:
    media = Media(world)
    expected = pictures(media)
    together = threading.Barrier(3)

    def decode(_: int) -> bool:
        together.wait(30)
        return all(np.array_equal(a, b) for _ in range(5) for a, b in zip(pictures(media), expected, strict=True))

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(decode, range(3)))
    assert 1 <= len(child_pids(os.getpid())) <= 3


def test_who_is_broken_off_leaves_no_answer_to_the_next(harmful: Media) -> None:
    """A Ctrl-C while a file is decoded: its pictures must not be taken for those of the file after it."""
    expected = pictures(harmful)

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, break_off)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            list(harmful.pictures("slow_0.mp4", [Wanted(Fraction(3), 64, 48)], predicted_seconds=2.0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.8)
    assert all(np.array_equal(*pair) for pair in zip(pictures(harmful), expected, strict=True))


@pytest.mark.parametrize("isolate", ["process", "inline"])
def test_a_reader_that_gives_too_few_pictures_shows_none(
    harmful: Media, isolate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its place would be what was shown before."""
    pictures(harmful)
    media = harmful
    if isolate == "inline":
        media = Media(harmful.root, isolate="inline")
        monkeypatch.setattr(decode, "check_reader", lambda name: Harmful())
    with pytest.raises(MediaUnreadable, match="a wanted frame is missing"):
        list(media.pictures("few_0.mp4", WANTED))


def test_a_process_killed_while_it_had_nothing_to_do_costs_no_file(world: Path) -> None:
    media = Media(world)
    expected = pictures(media)
    (first,) = child_pids(os.getpid())
    os.kill(first, signal.SIGKILL)
    psutil.Process(first).wait(10)
    assert all(np.array_equal(*pair) for pair in zip(pictures(media), expected, strict=True))


def test_who_is_killed_from_outside_is_forgiven_once(harmful: Media) -> None:
    """The machine may have been short of memory."""
    for number in range(3):
        harmful.refuse([GOOD, "killed_0.mp4"] if number < 2 else [GOOD])
        with pytest.raises(MediaCrashed, match="SIGKILL"):
            list(harmful.pictures("killed_0.mp4", WANTED))
    with pytest.raises(MediaCrashed, match=NOT_AGAIN):
        harmful.refuse(["killed_0.mp4"])


def test_time_in_which_all_were_stopped_does_not_count(world: Path, tmp_path: Path) -> None:
    """A scheduler that suspends a job, or a Ctrl-Z, for longer than the deadline."""
    shutil.copy(world / GOOD, tmp_path / "slow_0.mp4")
    code = (
        "import sys; from tests.video.test_isolate import *\n"
        "media = Media(sys.argv[1], limits=Limits(deadline_seconds=4.0), program=STUB); media.probe('slow_0.mp4')\n"
        "print(*child_pids(os.getpid()), flush=True); print(len(list(media.pictures('slow_0.mp4', WANTED))))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    for number, seconds in ((signal.SIGSTOP, 6.0), (signal.SIGCONT, 0.0)):
        for pid in (child, parent.pid):
            os.kill(pid, number)
        time.sleep(seconds)
    assert parent.communicate(timeout=60)[0] == f"{len(WANTED)}\n"


def test_what_reading_a_large_file_takes_is_added_to_its_deadline(harmful: Media) -> None:
    """Half a minute to decode would be too long; that a file of 20 MB is read twice adds two seconds."""
    with (harmful.root / "slow_0.mp4").open("ab") as file:
        file.truncate(20_000_000)
    for name, seconds in (("slow_1.mp4", 0.4), ("slow_0.mp4", 2.4)):
        media = Media(harmful.root, limits=Limits(deadline_seconds=0.4), program=STUB)
        if seconds < 0.6:
            with pytest.raises(MediaTimeout):
                list(media.pictures(name, WANTED))
        else:
            assert len(list(media.pictures(name, WANTED))) == len(WANTED)
        media.close()


def test_signals_to_the_run_do_not_end_a_decoder(world: Path) -> None:
    media = Media(world)
    pictures(media)
    (child,) = child_pids(os.getpid())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        os.kill(child, number)
    pictures(media)
    assert child_pids(os.getpid()) == [child]


def test_a_decoder_dies_with_who_started_it(world: Path) -> None:
    code = (
        "import sys, time; from tests.video.test_isolate import *\n"
        "media = Media(sys.argv[1]); pictures(media); print(*child_pids(os.getpid()), flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(world)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("it lives on")


def test_a_decoder_has_nothing_that_is_secret(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    media = Media(world)
    pictures(media)
    (child,) = child_pids(os.getpid())
    environment = Path(f"/proc/{child}/environ").read_bytes()
    assert b"canary" not in environment
    names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert names <= {
        "LD_LIBRARY_PATH",
        "TMPDIR",
        "PATH",
        "PYTHONPATH",
        "LC_ALL",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
    }
    limits = Path(f"/proc/{child}/limits").read_text()
    assert re.search(r"Max file size +0 +0", limits)
    assert re.search(r"Max core file size +0 +0", limits)
    assert (
        Path(f"/proc/{child}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    ) == media.confined().no_network


def test_a_decoder_loads_nothing_but_its_library_and_numpy() -> None:
    code = "import sys, vista_train.video.decode.child, vista_train.video.decode.header; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"av", "numpy"} <= set(loaded)
    assert not {"torch", "transformers", "PIL", "pyarrow", "datasets", "pydantic"} & set(loaded)


def test_where_no_process_can_be_had_is_said_with_the_way_out(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vista_train.video.isolate.NUM_STARTS", 1)
    media = Media(world, program=("-c", "import sys; sys.exit(7)"))
    with pytest.raises(IsolationError, match=r"does not start \(exit code 7\).*data\.isolate=inline"):
        pictures(media)


def test_a_fork_leaves_its_parents_processes_alone(world: Path) -> None:
    media = Media(world)
    expected = pictures(media)
    (first,) = child_pids(os.getpid())
    pid = os.fork()
    if not pid:
        same = all(np.array_equal(*pair) for pair in zip(pictures(media), expected, strict=True))
        own = child_pids(os.getpid())
        media.close()
        os._exit(0 if same and len(own) == 1 and child_pids(os.getpid()) == [] else 1)
    assert os.waitpid(pid, 0)[1] == 0
    pictures(media)
    assert child_pids(os.getpid()) == [first]


def test_errors_name_the_key_and_no_more(world: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for isolate in ("inline", "process"):
        media = Media(tmp_path, isolate=isolate)  # type: ignore[arg-type]
        with pytest.raises(MediaError) as caught:
            list(media.pictures("text.mp4", WANTED))
        assert caught.value.path == "text.mp4"
        assert "/" not in caught.value.reason
