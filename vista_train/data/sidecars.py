"""Sidecars: what is worked out once about data that may be read-only, kept in a cache that many processes share."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMAT = 2
"""Part of every sidecar's key: raise it when what is written changes."""


def cache_folder(cache: str | Path | None = None) -> Path:
    """`cache`, else $VISTA_TRAIN_CACHE, else ~/.cache/vista_train; made if it is not there."""
    folder = Path(cache or os.environ.get("VISTA_TRAIN_CACHE") or "~/.cache/vista_train")
    folder = folder.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"cache {folder} cannot be made ({error.strerror}); set VISTA_TRAIN_CACHE to a folder that can be written"
        ) from error
    return folder


def key_of(*parts: Any) -> str:
    """A name for a sidecar that depends on these parts."""
    return hashlib.sha256(json.dumps([FORMAT, *parts]).encode()).hexdigest()[:32]


def publish(folder: Path, build: Callable[[Path], dict[str, Any]]) -> Path:
    """`folder`, filled by `build` unless it is there complete; processes that race each build, and one wins.

    `build(building)` writes into a folder beside and returns what `done.json` shall hold: the last file written, and
    the list of all the others, so that a folder which lost some (caches get swept) is built anew.
    """
    if _complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = beside(folder)
    building.mkdir()
    try:
        facts = build(building)
        files = sorted(file.name for file in building.iterdir())
        (building / "done.json").write_text(json.dumps(facts | {"files": files}))
        for file in building.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        try:
            building.rename(folder)
        except OSError:
            if not _complete(folder):
                swept = beside(folder)
                folder.rename(swept)
                building.rename(folder)
                shutil.rmtree(swept)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def beside(target: Path) -> Path:
    """A name on the same disk that no other process uses, for what is to be renamed to `target` when it is whole."""
    return target.with_name(f".building-{secrets.token_hex(8)}")


def _complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / "done.json").read_text())["files"]
    except FileNotFoundError:
        return False
    return all((folder / name).is_file() for name in files)
