"""`accelerate launch -m vista_train.train recipe.yaml [key=value ...]`: train what a recipe says."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from vista_train.config import Recipe, load_recipe
from vista_train.data import ledger
from vista_train.models.adapters import holds_adapter
from vista_train.publishing import push
from vista_train.publishing.push import Push
from vista_train.redact import redacted
from vista_train.training import checkpoint, evaluations
from vista_train.training.engines import make_accelerator
from vista_train.training.loop import Trainer, shut_down
from vista_train.training.profile import Profiled
from vista_train.training.ranks import Ranks, lost
from vista_train.training.signals import StopSignal
from vista_train.training.tolerance import known_failures
from vista_train.types import Failure
from vista_train.video.decode import MediaError


def train(
    recipe: Recipe, signals: StopSignal | None = None, profiled: Profiled | None = None, asked: Push | None = None
) -> Trainer:
    """Train to the end, or until `signals` end it, from the newest finished checkpoint in the recipe's output.

    What stands against a push that is asked for is told before the first step; nothing is pushed here.
    """
    accelerator, ranks = make_accelerator(), Ranks()
    if asked is not None:
        ranks.in_turn(lambda: asked.prepare() if ranks.rank == 0 else None)
    output = Path(recipe.output)
    done = checkpoint.published(output)
    newest = done[-1] if done else None
    if newest:
        recipe.check_continues(load_recipe(newest / "recipe.yaml"), newest)
    # An adapter stands beside the recipe's own weights; any other checkpoint takes their place.
    family = recipe.make_family(str(newest) if newest and not holds_adapter(newest) else None)
    dataset = ranks.in_turn(lambda: recipe.make_dataset(family.codec, known_failures(output, newest)))
    watch = ranks.in_turn(lambda: recipe.make_watch(family))
    trainer = Trainer(
        family,
        dataset,
        output,
        recipe.make_loop(),
        recipe.make_optimizer(),
        accelerator,
        ranks,
        resume_from=newest,
        recipe_text=recipe.to_yaml(),
        seed=recipe.seed,
        unusable=[
            Failure(ledger.NO_POSITION, 0, key, reason, name)
            for name, source in dataset.sources.items()
            for key, reason in source.unusable
        ],
        watch=watch,
    )
    trainer.train(signals, profiled)
    return trainer


def _is_ours(error: Exception) -> bool:
    """Whether this package raised it, to be told in a sentence; anybody else's ValueError is a bug, and shows where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(Path(__file__).parent)


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML recipe")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="recipe keys to change, such as train.steps=9"
    )
    parser.add_argument(
        "--profile",
        metavar="steps=10:15",
        help="profile these steps, counted from 1, the last one included, on one rank (`steps=10:15,rank=3`; default, "
        "rank 0): a trace and a table in <output>/profile",
    )
    push.describe(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; exit code 2 and one sentence for what the user can mend."""
    # From the start: a launcher that passes a signal on must not kill a rank that still loads.
    signals = StopSignal().listen()
    try:
        profiled = Profiled.parse(arguments.profile) if arguments.profile is not None else None
        asked = Push.of(arguments)
        trainer = train(load_recipe(arguments.recipe, arguments.overrides), signals, profiled, asked)
    except (ValueError, MediaError, RuntimeError) as error:
        # Before the loop, too, a rank that is gone breaks what the others wait in.
        gone = lost(error) if isinstance(error, RuntimeError) else None
        if gone is None and not _is_ours(error):
            raise
        error = gone or error
        rank = os.environ.get("RANK", "0")
        print(
            f"vista_train: {'' if rank == '0' else f'rank {rank}: '}{redacted(str(error))}", file=sys.stderr, flush=True
        )
        return 2
    if trainer.is_main:
        newest = checkpoint.published(trainer.output)[-1]
        print(f"checkpoint {newest}; log {trainer.output / 'log.jsonl'}", flush=True)
        found = evaluations.summary(trainer.output)
        if found:
            print(f"{found}; {trainer.output / evaluations.NAME}", flush=True)
        if trainer.stopped_by:
            print(f"stopped by {trainer.stopped_by} after step {trainer.step_number}; start again to go on", flush=True)
    signals.ignore()
    shut_down()
    if asked is None or not trainer.is_main:
        return 0
    # An upload may be ended like any program.
    signals.close()
    return _pushed(trainer, asked)


def _pushed(trainer: Trainer, asked: Push) -> int:
    """Push the newest checkpoint of a run that reached its last step; exit code 2 and one sentence if it fails."""
    if trainer.stopped_by:
        print(f"not pushed to {asked.repository.name}: the last step is yet to come", flush=True)
        return 0
    newest, name = checkpoint.published(trainer.output)[-1], asked.repository.name
    later = (
        f"nothing is lost: start the run again as it was, which only pushes, or `vista-train merge {newest} OUT "
        f"--push-to-hub {name}`"
    )
    try:
        print(asked.upload(newest, asked.texts(newest, newest), later), flush=True)
    except ValueError as error:
        print(f"vista_train: {redacted(str(error))}", file=sys.stderr, flush=True)
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line, for launchers that start a module."""
    parser = argparse.ArgumentParser(prog="vista_train.train", description=__doc__)
    describe(parser)
    return run(parser.parse_intermixed_args(argv))


if __name__ == "__main__":
    sys.exit(main())
