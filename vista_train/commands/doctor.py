"""What this machine has, what `auto` chooses on it, known holes, and what to install to be faster.

Versions, protection while decoding, decoder, attention and loss with the reasons, memory and disk. Exit code 1 where
something should be mended; what would only be faster is no such thing.
"""

from __future__ import annotations

import argparse
import json

from vista_train.doctor import examine


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object: findings, warnings, advice")


def run(arguments: argparse.Namespace) -> int:
    found = examine()
    print(json.dumps(found.to_json()) if arguments.json else found.told())
    return 1 if found.warnings else 0
