"""Make a plain checkpoint of one that a run wrote, adapters and all, and put it on the Hub if asked to."""

from __future__ import annotations

import argparse
from pathlib import Path

from vista_train.merge import DTYPES, LAYOUTS, merge
from vista_train.publishing import push
from vista_train.publishing.push import Push
from vista_train.publishing.repository import CARD


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a folder step-* with its recipe.yaml")
    parser.add_argument("out", type=Path, help="the folder to write; it must be empty or not there")
    parser.add_argument("--base", help="where the recipe's family.path lies now, if it was moved")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights (default: the base checkpoint's, or float32)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="hub", help="the Hub's, or the one the model was published in"
    )
    push.describe(parser)
    push.describe_results(parser)


def run(arguments: argparse.Namespace) -> int:
    checkpoint, out, asked = arguments.checkpoint, arguments.out, Push.of(arguments)
    if asked is not None:
        # Merging may take long; what stands against the upload is told before.
        asked.check_results(checkpoint)
        asked.prepare()
    merge(checkpoint, out, arguments.dtype, arguments.layout, arguments.base)
    print(f"checkpoint {out}", flush=True)
    if asked is not None:
        texts = asked.texts(checkpoint, out, arguments.layout)
        (out / CARD).write_text(texts[CARD], encoding="utf-8")
        print(
            asked.upload(out, texts, f"{out} is whole: `hf upload {asked.repository.name} {out}` puts it there later")
        )
    return 0
