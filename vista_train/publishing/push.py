"""Push: the options `--push-to-hub` of commands, checked before the work and carried out behind it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vista_train
from vista_train.config import load_recipe
from vista_train.models.adapters import holds_adapter
from vista_train.models.hub import PROCESSOR_FILES, read_json
from vista_train.publishing.card import Trained, card
from vista_train.publishing.repository import CARD, Filled, Repository
from vista_train.publishing.shared import public_name, shared_configs, shared_recipe
from vista_train.training import evaluations

PACKAGES = ("torch", "transformers", "accelerate", "peft")
FIGURES = {"step", "loss", "tokens", "frames", "samples", "failed", "seconds", "devices"}
"""What a line of the log must have to be one of a step."""
MOST_NAMED = 5
LAST_STEP = 1 << 62


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("the Hub")
    group.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the checkpoint there, with a model card")
    group.add_argument("--private", action="store_true", help="make the repository private, if it is made")
    group.add_argument(
        "--base-model", metavar="OWNER/NAME", help="for the card: what the Hub calls the recipe's family.path"
    )


def describe_results(parser: argparse.ArgumentParser) -> None:
    """Add the option for results, where there may be some."""
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE", help="for the card: JSON of vista-train evaluate"
    )


@dataclass(frozen=True)
class Push:
    """A checkpoint that is to go to the Hub."""

    repository: Repository
    base_model: str | None = None
    results: tuple[tuple[Path, Mapping[str, Any]], ...] = ()

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Push | None:
        """What the options ask for; None if nothing is to be pushed, and `ValueError` if it cannot be."""
        results: Sequence[Path] = getattr(arguments, "results", ())
        if arguments.push_to_hub is None:
            given = {"--private": arguments.private, "--base-model": arguments.base_model, "--results": results}
            for option, value in given.items():
                if value:
                    raise ValueError(f"{option} is for --push-to-hub, which is not given")
            return None
        base = arguments.base_model
        if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
            raise ValueError(f"--base-model is {base!r}; it must be owner/name, as on the Hub")
        read = tuple((path, read_result(path)) for path in results)
        return cls(Repository(arguments.push_to_hub, True if arguments.private else None), base, read)

    def prepare(self) -> None:
        """`ValueError` where the repository cannot be filled later; it is made if it is not there."""
        self.repository.prepare()

    def check_results(self, checkpoint: Path) -> None:
        """`ValueError` if a result says that it is another step's."""
        for path, result in self.results:
            told = str(result.get("checkpoint", "")).split("/")[-1]
            if re.fullmatch(r"step-\d+", told) and told != checkpoint.resolve().name:
                raise ValueError(f"--results {path} is of {told}, not of {checkpoint}")

    def texts(self, checkpoint: Path, folder: Path, layout: str = "hub") -> dict[str, str]:
        """What goes up in place of the files in `folder`, which were made of a run's `checkpoint`: a card, the recipe,
        and configurations, none of which names anything of this machine."""
        recipe = load_recipe(checkpoint / "recipe.yaml")
        output, step = checkpoint.resolve().parent, step_of(checkpoint)
        is_adapter, path = holds_adapter(folder), recipe.family.path
        base = self.base_model or public_name(path)
        config = Path(path) if is_adapter and path else folder
        trained = Trained(
            self.repository.name,
            recipe,
            step,
            read_log(output / "log.jsonl", step),
            evaluations.read_lines(output, LAST_STEP if step is None else step),
            base,
            str(read_json(config / "config.json").get("model_type", "")),
            is_adapter,
            layout,
            any((folder / name).is_file() for name in PROCESSOR_FILES),
            [result for _, result in self.results],
            {"vista_train": vista_train.__version__, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        )
        shared = {"recipe.yaml": shared_recipe(recipe, base).to_yaml(), CARD: card(trained)}
        return shared_configs(folder, base) | shared

    def upload(self, folder: Path, texts: Mapping[str, str], later: str) -> str:
        """Fill the repository; a line on what came of it. `later` says how to go on where it fails (`ValueError`)."""
        try:
            return _told(self.repository.fill(folder, texts))
        except ValueError as error:
            raise ValueError(f"{error}; {later}") from error


def _told(filled: Filled) -> str:
    if not filled.left:
        return f"pushed to {filled.url}"
    more = f" and {len(filled.left) - MOST_NAMED} more" if len(filled.left) > MOST_NAMED else ""
    return (
        f"pushed to {filled.url}; these were there before, are no part of this model, and stay: "
        f"{', '.join(filled.left[:MOST_NAMED])}{more}"
    )


def read_result(path: Path) -> dict[str, Any]:
    """A result of `vista-train evaluate`; `ValueError` for any other file."""
    if not path.is_file():
        raise ValueError(f"--results {path}: there is no such file")
    data = read_json(path)
    needed = (
        ("overall", "chance", "test") if "test" in data else ("overall", "chance", "benchmark", "groups", "shifted")
    )
    lacking = [key for key in needed if key not in data]
    if lacking:
        raise ValueError(f"--results {path} has no {lacking[0]!r}; it must be JSON that `vista-train evaluate` wrote")
    return data


def read_log(path: Path, last_step: int | None) -> list[dict[str, Any]]:
    """The lines of a run's log up to a step, where it is still there; what a kill cut short is left out."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            data = json.loads(line)
        except ValueError:
            continue
        if isinstance(data, dict) and data.keys() >= FIGURES and (last_step is None or data["step"] <= last_step):
            found.append(data)
    return found


def step_of(checkpoint: Path) -> int | None:
    """After which step a checkpoint was written, by its name."""
    found = re.fullmatch(r"step-(\d+)", checkpoint.resolve().name)
    return int(found[1]) if found else None
