"""Compose and plan many positions of a recipe, without decoding, and hold each to what a sample promises.

    python scripts/check_samples.py recipes/quickstart.yaml --count 10000

Exit code 1 and the position of each sample that breaks a promise; else a table of what was made.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from vista_train.augment import CannotComposeError
from vista_train.augment.questions import LETTERS, normal
from vista_train.config import load_recipe
from vista_train.data.dataset import Composed, VistaDataset
from vista_train.types import Sample


def faults(dataset: VistaDataset, composed: Composed) -> Iterator[str]:
    """What is wrong with one sample; nothing, if all is well."""
    sample, plan, view = composed.sample, composed.plan, dataset.codec.view
    width, height = view.canvas_of(sample.shown)
    frames_TCHW = torch.zeros((len(plan.times), 3, height, width), dtype=torch.uint8)
    encoded = dataset.codec.encode(sample, plan, frames_TCHW)
    if (len(encoded.input_ids), encoded.num_labels) != (plan.tokens, plan.labels):
        yield f"{len(encoded.input_ids)} tokens encoded, {plan.tokens} planned"
    if Sample.from_json(json.loads(json.dumps(sample.to_json()))) != sample:
        yield "differs after a round trip through JSON"
    for evidence in sample.evidence:
        if not view.shows(plan.times, sample.video.size, evidence.span, evidence.box):
            yield f"evidence {evidence} is not seen"
        if evidence.span.end > sample.video.duration:
            yield f"evidence {evidence} lies behind the end"
    options = _options(sample)
    if options and len({normal(option) for option in options}) != len(LETTERS):
        yield f"options are not four different ones: {options}"
    if not sample.messages[-1].content.strip():
        yield "the answer is empty"


def _options(sample: Sample) -> list[str]:
    """The options of a multiple choice, else none."""
    if sample.messages[-1].content not in tuple(LETTERS):
        return []
    lines = sample.messages[0].content.splitlines()
    return [line[3:] for line in lines if line[:3] in {f"{letter}. " for letter in LETTERS}]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--count", type=int, default=10_000)
    arguments = parser.parse_args(argv)
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    dataset = recipe.make_dataset(recipe.make_family().codec)
    kinds, letters, broken, impossible, began = Counter(), Counter(), 0, 0, time.perf_counter()
    for position in range(arguments.count):
        try:
            composed = dataset.planned(position)
        except CannotComposeError as error:
            impossible += 1
            print(f"position {position} cannot be composed: {error}")
            continue
        kinds[composed.sample.kind] += 1
        if _options(composed.sample):
            letters[composed.sample.messages[-1].content] += 1
        for fault in faults(dataset, composed):
            broken += 1
            print(f"position {position}, {composed.sample.kind}: {fault}")
    seconds = time.perf_counter() - began
    for kind, count in sorted(kinds.items()):
        print(f"{kind:24} {count:7}  {count / arguments.count:6.1%}")
    print("right options: " + ", ".join(f"{letter} {letters[letter]}" for letter in LETTERS))
    print(
        f"{arguments.count} positions in {seconds:.0f} s ({1000 * seconds / arguments.count:.1f} ms each): "
        f"{broken} broken promises, {impossible} that cannot be composed"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
