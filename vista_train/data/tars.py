"""Tars: where the videos of a data set lie in its archives, by name, found once and written into the clips' paths."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from vista_train.data.records import Record, stamps_of
from vista_train.video.decode.members import key_of, members_of, split


class Tars:
    """The files in the tars below `root` that match `pattern`, by name; `ValueError` where there are none."""

    def __init__(self, root: Path, pattern: str) -> None:
        self._root, self.pattern = root, pattern
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ValueError(f"tars is {pattern!r}; it must be a pattern of files below the data root, such as x/*.tar")
        self.files = sorted(Path(name) for name in glob.glob(f"{glob.escape(str(root))}/{pattern}", recursive=True))
        if not self.files or not all(file.suffix == ".tar" for file in self.files):
            raise ValueError(f"tars is {pattern!r}; below {root} that must be .tar files, and one at least")

    @property
    def stamp(self) -> list[Any]:
        """What tells them from what they were."""
        return stamps_of(self.files)

    def found(self, lines: Iterator[Record]) -> Iterator[Record]:
        """Lines of a manifest whose videos are names of files in the tars: now they are the ways to these files.

        A name ends the whole way to its file: the tar's folders, the tar's own name or not, the folders within it.
        So it may stand alone, and with folders says which of several files is meant.
        """
        places = self._places()
        for where, line in lines:
            if isinstance(line, ValueError) or not isinstance(line.get("video"), str):
                yield where, line
                continue
            parts = PurePosixPath(line["video"]).parts
            keys = [key for key in places.get(parts[-1] if parts else "", ()) if _is_called(key, parts)]
            if len(keys) == 1:
                yield where, line | {"video": keys[0], "source": line.get("source") or line["video"]}
            else:
                told = f"in {len(keys)} places" if keys else "not"
                yield where, ValueError(f"video is {line['video']!r:.200}; it is {told} in the {len(self.files)} tars")

    def _places(self) -> dict[str, list[str]]:
        """The ways to the files, by their bare names."""
        places: dict[str, list[str]] = {}
        for tar in tqdm(self.files, desc="reading tars", unit="tar", delay=2, disable=None):
            below = tar.relative_to(self._root).as_posix()
            for name, offset, size in members_of(tar):
                path = PurePosixPath(name)
                places.setdefault(path.name, []).append(key_of(below, path.as_posix().lstrip("/"), offset, size))
        return places


def _is_called(key: str, parts: tuple[str, ...]) -> bool:
    """Whether these are the last steps to a file in a tar, the tar's own name among them or passed over."""
    inside = split(key)
    assert inside is not None
    tar, _, name = inside
    *folders, own = PurePosixPath(tar).with_suffix("").parts
    within = PurePosixPath(name).parts
    ways = ((*folders, own, *within), (*folders, *within))
    return any(way[-len(parts) :] == parts for way in ways)
