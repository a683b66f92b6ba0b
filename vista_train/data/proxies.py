"""Smaller versions of a manifest's files, made once: what is decoded again and again is then quick to decode."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.compute as pc
from tqdm import tqdm

from vista_train.data.check import BAR_SECONDS, Interrupted, num_cores
from vista_train.data.crew import Crew, terminable
from vista_train.data.journal import Draft, writing
from vista_train.data.manifest import open_manifest
from vista_train.data.sidecars import beside
from vista_train.video.decode import Header, MediaCrashed, MediaError
from vista_train.video.decode.limits import PATIENCE, SECONDS_PER_PIXEL
from vista_train.video.decode.sizes import Sizes
from vista_train.video.isolate import IsolationError
from vista_train.video.kinds import STILL
from vista_train.video.media import Media
from vista_train.video.renditions import PROXY, TILES, Renditions, rendition

LEAST_SECONDS = 60.0
ENCODING_SECONDS = 10e-3
"""Of writing one frame small, by one thread: 2 to 5 ms were measured, at 336 pixels on an AMD EPYC."""


@dataclass
class Made:
    """What a run has made."""

    files: int = 0
    """Of the manifest, those whose renditions are there now."""
    made: int = 0
    """Of those, by this run."""
    proxy_bytes: int = 0
    tile_bytes: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """How many files have none, by kind of failure."""

    def __str__(self) -> str:
        told = f"{self.files} files have proxies, {self.made} of them made now"
        told += f": {self.proxy_bytes / 2**20:.1f} MiB of video, {self.tile_bytes / 2**20:.1f} MiB of tiles"
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.failed.items()))
        return f"{told}\n{self.failed.total()} files have none ({kinds})" if kinds else told


def make_proxies(
    manifest: str | Path,
    media: Media,
    out: str | Path,
    sizes: Sizes | None = None,
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    cache: str | Path | None = None,
) -> Made:
    """Write a proxy, and tiles where `sizes` has some, of every file that the manifest names to the folder `out`.

    `media` must be one that makes proxies. What is there of a file as it is, in these sizes, is not made again, so a
    run may be stopped at any moment. Files that cannot be had go to `report.jsonl` in the folder, and are decoded as
    they are. `shard` and `workers` as with `check_manifest`. `ValueError` for what the user can mend, `Interrupted`
    when the process is told to stop.
    """
    sizes, workers = sizes or Sizes(), num_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one must do the work")
    if not media.root.is_dir():
        raise ValueError(f"root {media.root} is not a folder; it must be the one that the manifest's paths start from")
    folder = Path(out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    videos = open_manifest(manifest, cache, media.allow_absolute).rows().data.table["video"]
    # A picture is one frame, and words are none: of neither is there anything to make.
    names = pc.unique(videos.filter(pc.invert(pc.match_substring_regex(videos, STILL))))
    maker, made = _Maker(media, Renditions(str(folder.resolve())), sizes), Made()
    mine = range(shard[0] - 1, len(names), shard[1])
    part = "" if shard[1] == 1 else "-{}-of-{}".format(*shard)
    with ExitStack() as stack:
        faults = stack.enter_context(Draft(folder / f"report{part}.jsonl"))
        progress = stack.enter_context(
            tqdm(total=len(mine), desc="proxies", unit="file", mininterval=0.1 if sys.stderr.isatty() else BAR_SECONDS)
        )

        def keep(index: int, record: dict[str, Any] | None) -> None:
            if record is not None and "failed" in record:
                made.failed[record["failed"]] += 1
                faults.add(
                    json.dumps({"video": names[index].as_py(), "kind": record["failed"], "reason": record["reason"]})
                )
            else:
                made.files += 1
                for name, number in (record or {}).items():
                    setattr(made, name, getattr(made, name) + number)
            progress.update()

        try:
            stack.enter_context(terminable())
            stack.callback(media.close)
            Crew(lambda index: maker.make(names[index].as_py()), keep).run(iter(mine), min(workers, len(mine)))
        except KeyboardInterrupt:
            done = made.files + made.failed.total()
            raise Interrupted(f"interrupted after {done} of {len(mine)} files; the same command goes on") from None
        except IsolationError as error:
            raise ValueError(f"{error}; here that is --isolate inline") from error
        faults.publish()
    return made


class _Maker:
    """Makes what is not there."""

    def __init__(self, media: Media, renditions: Renditions, sizes: Sizes) -> None:
        self.media, self.renditions, self.sizes = media, renditions, sizes
        self.kinds = [PROXY] if sizes.tile_edge is None else [PROXY, TILES]

    def make(self, key: str) -> dict[str, Any] | None:
        """How much was written of a file, or why it cannot be had; None where all of it was there."""
        try:
            stamp = self.media.stamp(key)
            if stamp is not None and all(self._is_there(key, kind, stamp) for kind in self.kinds):
                return None
            return self._made(key, self.media.probe(key))
        except MediaError as error:
            return {"failed": type(error).__name__, "reason": error.reason}

    def _is_there(self, key: str, kind: str, stamp: tuple[int, int]) -> bool:
        found = self.renditions.get(key, kind, stamp)
        return found is not None and found.sizes == asdict(self.sizes)

    def _check(self, key: str, draft: Path, kind: str, header: Header) -> None:
        """`MediaCrashed` unless what was written is what was asked for: a file may have taken over who wrote it."""
        size = (header.width, header.height)
        expected = self.sizes.proxy_of(*size) if kind == PROXY else self.sizes.tile_of(*size)
        try:
            found = rendition(draft)
        except (OSError, ValueError) as error:
            raise MediaCrashed(key, "the process that decoded it has written something else") from error
        is_right = (found.size, found.source_size) == (expected, size) and found.sizes == asdict(self.sizes)
        if not is_right or found.stamp != self.media.stamp(key) or not found.keeps_to(self.media.limits):
            raise MediaCrashed(key, "the process that decoded it has written something else")

    def _made(self, key: str, header: Header) -> dict[str, int]:
        num_frames = header.num_frames or int(header.duration * header.fps) + 1
        each = header.width * header.height * SECONDS_PER_PIXEL + ENCODING_SECONDS
        places = [self.renditions.place(key, kind) for kind in self.kinds]
        drafts = [beside(place) for place in places]
        try:
            with writing(places[0]), ExitStack() as stack:
                places[0].parent.mkdir(exist_ok=True)
                files: list[BinaryIO] = [stack.enter_context(draft.open("w+b", buffering=0)) for draft in drafts]
                self.media.transcode(
                    key, self.sizes, files[0], files[1] if len(files) > 1 else None,
                    max(LEAST_SECONDS, PATIENCE * each * num_frames),
                )  # fmt: skip
                for kind, draft, file in zip(self.kinds, drafts, files, strict=True):
                    os.fsync(file.fileno())
                    self._check(key, draft, kind, header)
                written = [os.fstat(file.fileno()).st_size for file in files]
            # Where there is a proxy there are tiles.
            for draft, place in reversed(list(zip(drafts, places, strict=True))):
                draft.replace(place)
        finally:
            for draft in drafts:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
        return dict(zip(("proxy_bytes", "tile_bytes"), written, strict=False)) | {"made": 1}
