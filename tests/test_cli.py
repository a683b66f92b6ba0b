"""`vista-train ledger` and `doctor`: what a run has lost, and what is bad about a machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vista_train import doctor
from vista_train.cli import main
from vista_train.data import ledger
from vista_train.types import Failure

LOST = [
    Failure(ledger.NO_POSITION, 0, "left/out.mp4", "no video stream", "short"),
    *(Failure(position, 0, "hang.mp4", "MediaTimeout: not decoded within 10 s", "long") for position in (3, 8, 9)),
    Failure(8, 1, "cut.mp4", "MediaUnreadable: truncated", "short"),
    Failure(9, 1, "two_needle", "none of 32 casts can be composed"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ledger.append(tmp_path / "ledger.jsonl", LOST)
    return tmp_path


def test_losses_by_reason_and_source(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 losses, of 3 samples"
    assert [line.split() for line in lines[2:7]] == [
        ["reason", "source", "losses", "files"],
        ["MediaTimeout", "long", "3", "1"],
        ["left", "out", "short", "1", "1"],
        ["MediaUnreadable", "short", "1", "1"],
        ["not", "composed", "-", "1", "1"],
    ]
    assert lines[9].split(maxsplit=1) == ["3", "hang.mp4: MediaTimeout: not decoded within 10 s"]


def test_some_losses_alone_and_as_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", str(run), "--source", "short", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(entry["kind"], entry["key"]) for entry in told] == [
        ("left out", "left/out.mp4"),
        ("MediaUnreadable", "cut.mp4"),
    ]
    assert main(["ledger", str(run / "ledger.jsonl"), "--reason", "MediaTimeout"]) == 0
    assert capsys.readouterr().out.startswith("3 losses, of 3 samples\n")


def test_no_losses_and_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert main(["ledger", str(folder)]) == 2
        assert "there is no run here" in capsys.readouterr().err
    (tmp_path / ".lock").touch()
    assert main(["ledger", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing was lost\n"
    assert main(["ledger", str(tmp_path), "--json"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ['{"video": "a.mp4", "caption": "A dog."}\n', "[]\n", b"\xa0\xff\n"])
def test_what_is_no_ledger_is_said_to_be_none(
    tmp_path: Path, text: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["ledger", str(file)]) == 2
    assert capsys.readouterr().err == f"vista_train: {file}:1: this is no line of a ledger\n"


def test_the_ledger_keeps_no_secrets(tmp_path: Path) -> None:
    reason = "MediaUnreadable: https://host/a.mp4?X-Amz-Signature=abcdef0123 of hf_abcdefghijklmnop"
    ledger.append(tmp_path / "ledger.jsonl", [Failure(0, 0, "a.mp4", reason)])
    text = (tmp_path / "ledger.jsonl").read_text()
    assert "abcdef" not in text
    assert "https://host/a.mp4?***" in text


@pytest.mark.parametrize(
    ("name", "version", "is_bad"),
    [
        ("FFmpeg", "8.1.2", False),
        ("FFmpeg", "n8.2", False),
        ("FFmpeg", "8.1.1", True),
        ("FFmpeg", "8.1", True),
        ("FFmpeg", "5.1.9-0+deb12u1", True),
        ("FFmpeg", "4 (libavcodec 58.35.100)", True),
        ("FFmpeg", "N-120001-gabcdef", True),
        ("torch", "2.9.1+cu128", True),
        ("torch", "2.10.0", False),
        ("transformers", "5.2.0", True),
        ("transformers", "5.24.0", False),
        ("numpy", "0.1", False),
    ],
)
def test_known_bad_versions(name: str, version: str, is_bad: bool) -> None:
    assert bool(doctor.known_bad(name, version)) == is_bad


def test_doctor_tells_versions_protection_and_what_is_bad(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ffmpeg_versions", lambda: {"av": "7.0.1"})
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "FFmpeg in av         7.0.1" in told
    assert "warning: FFmpeg in av 7.0.1: older than 8.1.2: CVE-2026-8461" in told
    assert "isolation            works" in told
    assert any(f"network of decoders  {found}" in told for found in ("none", "reachable"))
