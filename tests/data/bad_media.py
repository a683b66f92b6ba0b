"""Thousands of samples out of a folder of which one file in twenty is bad and ten hang or kill who decodes them.

`python tests/data/bad_media.py --clips CLIPS --samples 10000` runs them with 0, 1 and 4 data workers, and once without
the bad files; it prints a table and fails where a promise is broken. The suite runs a short one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from torch.utils.data import DataLoader

from tests.data.conftest import BareCodec
from vista_train.augment import Plain, SpatialNeedle, TemporalNeedle, TwoNeedle, VideoGrid
from vista_train.data import ledger
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.types import Encoded, Failure
from vista_train.video import quarantine
from vista_train.video.decode import Limits
from vista_train.video.media import NOT_AGAIN, Media

MIX = tuple(
    Ingredient(kind) for kind in (TemporalNeedle(), TwoNeedle(), SpatialNeedle(), VideoGrid(rows=2, columns=2), Plain())
)
COSTLY = ("hang",) * 7 + ("spin", "abort", "killed")
DAMAGE = ("gone", "empty", "text", "cut", "hole", "folder", "fifo", "link")
BAD_SHARE = 0.05
DEADLINE_SECONDS = 1.0
STUB = ("-m", "tests.video.stub_child")
WORKERS = (0, 1, 4)
MOST_SLOWER, MOST_GROWTH = 1.5, 0.05


@dataclass
class Outcome:
    """What one pass over the samples came to."""

    workers: int
    seconds: float = 0.0
    digests: list[str] = field(default_factory=list)
    """Of each sample: its position, kind, attempt, words and pixels."""
    failures: list[Failure] = field(default_factory=list)
    resident_bytes: dict[int, int] = field(default_factory=dict)
    """Of this process, its data workers and their decoders, by the number of samples made."""

    @property
    def costly(self) -> list[Failure]:
        """Losses that took a process with them."""
        tried = [failure for failure in self.failures if NOT_AGAIN not in failure.reason]
        return [failure for failure in tried if failure.kind in quarantine.COSTLY]


def spoil(clips: Path, out: Path) -> dict[str, str]:
    """A copy of a rendered world with bad files in it; what is wrong with each of them, by its path."""
    shutil.copytree(clips, out)
    lines = [json.loads(line) for line in (out / "clips.jsonl").read_text().splitlines()]
    step = max(1, len(lines) // (round(len(lines) * BAD_SHARE) + len(COSTLY)))
    harms = [*COSTLY, *(DAMAGE[number % len(DAMAGE)] for number in range(round(len(lines) * BAD_SHARE)))]
    told = {}
    for number, harm in enumerate(harms):
        line = lines[number * step]
        before = out / line["video"]
        after = before.with_name(f"{harm}_{before.name}")
        before.rename(after)
        line["video"] = after.relative_to(out).as_posix()
        told[line["video"]] = harm
        _damage(after, harm)
    (out / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return told


def _damage(path: Path, harm: str) -> None:
    content = path.read_bytes()
    if harm in COSTLY:
        return
    path.unlink()
    match harm:
        case "empty":
            path.touch()
        case "text":
            path.write_text("no video")
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "hole":
            third = len(content) // 3
            path.write_bytes(content[:third] + bytes(third) + content[2 * third :])
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            whole = path.with_name(f"whole_{path.name}")
            whole.write_bytes(content)
            path.symlink_to(whole.name)


def dataset_of(root: Path, cache: Path) -> VistaDataset:
    """All clips of a folder, decoded apart by readers that do harm where a file's name says so."""
    media = Media(root, limits=Limits(deadline_seconds=DEADLINE_SECONDS), program=STUB)
    source = ClipSource(root / "clips.jsonl", media, cache)
    return VistaDataset({"clips": source}, MIX, BareCodec(), media, seed=5)


def run(dataset: VistaDataset, samples: int, workers: int) -> Outcome:
    """All samples in order, by so many workers."""
    outcome = Outcome(workers)
    loader = DataLoader(dataset, batch_size=None, sampler=range(samples), num_workers=workers)
    since = time.monotonic()
    for count, encoded in enumerate(loader, 1):
        outcome.digests.append(_digest(encoded))
        outcome.failures += encoded.failures
        if count in (samples // 10, samples):
            outcome.resident_bytes[count] = _resident()
    outcome.seconds = time.monotonic() - since
    dataset.media.close()
    return outcome


def _digest(encoded: Encoded) -> str:
    digest = hashlib.sha256(f"{encoded.position} {encoded.kind} {encoded.attempt}".encode())
    for tensor in (encoded.input_ids, encoded.labels, encoded.frames_TCHW):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _resident() -> int:
    me = psutil.Process()
    return sum(process.memory_info().rss for process in (me, *me.children(recursive=True)))


def broken(outcomes: Sequence[Outcome], clean: Outcome, harm: dict[str, str], folder: Path) -> Iterator[str]:
    """Every promise that was not kept, in a sentence."""
    first = outcomes[0]
    for outcome in outcomes:
        name = f"{outcome.workers} workers"
        if outcome.digests != first.digests:
            yield f"{name}: other samples than {first.workers} workers make"
        losses = [(f.position, f.attempt, f.key, f.kind) for f in outcome.failures]
        if losses != [(f.position, f.attempt, f.key, f.kind) for f in first.failures]:
            yield f"{name}: other losses than with {first.workers} workers"
        if {failure.key for failure in outcome.failures} != set(harm):
            yield f"{name}: lost {sorted({f.key for f in outcome.failures} ^ set(harm))} and should not have, or not"
        path = folder / f"ledger_{outcome.workers}.jsonl"
        ledger.append(path, outcome.failures)
        if ledger.read(path) != outcome.failures:
            yield f"{name}: the ledger is not what was lost"
        tried = [failure.key for failure in outcome.costly]
        # Workers that are at one file in the same moment both wait for it.
        if len(tried) > len(COSTLY) + 1 + 2 * outcome.workers:
            yield f"{name}: {len(tried)} processes were lost to {len(COSTLY)} files"
        allowed = MOST_SLOWER * clean.seconds + len(tried) * DEADLINE_SECONDS / max(1, outcome.workers)
        if outcome.seconds > allowed:
            yield f"{name}: {outcome.seconds:.1f} s, more than {allowed:.1f} s"


def grown(outcome: Outcome) -> float:
    """By what share memory grew from a tenth of the samples to the last."""
    early, late = outcome.resident_bytes.values()
    return late / early - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run all passes, print them, and say what is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="a folder that scripts/make_clips.py made")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("out/bad_media"))
    arguments = parser.parse_args(argv)
    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    harm = spoil(arguments.clips, arguments.out / "clips")
    clean = run(dataset_of(arguments.clips, arguments.out / "cache"), arguments.samples, 0)
    outcomes = [
        run(dataset_of(arguments.out / "clips", arguments.out / "cache"), arguments.samples, workers)
        for workers in WORKERS
    ]
    print(f"{arguments.samples} samples; {len(harm)} of {len(harm) and _num_clips(arguments.clips)} files bad")
    for name, outcome in [("clean, 0 workers", clean), *((f"bad, {o.workers} workers", o) for o in outcomes)]:
        early, late = (size / 2**20 for size in outcome.resident_bytes.values())
        print(
            f"{name:<18}{outcome.seconds:8.1f} s{len(outcome.failures):7} losses{len(outcome.costly):5} processes lost"
            f"   {early:7.0f} -> {late:.0f} MiB ({grown(outcome):+.1%})"
        )
    print(ledger.table(outcomes[0].failures))
    wrong = list(broken(outcomes, clean, harm, arguments.out))
    wrong += [
        f"{outcome.workers} workers: memory grew by {grown(outcome):.1%}"
        for outcome in outcomes
        if grown(outcome) > MOST_GROWTH
    ]
    for sentence in wrong:
        print(f"broken: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _num_clips(clips: Path) -> int:
    return len((clips / "clips.jsonl").read_text().splitlines())


if __name__ == "__main__":
    sys.exit(main())
