"""Write a published file, a folder of videos or a data set on the Hub as a manifest. Exit code 1 where something of it
could not be taken over."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vista_train.commands.files import describe_reading, reading_of
from vista_train.data.journal import writing
from vista_train.data.lines import FEATURES
from vista_train.data.manifest import Manifest, open_manifest
from vista_train.data.reading import COLUMNS
from vista_train.data.sidecars import beside
from vista_train.video.kinds import is_words


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="a file, `'*.parquet'`, a folder, or `hub:owner/name`")
    parser.add_argument("out", type=Path, help="the manifest to write, JSON lines")
    describe_reading(parser, COLUMNS)
    parser.add_argument("--root", type=Path, default=Path("."), help="the folder that videos are relative to")
    parser.add_argument("--cache", help="where indexes are kept (default: $VISTA_TRAIN_CACHE or ~/.cache/vista_train)")
    parser.add_argument("--allow-absolute", action="store_true", help="as data.allow_absolute")


def run(arguments: argparse.Namespace) -> int:
    if arguments.out.is_dir() or arguments.out.resolve() == Path(arguments.path).resolve():
        raise ValueError(f"{arguments.out} is a folder, or what is to be read; name another file to write")
    reading = reading_of(arguments)
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
                if is_words(row["video"]):
                    line = {"video": None, "source": row["source"], "qa": row["qa"]}
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
