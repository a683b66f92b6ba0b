"""Write a published file, a folder of videos or a data set on the Hub as a manifest. Exit code 1 where something of it
could not be taken over."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vista_train.data.journal import writing
from vista_train.data.manifest import FEATURES, Manifest, open_manifest
from vista_train.data.reading import COLUMNS, Reading
from vista_train.data.sidecars import beside


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a file, `'*.parquet'`, a folder, or `hub:owner/name`")
    parser.add_argument("out", type=Path, help="the manifest to write, JSON lines")
    parser.add_argument("--format", default=COLUMNS, help="the published layout (data.manifests[].format in recipes)")
    parser.add_argument(
        "--column", action="append", default=[], metavar="KEY=COLUMN",
        help="which column holds a key of the manifest, such as video='{videoID}.mp4'; once for each",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder that videos are relative to")
    parser.add_argument("--tars", help="a pattern of tars below the root that the videos lie in")
    parser.add_argument("--split", default="train", help="of a data set on the Hub")
    parser.add_argument("--revision", help="of a data set on the Hub")
    parser.add_argument("--limit", type=int, help="take the first so many clips")
    parser.add_argument("--share", type=float, default=1.0, help="take so much of the sources, by their names")
    parser.add_argument("--held-out", type=float, default=0.0, help="hold so much of the sources out, by their names")
    parser.add_argument("--part", choices=("train", "held_out"), default="train", help="which part to write")
    parser.add_argument("--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)")
    parser.add_argument("--allow-absolute", action="store_true", help="as data.allow_absolute")


def run(arguments: argparse.Namespace) -> int:
    columns = dict(_pair(text) for text in arguments.column)
    if arguments.out.is_dir() or arguments.out.resolve() == Path(arguments.path).resolve():
        raise ValueError(f"{arguments.out} is a folder, or what is to be read; name another file to write")
    reading = Reading(
        arguments.format,
        columns,
        arguments.tars,
        arguments.split,
        arguments.revision,
        arguments.limit,
        arguments.share,
        arguments.held_out,
        arguments.part,
    )
    opened = open_manifest(arguments.path, arguments.cache, arguments.allow_absolute, reading, arguments.root)
    num_rows = _write(opened, arguments.out)
    refused = opened.refused
    print(f"{num_rows} clips in {arguments.out}" + (f", {len(refused)} left out:" if refused else ""))
    for where, reason in refused[:10]:
        print(f"  {where}: {reason}")
    if len(refused) > 10:
        print(f"  ... and {len(refused) - 10} more")
    return 1 if refused else 0


def _write(opened: Manifest, out: Path) -> int:
    """Write a manifest's rows as lines, whole or not at all; how many there are."""
    building = beside(out)
    try:
        with writing(out), building.open("w", encoding="utf-8") as stream:
            for row in _rows(opened):
                line = {name: row[name] for name in FEATURES if row[name] not in (None, "")}
                if line.get("qa"):
                    line["qa"] = json.loads(line["qa"])
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        building.replace(out)
    finally:
        building.unlink(missing_ok=True)
    return int(opened.rows().num_rows)


def _rows(opened: Manifest) -> Iterator[dict[str, Any]]:
    for batch in opened.rows().data.table.to_batches():
        yield from batch.to_pylist()


def _pair(text: str) -> tuple[str, str]:
    key, equals, column = text.partition("=")
    if not (key and equals and column):
        raise ValueError(f"--column is {text!r}; write key=column, such as caption=Caption")
    return key, column
