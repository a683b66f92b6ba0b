"""The options of commands that read clips, and open their files."""

from __future__ import annotations

import argparse

from vista_train.data.reading import Reading
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


def describe_reading(parser: argparse.ArgumentParser, default: str) -> None:
    """How a source of clips is read, and which of them are taken, as `data.manifests` has it in recipes."""
    parser.add_argument("--format", default=default, help="the published layout (data.manifests[].format in recipes)")
    parser.add_argument(
        "--column", action="append", default=[], metavar="KEY=COLUMN",
        help="which column holds a key of the manifest, such as video='{videoID}.mp4'; once for each",
    )  # fmt: skip
    parser.add_argument("--tars", help="a pattern of tars below the root that the videos lie in")
    parser.add_argument("--split", default="train", help="of a data set on the Hub")
    parser.add_argument("--revision", help="of a data set on the Hub")
    parser.add_argument("--limit", type=int, help="take the first so many clips, or questions")
    parser.add_argument("--share", type=float, default=1.0, help="take so much of the sources, by their names")
    parser.add_argument("--held-out", type=float, default=0.0, help="hold so much of the sources out, by their names")
    parser.add_argument("--part", choices=("train", "held_out"), default="train", help="which part to write")


def reading_of(arguments: argparse.Namespace) -> Reading:
    """What these options say."""
    return Reading(
        arguments.format,
        dict(_pair(text) for text in arguments.column),
        arguments.tars,
        arguments.split,
        arguments.revision,
        arguments.limit,
        arguments.share,
        arguments.held_out,
        arguments.part,
    )


def _pair(text: str) -> tuple[str, str]:
    key, equals, column = text.partition("=")
    if not (key and equals and column):
        raise ValueError(f"--column is {text!r}; write key=column, such as caption=Caption")
    return key, column
