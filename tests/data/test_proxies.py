"""Proxies of a manifest's files: made once, in parts, again after a stop; what cannot be had is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vista_train.cli import main
from vista_train.data.check import Interrupted
from vista_train.data.proxies import make_proxies
from vista_train.video.decode.indexes import read_attached
from vista_train.video.decode.sizes import Sizes
from vista_train.video.media import Media
from vista_train.video.renditions import PROXY, TILES, Renditions


@pytest.fixture
def manifest(world: Path, tmp_path: Path) -> Path:
    """Six good files, one of them twice, one that is none, one that is not there."""
    videos = sorted({json.loads(line)["video"] for line in (world / "clips.jsonl").read_text().splitlines()})[:6]
    (tmp_path / "root").mkdir()
    for number, video in enumerate(videos):
        (tmp_path / "root" / f"{number}.mp4").write_bytes((world / video).read_bytes())
    (tmp_path / "root" / "none.mp4").write_bytes(b"no video at all")
    names = ["0.mp4", "1.mp4", "none.mp4", "2.mp4", "0.mp4", "gone.mp4", "3.mp4", "4.mp4", "5.mp4"]
    lines = [json.dumps({"video": name, "caption": f"Thing {at}."}) + "\n" for at, name in enumerate(names)]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    return tmp_path / "m.jsonl"


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every rendition, its size and when it was written."""
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.suffix in (PROXY, TILES)
    }


def test_a_manifests_files_get_renditions_once(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, root = manifest.parent / "proxies", manifest.parent / "root"
    command = ["proxies", str(manifest), "--root", str(root), "--out", str(out), "--short-edge", "48", "--workers", "2"]
    command += ["--tiles", "24", "--cache", str(manifest.parent / "cache")]
    assert main(command) == 1
    told = capsys.readouterr().out
    assert "6 files have proxies, 6 of them made now" in told
    assert "2 files have none (1 MediaMissing, 1 MediaUnreadable)" in told
    faults = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert {(fault["video"], fault["kind"]) for fault in faults} == {
        ("none.mp4", "MediaUnreadable"), ("gone.mp4", "MediaMissing"),
    }  # fmt: skip
    before = files(out)
    assert len(before) == 12
    known = read_attached(Renditions(str(out)).place("3.mp4", PROXY))
    assert min(known.about["size"]) == 48
    assert main(command) == 1
    assert "6 files have proxies, 0 of them made now" in capsys.readouterr().out
    assert files(out) == before
    os.utime(root / "3.mp4", ns=(5, 5))
    assert main([*command[:-4], "--tiles", "20", *command[-2:]]) == 1
    assert "6 files have proxies, 6 of them made now" in capsys.readouterr().out, "other sizes are made anew"
    assert not list(out.rglob(".building*"))


def test_parts_make_the_whole(manifest: Path) -> None:
    root, outcomes = manifest.parent / "root", []
    for shard in ((1, 2), (2, 2), (1, 1)):
        media = Media(root, isolate="inline", makes_proxies=True)
        outcomes.append(make_proxies(manifest, media, manifest.parent / "p", Sizes(48), shard, 1, manifest.parent))
    assert [outcome.made for outcome in outcomes] == [2, 4, 0]
    assert [outcome.failed.total() for outcome in outcomes] == [2, 0, 2]
    assert len(files(manifest.parent / "p")) == 6


def test_what_the_user_can_mend_is_said(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, blocked = str(manifest.parent / "root"), manifest.parent / "blocked"
    blocked.write_text("a file")
    for options, said in (
        (["--out", str(blocked)], "cannot be written"),
        (["--out", "x", "--short-edge", "4"], "short_edge is 4; it must lie in 8..4320"),
        (["--out", "x", "--tile-fps", "-1"], "tile_fps is -1.0; it must be above 0"),
        (["--out", "x", "--workers", "0"], "workers is 0"),
        (["--out", "x", "--shard", "3/2"], "shard is '3/2'"),
    ):
        assert main(["proxies", str(manifest), "--root", root, *options]) == 2
        assert said in capsys.readouterr().err
    assert main(["proxies", str(manifest), "--root", str(manifest.parent / "no"), "--out", "x"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_stop_leaves_nothing_half_made_and_the_rest_follows(manifest: Path) -> None:
    out = manifest.parent / "p"
    script = (
        "import sys; from vista_train.video.decode import transcode; from vista_train.cli import main; import time\n"
        "from vista_train.video.media import Media; make = Media.transcode\n"
        "def slow(self, *given): made = make(self, *given); time.sleep(2); return made\n"
        "Media.transcode = slow; sys.exit(main(sys.argv[1:]))"
    )
    command = ["proxies", str(manifest), "--root", str(manifest.parent / "root"), "--out", str(out)]
    command += ["--short-edge", "48", "--tiles", "24", "--workers", "2", "--cache", str(manifest.parent / "cache")]
    process = subprocess.Popen([sys.executable, "-c", script, *command], stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while len(files(out)) < 4 and time.monotonic() - began < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    there = files(out)
    assert 4 <= len(there) < 12
    for path in out.rglob("*.mp4"):
        assert len(read_attached(path).index) > 1
    outcome = make_proxies(
        manifest, Media(manifest.parent / "root", isolate="inline", makes_proxies=True), out, Sizes(48, 24), workers=1,
        cache=manifest.parent / "cache",
    )  # fmt: skip
    assert outcome.made == 6 - sum(name.endswith(PROXY) for name in there), "where there is a proxy there are tiles"
    assert len(files(out)) == 12
    assert {name: facts for name, facts in files(out).items() if name in there and name.endswith(PROXY)} == {
        name: facts for name, facts in there.items() if name.endswith(PROXY)
    }


def test_an_interrupt_in_a_notebook_is_an_error_of_its_own(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vista_train.data.crew.Crew.run", stop)
    media = Media(manifest.parent / "root", isolate="inline", makes_proxies=True)
    with pytest.raises(Interrupted, match="interrupted after 0 of 8 files"):
        make_proxies(manifest, media, manifest.parent / "p", Sizes(48), cache=manifest.parent)
