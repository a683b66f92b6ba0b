"""Questions by a language model: a manifest's captions in, the same manifest with more question/answer pairs out.

What comes back is kept in a journal in a work folder, so that a run may be stopped at any moment and goes on when it is
started again, without asking anything twice; what it writes in the end is the same, to the byte.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vista_train.data.check import BAR_SECONDS, Interrupted
from vista_train.data.crew import Crew, terminable
from vista_train.data.findings import members_of
from vista_train.data.journal import Draft, writing
from vista_train.data.manifest import MAX_LINE_BYTES, Manifest, open_manifest
from vista_train.synthesis import prompts
from vista_train.synthesis.answers import Answers, Try
from vista_train.synthesis.budget import BudgetReached, Prices
from vista_train.synthesis.endpoint import (
    Connection,
    Endpoint,
    EndpointError,
    RefusedError,
    Retries,
    UnavailableError,
)
from vista_train.synthesis.pace import Pace, Stopped
from vista_train.synthesis.replies import ReplyError, pairs_of
from vista_train.synthesis.tasks import Asking, Task, Tasks
from vista_train.video.composition import QA, qa_from_json

JOURNAL, REJECTS = "journal.jsonl", "rejects.jsonl"
MOST_UNAVAILABLE = 3
"""So many questions without an answer, one after another, and the endpoint is taken to be down."""


@dataclass(frozen=True)
class Outcome:
    """What was asked, answered and written."""

    out: Path
    rejects: Path
    lines: int
    pairs: int
    """Question/answer pairs that the manifest did not have."""
    answered: int
    rejected: int
    """Tasks, of which each asks for one or several pairs, without a reply that can be used."""
    left: int
    """Tasks that were not asked, or not answered."""
    asked_now: int
    """Tasks that this run has asked; the others were answered before."""
    tokens_in: int
    tokens_out: int
    dollars: float
    """By all runs of this work folder."""
    unknown: int
    """Clips whose length the manifest does not tell, so that they are in no row."""
    stopped: str = ""
    """Why something is left."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"out": str(self.out), "rejects": str(self.rejects)}

    def __str__(self) -> str:
        lines = [
            f"{self.answered} answers, {self.asked_now} of the tasks asked now: {self.pairs} new pairs on {self.lines} "
            f"lines: {self.out}",
            f"{self.tokens_in} tokens in, {self.tokens_out} out, ${self.dollars:.4f}, all runs together",
        ]
        if self.rejected:
            lines.append(f"{self.rejected} rejected: {self.rejects}")
        if self.left:
            lines.append(f"{self.left} left{f': {self.stopped}' if self.stopped else ''}; the same command goes on")
        if self.unknown:
            lines.append(
                f"{self.unknown} clips are in no row, for their length is unknown; `vista-train check` writes it"
            )
        return "\n".join(lines)


def ask_questions(
    manifest: str | Path,
    connection: Connection,
    out: str | Path,
    asking: Asking = Asking(),  # noqa: B008 - it is frozen
    prices: Prices = Prices(),  # noqa: B008
    budget: float | None = None,
    workers: int = 8,
    pace: Pace | None = None,
    retries: Retries = Retries(),  # noqa: B008
    most_tries: int = 3,
    work: str | Path | None = None,
    retry: bool = False,
    cache: str | Path | None = None,
    rng: np.random.Generator | None = None,
) -> Outcome:
    """Ask for what `asking` says about a manifest's clips, and write the manifest with what came of it to `out`.

    `workers` requests are under way at a time. `budget` is in dollars, for all runs in the same `work` folder
    (default: `<out>.work`) together. A reply that does not hold is asked for again, `most_tries` times in all; what is
    rejected then is not asked again but with `retry`. `rng` is for the waits between tries. `ValueError` for what
    the user can mend, `Interrupted` when the process is told to stop.
    """
    path, out = Path(manifest), Path(out)
    folder = out.with_name(f"{out.name}.work") if work is None else Path(work)
    _check_places(path, out)
    if workers < 1 or most_tries < 1:
        raise ValueError(f"workers is {workers} and tries is {most_tries}; both must be 1 or more")
    pace = pace or Pace()
    session: Session | None = None
    try:
        with ExitStack() as stack:
            stack.enter_context(terminable())
            opened = open_manifest(path, cache, allow_absolute=True)
            tasks = Tasks(opened, asking)
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
            answers = stack.enter_context(closing(Answers(folder / JOURNAL, prices, budget, retry)))
            rng = np.random.default_rng() if rng is None else rng
            endpoint = stack.enter_context(closing(Endpoint(connection, answers.budget, pace, rng, retries)))
            # First of all when something ends: whoever waits, wakes up.
            stack.callback(pace.stop)
            session = Session(tasks, answers, endpoint, connection, asking, most_tries)
            stopped = session.ask(workers, pace)
            return session.write(opened, out, folder / REJECTS, stopped)
    except KeyboardInterrupt:
        how_far = "before the first task" if session is None else session.how_far
        raise Interrupted(f"interrupted {how_far}; the same command goes on from there") from None


class Session:
    """One run: what is still to be asked is asked, and all that is known is written."""

    def __init__(
        self,
        tasks: Tasks,
        answers: Answers,
        endpoint: Endpoint,
        connection: Connection,
        asking: Asking,
        most_tries: int,
    ) -> None:
        self._tasks, self._answers, self._endpoint = tasks, answers, endpoint
        self._connection, self._asking, self._most_tries = connection, asking, most_tries
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._unavailable = 0
        self._ended: EndpointError | BudgetReached | None = None
        self.done = 0
        self.asked = 0

    @property
    def how_far(self) -> str:
        """Of the tasks, how many are done, and what that has cost."""
        return f"after {self.done} of {len(self._tasks)} tasks, ${self._answers.budget.cost:.4f}"

    def ask(self, workers: int, pace: Pace) -> str:
        """Ask what is not answered; why that had to end before its time, or nothing."""
        budget, watched = self._answers.budget, sys.stderr.isatty()
        with tqdm(
            total=len(self._tasks), desc="questions", unit="task", mininterval=0.1 if watched else BAR_SECONDS
        ) as progress:

            def keep(number: int, found: dict[str, Any] | None) -> None:
                self.done += 1
                progress.set_postfix_str(f"${budget.cost:.4f}", refresh=False)
                progress.update()

            def find(number: int) -> None:
                try:
                    self._settle(self._tasks[number])
                except (EndpointError, BudgetReached) as error:
                    self._ended = self._ended or error
                    pace.stop()
                    raise

            try:
                Crew(find, keep).run(iter(range(len(self._tasks))), min(workers, max(1, len(self._tasks))))
            except (EndpointError, BudgetReached, Stopped):
                # Whoever was woken by the end of another may be the first to say so.
                if isinstance(self._ended, EndpointError):
                    raise self._ended from None
                return f"the next request might go beyond the budget of ${budget.dollars:g}"
        return "the endpoint did not answer" if self._unavailable else ""

    def write(self, manifest: Manifest, out: Path, rejects: Path, stopped: str) -> Outcome:
        """The manifest's lines in their order, with what belongs to each; both files appear when they are whole."""
        counts: Counter[str] = Counter()
        with Draft(out) as kept, Draft(rejects) as faults:
            for number, row, line in _lines(manifest):
                text = line.decode().strip()
                pairs = [] if row is None else self._pairs(row, number, faults, counts)
                renewed = _extended(text, pairs) if pairs else text
                if len(renewed.encode()) >= MAX_LINE_BYTES:
                    raise ValueError(f"{manifest.path}:{number}: with {len(pairs)} more pairs the line is over 1 MB")
                kept.add(renewed)
                counts["lines"] += row is not None
                counts["pairs"] += len(_missing(text, pairs)) if pairs else 0
            faults.publish()
            kept.publish()
        spent = self._answers.budget.spent
        return Outcome(
            out, rejects, counts["lines"], counts["pairs"], counts["answered"], counts["rejected"], counts["left"],
            self.asked, spent.sent, spent.received, self._answers.budget.cost, self._tasks.num_unknown, stopped,
        )  # fmt: skip

    def _pairs(self, row: int, number: int, faults: Draft, counts: Counter[str]) -> list[QA]:
        """What was answered to all that belongs to a row; what was not is counted, and its faults told."""
        pairs: list[QA] = []
        for task in self._tasks.of_row(row):
            key = self._key(task)
            found = self._answers.pairs(key)
            if found is not None:
                counts["answered"] += 1
                pairs += found
            elif self._answers.is_over(key, self._most_tries):
                counts["rejected"] += 1
                tries = self._answers.tries(key)
                told = {"line": number, "video": task.clips[0][0], "kind": task.kind, "clips": len(task.rows)}
                told |= {"reason": tries[-1].reason, "tries": [tried._asdict() for tried in tries]}
                faults.add(json.dumps(told, ensure_ascii=False))
            else:
                counts["left"] += 1
        return pairs

    def _settle(self, task: Task) -> None:
        """Ask until there is an answer, or none is hoped for."""
        key = self._key(task)
        with self._lock:
            # The same clip may stand on several lines.
            if key in self._claimed or self._answers.is_over(key, self._most_tries):
                return
            self._claimed.add(key)
            self.asked += 1
        while not self._answers.is_over(key, self._most_tries):
            reasons = [tried.reason for tried in self._answers.tries(key)]
            asked = prompts.messages(task.kind, task.captions, self._asking.pairs, reasons)
            try:
                answer = self._endpoint.ask(asked)
            except RefusedError as error:
                if not self._answers.any:
                    raise EndpointError(f"the endpoint refuses what it is asked: {error}") from None
                self._answers.reject(key, Try(f"the endpoint refuses it: {error}", ""), is_final=True)
                return
            except UnavailableError as error:
                with self._lock:
                    self._unavailable += 1
                    if self._unavailable >= MOST_UNAVAILABLE:
                        raise EndpointError(f"{error}; the same command goes on when it is back") from None
                return
            self._judge(task, key, answer.text, answer.problem)

    def _judge(self, task: Task, key: str, text: str, problem: str) -> None:
        with self._lock:
            self._unavailable = 0
        text = self._endpoint.without_key(text)
        try:
            if problem:
                raise ReplyError(problem)
            self._answers.keep(key, pairs_of(task.kind, text, self._asking.pairs, len(task.rows)))
        except ReplyError as error:
            self._answers.reject(key, Try(str(error), text))

    def _key(self, task: Task) -> str:
        return task.key(self._connection.model, self._connection.temperature, self._asking.pairs)


def _check_places(manifest: Path, out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out must name a file to write")
    if out.resolve() == manifest.resolve():
        raise ValueError(f"{out} is the manifest itself, which is left as it is; name another file with --out")


def _lines(manifest: Manifest) -> Iterator[tuple[int, int | None, bytes]]:
    """(number from 1, row, text) of every line; an empty line has no row."""
    with manifest.path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != manifest.sha256:
            raise ValueError(f"{manifest.path}: the manifest changed meanwhile; start again, to go on")
        stream.seek(0)
        row = 0
        for number, line in enumerate(tqdm(stream, "writing", unit="line", delay=2, disable=None), 1):
            yield number, None if line.isspace() else row, line
            row += not line.isspace()


def _extended(text: str, pairs: list[QA]) -> str:
    """A line with more pairs; all else as it is written."""
    members = members_of(text)
    written = {key: member for key, (member, _) in members.items()}
    entries = [*(members.get("qa", ("", None))[1] or []), *(qa.to_json() for qa in _missing(text, pairs))]
    written["qa"] = f'"qa": {json.dumps(entries, ensure_ascii=False)}'
    return "{" + ", ".join(written.values()) + "}"


def _missing(text: str, pairs: list[QA]) -> list[QA]:
    """Those of the pairs that a line does not have yet."""
    there = set(qa_from_json(members_of(text).get("qa", ("", None))[1] or []))
    return [qa for qa in dict.fromkeys(pairs) if qa not in there]
