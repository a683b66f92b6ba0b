"""Answers: prompts scored a few at a time, each written to a journal at once, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from vista_train.data.check import Interrupted
from vista_train.data.journal import Journal
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import Scored, Scorer


class Answers:
    """What a scorer answers to prompts; from the journal at `path`, where it has been asked the very same before.

    `identity` names the model and the settings: whoever has another does not get its answers. Failed prompts are tried
    again. One process at a time may use a journal.
    """

    def __init__(self, scorer: Scorer, path: Path | None = None, identity: str = "", batch: int = 8) -> None:
        if batch < 1:
            raise ValueError(f"batch is {batch}; at least one prompt must be asked at a time")
        self.scorer, self.identity, self.batch = scorer, identity, batch
        self._known: dict[str, Scored] = {}
        self._journal = None if path is None else Journal(path)
        if self._journal is not None:
            for _, record in self._journal.records():
                self._known[record["asked"]] = Scored.from_json(record["scored"])

    def of(self, prompts: Sequence[Prompt], what: str = "questions") -> Iterator[Scored]:
        """One result for each prompt, in order; progress is shown on a terminal. `Interrupted` when told to stop."""
        asked = [self._name(prompt) for prompt in prompts]
        found: dict[int, Scored] = {}
        for number, name in enumerate(asked):
            known = self._known.get(name)
            if known is not None and not known.failure:
                found[number] = known
        open_ones = [number for number in range(len(prompts)) if number not in found]
        bar = tqdm(total=len(prompts), initial=len(found), desc=what, disable=not sys.stderr.isatty(), leave=False)
        try:
            for first in range(0, len(open_ones), self.batch):
                numbers = open_ones[first : first + self.batch]
                for number, scored in zip(numbers, self.scorer.score([prompts[n] for n in numbers]), strict=True):
                    found[number] = scored
                    self._keep(prompts[number].key, asked[number], scored)
                bar.update(len(numbers))
        except KeyboardInterrupt:
            how = "the same command goes on from there" if self._journal is not None else "nothing was kept"
            raise Interrupted(f"interrupted after {len(found)} of {len(prompts)} {what}; {how}") from None
        finally:
            bar.close()
        return (found[number] for number in range(len(prompts)))

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def _keep(self, key: str, asked: str, scored: Scored) -> None:
        if self._journal is not None:
            self._journal.add({"key": key, "asked": asked, "scored": scored.to_json()})

    def _name(self, prompt: Prompt) -> str:
        """Names the model, the settings and all of the prompt."""
        words = [[message.role, message.content] for message in prompt.messages]
        # A composition is told by its repr: pictures in memory have a hash for a path.
        parts = [self.identity, prompt.key, repr(prompt.video), words, list(prompt.candidates)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
