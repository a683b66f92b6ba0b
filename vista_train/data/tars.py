"""Tars: where the videos of a data set lie in its archives, by name, found once and written into the clips' paths."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from vista_train.data.records import Record, stamps_of
from vista_train.video.decode.members import key_of, members_of


class Tars:
    """The files in the tars below `root` that match `pattern`, by name; `ValueError` where there are none."""

    def __init__(self, root: Path, pattern: str) -> None:
        self._root, self.pattern = root, pattern
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise ValueError(f"tars is {pattern!r}; it must be a pattern of files below the data root, such as x/*.tar")
        self.files = sorted(Path(name) for name in glob.glob(str(root / pattern), recursive=True))
        if not self.files or not all(file.suffix == ".tar" for file in self.files):
            raise ValueError(f"tars is {pattern!r}; below {root} that must be .tar files, and one at least")

    @property
    def stamp(self) -> list[Any]:
        """What tells them from what they were."""
        return stamps_of(self.files)

    def found(self, lines: Iterator[Record]) -> Iterator[Record]:
        """Lines of a manifest whose videos are names of files in the tars: now they are the ways to these files.

        A name may stand with or without its folders; with them it says which, where several tars have such a file.
        """
        places = self._places()
        for where, line in lines:
            if isinstance(line, ValueError) or not isinstance(line.get("video"), str):
                yield where, line
                continue
            name = PurePosixPath(line["video"])
            keys = places.get(name.as_posix()) or places.get(name.name, set())
            # Of several files of that name, those that lie in a tar or folder of the name in front.
            near = {key for key in keys if any(part in key.split("@")[0] for part in name.parts[:-1])} or keys
            if len(near) == 1:
                yield where, line | {"video": next(iter(near)), "source": line.get("source") or line["video"]}
            else:
                told = f"in {len(near)} places" if near else "not"
                yield where, ValueError(f"video is {line['video']!r:.200}; it is {told} in the {len(self.files)} tars")

    def _places(self) -> dict[str, set[str]]:
        places: dict[str, set[str]] = {}
        for tar in tqdm(self.files, desc="reading tars", unit="tar", delay=2, disable=None):
            below = tar.relative_to(self._root).as_posix()
            for name, offset, size in members_of(tar):
                path = PurePosixPath(name)
                key = key_of(below, path.as_posix().lstrip("/"), offset, size)
                for called in {path.as_posix(), path.name}:
                    places.setdefault(called, set()).add(key)
        return places
