"""The options of commands that open a manifest's files."""

from __future__ import annotations

import argparse

from vista_train.video.media import ISOLATION, Media


def describe_files(parser: argparse.ArgumentParser, at_a_time: str) -> None:
    """The manifest, where its files are, and how they may be opened."""
    parser.add_argument("manifest", help="a JSONL manifest")
    parser.add_argument("--root", default=".", help="the folder its paths are relative to")
    parser.add_argument("--workers", type=int, help=f"{at_a_time} (default: the cores)")
    parser.add_argument("--shard", default="1/1", help="i/n: only every n-th file, from the i-th on, i from 1 to n")
    parser.add_argument("--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)")
    parser.add_argument("--allow-symlinks", action="store_true", help="as data.allow_symlinks")
    parser.add_argument("--allow-absolute", action="store_true", help="as data.allow_absolute")
    parser.add_argument("--isolate", choices=ISOLATION, default="process", help="as data.isolate")


def media_of(arguments: argparse.Namespace, makes_proxies: bool = False) -> Media:
    """The files, opened as the options say."""
    return Media(
        arguments.root,
        isolate=arguments.isolate,
        allow_symlinks=arguments.allow_symlinks,
        allow_absolute=arguments.allow_absolute,
        makes_proxies=makes_proxies,
    )
