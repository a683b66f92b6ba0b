"""Look into every file that a manifest names, and clean it. Exit code 1 where files or lines were refused."""

from __future__ import annotations

import argparse

from vista_train.commands.files import describe_files, media_of
from vista_train.data.check import check_manifest, shard_of


def describe(parser: argparse.ArgumentParser) -> None:
    describe_files(parser, "files that are looked into at a time")
    parser.add_argument("--out", help="the clean manifest to write (default: <name>.clean.jsonl beside the manifest)")
    parser.add_argument("--retry", action="store_true", help="look again into files that failed in a run before")


def run(arguments: argparse.Namespace) -> int:
    outcome = check_manifest(
        arguments.manifest,
        media_of(arguments),
        out=arguments.out,
        shard=shard_of(arguments.shard),
        workers=arguments.workers,
        cache=arguments.cache,
        retry=arguments.retry,
    )
    print(outcome)
    return 1 if outcome.refused else 0
