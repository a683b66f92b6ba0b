"""A decoding process that a file has taken over costs that file, and never more: not the run, not a secret, no time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vista_train.augment import REGISTRY
from vista_train.data import ledger
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.models.base import load_family
from vista_train.video.decode import Limits, MediaCrashed, MediaError, MediaTimeout, MediaUnreadable, Wanted
from vista_train.video.decode.indexes import place_of
from vista_train.video.media import Media

QUICK = Limits(deadline_seconds=1.0, max_deadline_seconds=1.0)
SECRETS = ("\x1b", "\x07", "\u202e", "0x7f3a", "hf_abcdef", "hunter2", "deadbeef", "\n")
WithStub = Callable[..., Media]


@pytest.mark.parametrize(
    "answer",
    [
        *("no-json", "a-number", "a-list", "nothing-asked", "endless-number", "raised", "leaks"),
        *("negative", "zero", "huge", "negative-ratio", "by-zero", "no-ratio"),
        *("too-deep", "unknown-kind", "kind-no-text", "no-reason", "nothing-found"),
        *("memory-no-number", "memory-nothing", "memory-endless", "truth"),
        *("found-a-list", "found-nothing", "endless-ratio"),
    ],
)
def test_an_answer_of_nonsense_is_a_media_error(with_stub: WithStub, answer: str) -> None:
    media = with_stub(answer, limits=QUICK)
    with pytest.raises(MediaError) as caught:
        media.probe("honest.mp4")
    assert isinstance(caught.value, (MediaCrashed, MediaUnreadable))
    assert caught.value.path == "honest.mp4"
    assert caught.value.reason.isprintable()
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


@pytest.mark.parametrize(
    "answer",
    [
        *("no-json", "raised", "leaks"),
        *("too-deep", "unknown-kind", "nothing-found", "memory-no-number"),
    ],
)
def test_pictures_that_never_came_are_a_media_error(with_stub: WithStub, answer: str) -> None:
    with pytest.raises(MediaError):
        list(with_stub(answer, limits=QUICK).pictures("honest.mp4", [Wanted(Fraction(0), 8, 8)]))


@pytest.mark.parametrize("answer", ["codec-moves-the-cursor", "codec-no-text"])
def test_what_is_said_of_a_file_moves_no_cursor_and_tells_no_secret(with_stub: WithStub, answer: str) -> None:
    header = with_stub(answer).probe("honest.mp4")
    for text in (header.codec, header.container):
        assert text.isprintable()
        assert not [secret for secret in SECRETS if secret in text]


def test_a_long_answer_is_read_in_no_time(with_stub: WithStub) -> None:
    """Its reason is long and looks like the beginning of a URL, again and again."""
    media = with_stub("no-end-of-reason")
    assert not media.confined().no_network
    began = time.monotonic()
    with pytest.raises(MediaUnreadable) as caught:
        media.probe("honest.mp4")
    assert len(caught.value.reason) <= 300
    assert time.monotonic() - began < 0.5


def test_an_enormous_message_is_not_waited_for(with_stub: WithStub) -> None:
    with pytest.raises(MediaCrashed):
        with_stub("enormous", limits=QUICK).probe("honest.mp4")


@pytest.mark.parametrize("deed", ["silent", "drip"])
def test_a_process_that_plays_for_time_is_killed_at_its_deadline(with_stub: WithStub, deed: str) -> None:
    media, began = with_stub(deed, limits=QUICK), time.monotonic()
    with pytest.raises(MediaTimeout):
        media.probe("honest.mp4")
    assert time.monotonic() - began < 3
    # Having failed so it is refused at once from then on.
    with pytest.raises(MediaTimeout, match="not tried again"):
        media.refuse(["honest.mp4"])


def test_memory_that_a_process_would_take_away_stays(with_stub: WithStub) -> None:
    """Had it shrunk, this process would die of SIGBUS where it looks at the pictures."""
    media = with_stub("shrink")
    pictures = [p.sum() for _, p in media.pictures("honest.mp4", [Wanted(Fraction(0), 640, 480)])]
    assert pictures == [0]


def test_memory_that_a_process_has_sealed_is_its_own_loss(with_stub: WithStub) -> None:
    """Nobody may let it grow any more, the parent too."""
    media = with_stub("seal")
    wanted = [Wanted(Fraction(0), 640, 480)]
    with suppress(MediaCrashed):
        assert [p.shape for _, p in media.pictures("honest.mp4", wanted)] == [(480, 640, 3)]


@pytest.mark.parametrize(
    "answer",
    [
        *("learnt-negative", "learnt-nothing", "learnt-too-much", "learnt-text", "learnt-truth"),
        *("learnt-no-stamp", "learnt-stamp-of-paths", "learnt-stamp-of-lists", "learnt-lies"),
    ],
)
def test_what_nobody_could_have_learnt_is_not_kept(with_stub: WithStub, tmp_path: Path, answer: str) -> None:
    media = with_stub(answer, cache=tmp_path / "cache")
    assert len(list(media.pictures("honest.mp4", [Wanted(Fraction(0), 8, 8)]))) == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("arguments", [("seal-learnt",), ("learn-own", 1)])
def test_what_a_process_says_it_has_learnt_counts_for_its_own_file_alone(
    with_stub: WithStub, root: Path, tmp_path: Path, arguments: tuple[Any, ...]
) -> None:
    wanted, cache = [Wanted(Fraction(0), 64, 48)], tmp_path / "cache"
    media = with_stub(*arguments, cache=cache)
    assert len(list(media.pictures("honest.mp4", wanted))) == 1
    (written,) = (path for path in cache.rglob("*") if path.is_file())
    assert written == place_of(cache / "packets", media._rules, "honest.mp4", media.stamp("honest.mp4") or ())
    honest, told = Media(root), Media(root, cache=cache)
    ((_, expected),) = honest.pictures("honest.mp4", wanted)
    ((_, found),) = told.pictures("honest.mp4", wanted)
    assert (found == expected).all()
    honest.close()
    told.close()


def test_what_a_process_has_learnt_of_the_second_file_is_asked_of_another(
    with_stub: WithStub, root: Path, tmp_path: Path
) -> None:
    """The first file may have taken it over; a fresh one (here, one that has not been asked twice yet) has learnt
    nothing."""
    (root / "other.mp4").write_bytes((root / "honest.mp4").read_bytes())
    wanted = [Wanted(Fraction(0), 64, 48)]
    media = with_stub("learn-own", 2, cache=tmp_path / "cache")
    for key in ("honest.mp4", "other.mp4"):
        assert len(list(media.pictures(key, wanted))) == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_losses_are_told_in_the_ledger_without_secrets(
    with_stub: WithStub, write_manifest: Callable[..., Path], tmp_path: Path, kit: SimpleNamespace
) -> None:
    media = with_stub("leaks")
    source = ClipSource(write_manifest({"video": "honest.mp4"}), media)
    codec = load_family("tiny", kit.SMALL, kit.VIEW).codec
    dataset = VistaDataset({"clips": source}, (Ingredient(REGISTRY["plain"]()),), codec, media)
    ledger.append(tmp_path / "ledger.jsonl", dataset[0].failures)
    written = (tmp_path / "ledger.jsonl").read_text()
    assert "MediaUnreadable" in written
    assert not [secret for secret in SECRETS[:-1] if secret in written or repr(secret)[1:-1] in written]


def children() -> list[int]:
    """The processes that this one has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [int(folder.name)] if parent == os.getpid() else []
    return found


def test_no_secret_of_the_environment_is_handed_down(
    root: Path, monkeypatch: pytest.MonkeyPatch, kit: SimpleNamespace
) -> None:
    monkeypatch.setenv("HF_TOKEN", kit.SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", kit.SECRET)
    monkeypatch.setenv("LD_PRELOAD", "")
    before, media = set(children()), Media(root)
    media.probe("honest.mp4")
    (child,) = set(children()) - before
    environment = dict(
        entry.split(b"=", 1) for entry in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if entry
    )
    media.close()
    assert child not in children()
    assert b"PYTHONPATH" in environment
    assert not {b"HF_TOKEN", b"AWS_SECRET_ACCESS_KEY", b"LD_PRELOAD", b"HOME"} & set(environment)
    assert kit.SECRET.encode() not in b"".join(environment.values())


def test_a_process_may_write_no_file(with_stub: WithStub, marker: Path) -> None:
    assert done(with_stub("write", marker, "free")) == "it wrote"
    assert marker.read_text() == "it was written"
    marker.unlink()
    assert done(with_stub("write", marker, "confined")).startswith("it may not write")
    assert not marker.exists() or marker.read_bytes() == b""


def test_a_process_reaches_no_network(with_stub: WithStub, root: Path) -> None:
    media = Media(root)
    is_cut_off = media.confined().no_network
    media.close()
    if not is_cut_off:
        pytest.skip("a process may not leave the network here (no namespaces)")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        assert done(with_stub("connect", port, "free")) == "it connected"
        server.accept()[0].close()
        assert done(with_stub("connect", port, "confined")).startswith("it may not connect")
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_process_reads_no_file_outside_the_root(with_stub: WithStub, root: Path, tmp_path: Path) -> None:
    media = Media(root)
    is_held_in = media.confined().no_files
    media.close()
    if not is_held_in:
        pytest.skip("this kernel has no Landlock")
    secret = tmp_path / "beside.txt"
    secret.write_text("secret")
    for path in (secret, Path("/etc/hostname"), Path("/proc/self/environ"), Path(f"/proc/{os.getpid()}/environ")):
        assert done(with_stub("read", path, "free")).startswith("it read ")
        assert done(with_stub("read", path, "confined")) == "it may not read: 13"
    inside = root / "honest.mp4"
    assert done(with_stub("read", inside, "confined")) == f"it read {inside.stat().st_size} bytes"


def test_a_process_sends_no_signal_to_who_started_it(with_stub: WithStub) -> None:
    assert done(with_stub("signal", "free")) == "it reached its parent"
    told = done(with_stub("signal", "confined"))
    if told == "it reached its parent":
        pytest.skip("this kernel's Landlock keeps no signals in (Linux 6.12)")
    assert told == "it may not send: 1"


def done(media: Media) -> str:
    """What a stub says it has done."""
    with pytest.raises(MediaUnreadable) as caught:
        media.probe("honest.mp4")
    return caught.value.reason
