"""What comes of every kind of file with every reader: `python -m tests.media.table [folder of odd media]`."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.media.outcome import LIMITS, inspected, outcome
from tests.media.spoilt import SPOILT
from tests.media.written import WRITTEN, Make
from vista_train.video.decode import READERS, check_reader
from vista_train.video.media import Media

SHARED = "shared"
"""The folder in the root that holds files which no test makes."""


def make(root: Path, kinds: Mapping[str, Make]) -> None:
    """Make such files in the folder `root`."""
    root.mkdir(parents=True, exist_ok=True)
    # This encoder tells its settings on every start.
    os.environ.setdefault("SVT_LOG", "1")
    for name, made in kinds.items():
        if not name.startswith("/"):
            made(root / name)


def add_shared(root: Path, odd_media: Path) -> list[str]:
    """Copy the odd media that lie in a folder; their keys."""
    (root / SHARED).mkdir()
    files = sorted(path for path in odd_media.iterdir() if path.suffix in (".mp4", ".mov", ".mkv", ".webm", ".ts"))
    return [f"{SHARED}/{Path(shutil.copy(path, root / SHARED)).name}" for path in files]


def usable(readers: Iterable[str]) -> list[str]:
    """Those whose library is installed."""
    found = []
    for reader in readers:
        try:
            check_reader(reader)
        except ImportError:
            continue
        found.append(reader)
    return found


def rows(root: Path, keys: Iterable[str]) -> Iterator[list[str]]:
    """Key, what each reader makes of it, and what `inspect` does."""
    medias = {reader: Media(root, reader, limits=LIMITS) for reader in usable(READERS)}
    for key in keys:
        found = {reader: outcome(media, key)[0] for reader, media in medias.items()}
        yield [key, *(found.get(reader, "-") for reader in READERS), inspected(medias["pyav"], key)]


def shown(key: str) -> str:
    """A key that fits into a table."""
    plain = key.encode("unicode_escape", "surrogatepass").decode()
    return plain if len(plain) <= 40 else f"{plain[:30]}...({len(key)})"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        make(root, WRITTEN | SPOILT)
        keys = [*WRITTEN, *SPOILT]
        for folder in sys.argv[1:]:
            keys += add_shared(root, Path(folder))
        print("| file |", " | ".join([*READERS, "inspect"]), "|")
        print("|---|" + "---|" * (len(READERS) + 1))
        for key, *found in rows(root, keys):
            print(f"| `{shown(key)}` |", " | ".join(found), "|", flush=True)


if __name__ == "__main__":
    main()
