"""The runs of a sweep: one recipe at several rates, each in a process of its own that can be stopped and goes on."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vista_train.config import Recipe, load_recipe, parse_recipe
from vista_train.data.check import Interrupted
from vista_train.data.crew import terminable
from vista_train.data.journal import Draft, records, writing
from vista_train.models.base import PARTS
from vista_train.redact import phrase
from vista_train.sweep.curves import Curve, curve_of
from vista_train.training.stopped import STOPPED

RECIPE, FINISHED, OUTPUT = "recipe.yaml", "finished.json", "output.txt"
LOOK_SECONDS = 0.5
"""How often a run is looked after; asked to stop, it is asked again as often, since one that loads does not listen."""
TOLD_EVERY_SECONDS = 30.0
TAIL_BYTES = 1 << 16
SAID = re.compile(r"vista_train: (.+)|^(?:\[rank\d+\]: *)?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")
NO_CAUSE = re.compile(
    r"(rank \d+: )?(step \d+: |\d+ samples |another process of the run )|\S*(ChildFailed|CalledProcess)Error"
)
"""What is said of a run that goes on, of a rank that misses another, and by launchers."""
MAX_DIFFERENCES = 3
LAUNCHED = {"PET_SIGNALS_TO_HANDLE": "SIGINT,SIGHUP,SIGQUIT"}
"""A launcher that handled SIGTERM would kill its ranks after 30 s, in the middle of a save (see
scripts/train_multinode.sh)."""


@dataclass(frozen=True)
class Run:
    """One rate of a sweep."""

    rate: float
    recipe: Recipe

    @property
    def output(self) -> Path:
        return Path(self.recipe.output)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return (self.output / FINISHED).is_file()


def planned(recipe: Recipe, rates: Sequence[float], steps: int, out: Path) -> list[Run]:
    """The runs, below `out`; `ValueError` for rates that cannot be meant, and where another recipe's sweep is there."""
    if steps < 1:
        raise ValueError(f"--steps is {steps}; it must be at least 1")
    if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"--rates are {_listed(rates)}; write numbers above 0, such as 1e-5,3e-5,1e-4")
    if len(set(rates)) < len(rates):
        raise ValueError(f"--rates are {_listed(rates)}; the same twice is the same run")
    runs = [Run(rate, at_rate(recipe, rate, steps, out / f"lr-{rate!r}")) for rate in rates]
    for run in runs:
        _check_same(run)
    return runs


def at_rate(recipe: Recipe, rate: float, steps: int, output: Path) -> Recipe:
    """The recipe with another `train.lr`, over so many steps.

    Seed and data stay, and with them every sample. The rate of a part that has its own (`train.vision: 2.0e-6`, or the
    `lr` of its section) is scaled with it, so that parts keep their proportions; frozen parts stay frozen. Warm-up and
    decay are those of a run of `steps` steps: the rate ends where the schedule ends, not where the long run would be.
    """
    data = recipe.model_dump(mode="json", exclude_none=True)
    train, before = data["train"], data["train"]["lr"]
    for part in PARTS:
        own = train[part]
        is_section = isinstance(own, Mapping)
        own_rate = own.get("lr") if is_section else None if isinstance(own, bool) else own
        if not own_rate:
            continue
        if not before:
            raise ValueError(f"train.lr is 0, and train.{part} has a rate of its own; its proportion cannot be kept")
        scaled = own_rate * (rate / before)
        train[part] = {**own, "lr": scaled} if is_section else scaled
    data["train"] = train | {"lr": rate, "steps": steps}
    data["output"] = str(output)
    return parse_recipe(data, f"at a rate of {rate:g}")


def sweep(runs: Sequence[Run], out: Path, launch: str | None = None, keep_checkpoints: bool = False) -> list[Curve]:
    """Run one after the other what is not finished, and return what each has logged.

    A run that fails is told by its curve, and does not stop the others. `launch` is the command that starts
    `-m vista_train.train`, default this interpreter. Of a finished run the checkpoints are deleted, unless they are to
    be kept: a sweep's are of no use, and of a large model as large as a disk. `Interrupted` when the process is told to
    stop; the run at work saves first.
    """
    command = shlex.split(launch) if launch else [sys.executable]
    curves = []
    with _held(out) as lock, terminable():
        for run in runs:
            failure = None if run.is_finished else _trained(run, command, bool(launch), lock)
            if failure is None and not keep_checkpoints:
                _drop_checkpoints(run.output)
            curves.append(curve_of(run.output, run.rate, failure))
    return curves


def _trained(run: Run, command: Sequence[str], is_launcher: bool, lock: int) -> str | None:
    """Run to the end; what went wrong, if something did."""
    with writing(run.output):
        run.output.mkdir(parents=True, exist_ok=True)
    with Draft(run.output / RECIPE) as draft:
        draft.add(run.recipe.to_yaml().rstrip("\n"))
        draft.publish()
    told = run.output / OUTPUT
    before = told.stat().st_size if told.exists() else 0
    arguments = [*command, "-m", "vista_train.train", str(run.output / RECIPE)]
    interval = 0.5 if sys.stderr.isatty() else TOLD_EVERY_SECONDS
    process, is_interrupted = _started(arguments, told, is_launcher, lock), False
    try:
        with tqdm(
            total=run.recipe.make_loop().steps, desc=f"lr {run.rate:g}", unit="step", mininterval=interval
        ) as progress:
            _watch(process, lambda: _show(progress, run.output))
    except KeyboardInterrupt:
        is_interrupted = True
        _stop(process, is_launcher)
    finally:
        _signal(process, signal.SIGKILL, with_descendants=True)
    # It may have come to its end all the same.
    failure = _ended(run, process.returncode, told, before)
    if is_interrupted:
        step = _step_of(run.output)
        raise Interrupted(f"interrupted at a rate of {run.rate:g} after step {step}; the same command goes on")
    return failure


def _ended(run: Run, code: int, told: Path, before: int) -> str | None:
    """What went wrong, if something did; else the run is finished, and is not run again."""
    if code:
        how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
        return f"{how}: {_last_line(told, before)}"
    if (run.output / STOPPED).exists():
        return f"stopped from outside after step {_step_of(run.output)}; the same command goes on"
    with Draft(run.output / FINISHED) as draft:
        draft.add(json.dumps({"steps": _step_of(run.output)}))
        draft.publish()
    return None


def _started(arguments: Sequence[str], told: Path, is_launcher: bool, lock: int) -> subprocess.Popen[bytes]:
    """A run at work, in a session of its own: a terminal's Ctrl-C would end it without a save.

    As long as it is there, it holds the sweep's lock too: who kills the sweep and starts it again is told.
    """
    is_main = threading.current_thread() is threading.main_thread()
    with writing(told):
        stream = told.open("ab")
    # What is ignored here stays so in a launcher, which must outlive its ranks; these listen all the same.
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN) if is_launcher and is_main else None
    try:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
            env={**os.environ, **(LAUNCHED if is_launcher else {})},
        )
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"--launch starts with {arguments[0]!r}, which cannot be run: {error.strerror}") from None
    finally:
        stream.close()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _watch(process: subprocess.Popen[bytes], look: Callable[[], None]) -> None:
    """Wait for the end of a run, and look after it meanwhile, and once more when it has ended."""
    while process.poll() is None:
        look()
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
    look()


def _stop(process: subprocess.Popen[bytes], is_launcher: bool) -> None:
    """Have a run save and end; told to stop once more meanwhile, it is killed."""
    print("vista_train: the run saves after its step; Ctrl-C again ends it at once", file=sys.stderr, flush=True)
    # A launcher does not pass it on, and starts ranks in sessions of their own.
    try:
        _watch(process, lambda: _signal(process, signal.SIGTERM, with_descendants=is_launcher))
    except KeyboardInterrupt:
        _signal(process, signal.SIGKILL, with_descendants=True)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals, with_descendants: bool) -> None:
    """To a run, if it is still there, and to all that it has started: parents first, so that none of them can react."""
    if process.poll() is not None:
        return
    family = [process.pid]
    for pid in family if with_descendants else ():
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            # A thread may end in between.
            with suppress(FileNotFoundError, ProcessLookupError):
                family += map(int, children.read_text().split())
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def _held(out: Path) -> Iterator[int]:
    """The lock of a sweep's folder, as a descriptor; `ValueError` where another has it."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{out} is in use: another sweep runs there, or a run that one has left behind; wait for it, or name "
                f"another place with --out"
            ) from None
        except OSError:
            # Some network file systems have no locks; there, whoever starts two sweeps must know it.
            pass
        yield lock.fileno()


def _check_same(run: Run) -> None:
    path = run.output / RECIPE
    if not path.is_file():
        return
    before, now = (dict(_leaves(one.model_dump(mode="json"))) for one in (load_recipe(path), run.recipe))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key) and key != "output"]
    if changed:
        told = ", ".join(
            f"{key} {before.get(key)!r:.60} is now {now.get(key)!r:.60}" for key in changed[:MAX_DIFFERENCES]
        )
        raise ValueError(
            f"{run.output} was run by another recipe ({told}); choose another place with --out, or delete it"
        )


def _leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested sections with its key, `a.b.c`."""
    if not isinstance(data, Mapping):
        yield path, data
        return
    for key, value in data.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _drop_checkpoints(output: Path) -> None:
    for folder in output.glob("step-*"):
        shutil.rmtree(folder)


def _show(progress: Any, output: Path) -> None:
    progress.update(max(0, _step_of(output) - progress.n))


def _step_of(output: Path) -> int:
    """The last step that a run has logged."""
    log = output / "log.jsonl"
    return max((record["step"] for _, record in records(log)), default=0) if log.is_file() else 0


def _last_line(told: Path, before: int) -> str:
    with told.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        stream.seek(max(before, end - TAIL_BYTES))
        return cause_in(stream.read().decode(errors="replace"))


def cause_in(text: str) -> str:
    """Of what a failed run told, the last sentence of ours or error of Python's that may be the cause.

    A launcher has many more lines to say, and ranks that lost another name no cause; where nothing else is there, the
    last line is all that is known.
    """
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    # A progress bar may stand before a sentence of ours.
    told = [found[1] or found[2] for line in lines if (found := SAID.search(line))]
    causes = [one for one in told if not NO_CAUSE.match(one)]
    return phrase((causes or told or lines or ["nothing was told"])[-1])


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates) or "none"
