"""What a run has lost, by reason and source."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from vista_train.data import ledger


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="the output folder of a run, or a ledger")
    parser.add_argument("--reason", help="only losses of this kind, such as MediaTimeout")
    parser.add_argument("--source", help="only losses of this manifest, by its name")
    parser.add_argument("--json", action="store_true", help="one JSON object a loss")


def run(arguments: argparse.Namespace) -> int:
    path = arguments.run / ledger.NAME if arguments.run.is_dir() else arguments.run
    # A run that has lost nothing has no ledger, but a lock from its first moment on.
    if not path.exists() and not (arguments.run / ".lock").exists():
        raise ValueError(f"{arguments.run}: there is no run here; name the output folder of one")
    losses = ledger.read(path)
    if arguments.reason:
        losses = [loss for loss in losses if loss.kind == arguments.reason]
    if arguments.source:
        losses = [loss for loss in losses if loss.source == arguments.source]
    if arguments.json:
        for loss in losses:
            print(json.dumps({"kind": loss.kind, **dataclasses.asdict(loss)}))
    else:
        print(ledger.table(losses))
    return 0
