"""Media: the files under a root, and the one way to what is in them."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from vista_train.redact import phrase
from vista_train.video import decode
from vista_train.video.decode.base import KINDS, Header, Inspected, MediaError, MediaTooLarge, MediaUnreadable, Wanted
from vista_train.video.decode.child import facts
from vista_train.video.decode.confine import Confined
from vista_train.video.decode.door import Door, Status
from vista_train.video.decode.indexes import Attached, IndexFile, place_of, stamp_of, write
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.members import split
from vista_train.video.decode.packets import Anomaly, PacketIndex
from vista_train.video.decode.sizes import Sizes
from vista_train.video.frames import FrameCache, Kept
from vista_train.video.isolate import PROGRAM, Child, Children, IsolationError
from vista_train.video.kinds import limits_for
from vista_train.video.quarantine import COSTLY, Quarantine, is_costly
from vista_train.video.renditions import PROXY, TILES, Rendition, Renditions

ISOLATION = ("process", "inline")
MAX_NUMBER = 1 << 62
Batch: TypeAlias = tuple[Sequence[int], np.ndarray]
"""The numbers of some pictures of one size, and pictures_NHWC."""
Shown: TypeAlias = Generator[Batch, None, bool]
"""Pictures by number, and in the end whether all of them came."""
NOT_AGAIN = "not tried again, having failed before in this run"


class Media:
    """Media files under `root`, by keys that are paths relative to it; every `MediaError` names the key.

    `isolate: process` decodes in processes that can be killed, under deadlines and memory limits; `inline` decodes in
    this one, where only what a header says can be refused, and a file that hangs or crashes takes the run with it. Any
    number of threads may use it, and it travels to data workers. In `cache`, a folder, it keeps what it learns of
    where the packets of long files lie; by default it learns that anew each time. Pictures come from the renditions in
    `proxies`, a folder that `vista-train proxies` has filled, where these suffice. Who `makes_proxies` has decoding
    processes that may write the files they are handed. A keyframe, or a tile, that begins at most `snap_seconds` before
    or after a wanted time may stand in for the frame that is shown then. `frames` keeps what was decoded.
    """

    def __init__(
        self,
        root: str | Path,
        reader: str = "auto",
        isolate: Literal["process", "inline"] = "process",
        limits: Limits = decode.LIMITS,
        allow_symlinks: bool = False,
        allow_absolute: bool = False,
        program: Sequence[str] = PROGRAM,
        cache: str | Path | None = None,
        proxies: str | Path | None = None,
        makes_proxies: bool = False,
        snap_seconds: float = 0.0,
        frames: FrameCache | None = None,
    ) -> None:
        if isolate not in ISOLATION:
            raise ValueError(f"data.isolate is {isolate!r}; choose one of {', '.join(ISOLATION)}")
        try:
            decode.check_reader(reader)
        except (ValueError, ImportError) as error:
            raise ValueError(f"data.reader: {error}") from error
        if not 0 <= snap_seconds < math.inf:
            raise ValueError(f"data.snap_seconds is {snap_seconds}; it must be 0 or more")
        self.snap_seconds = Fraction(str(snap_seconds))
        self.root, self.reader, self.isolate, self.limits = Path(root), reader, isolate, limits
        self.quarantine, self.position = Quarantine(), 0
        self._killed: set[str] = set()
        self.allow_absolute = allow_absolute
        self._door = Door(os.path.abspath(root), allow_symlinks, allow_absolute)
        # Links and absolute paths may lead anywhere; without them, nothing outside the root is ever to be read.
        # Kept pictures may come from a process that another file has taken over, and so may what goes with them.
        folder = "packets" if frames is None else "packets_of_frames"
        self._indexes = None if cache is None else os.path.join(os.path.abspath(cache), folder)
        if self._indexes is not None:
            os.makedirs(self._indexes, exist_ok=True)
        if frames is not None and cache is None:
            raise ValueError("frames are kept by the packets they come from: Media needs a cache as well")
        if (frames is not None or proxies is not None) and decode.check_reader(reader).name != decode.AUTO:
            raise ValueError(f"data.reader is {reader!r}; proxies and kept frames are read by pyav alone")
        self._frames = frames
        self._renditions = None if proxies is None else Renditions(os.path.abspath(proxies))
        if proxies is not None and not os.path.isdir(proxies):
            raise ValueError(
                f"data.proxies is {str(proxies)!r}; there is no such folder: `vista-train proxies` makes one"
            )
        self._rules = hashlib.sha256(json.dumps([self._door.root, *self.rules]).encode()).hexdigest()
        """What indexes and pictures are kept under: the root, and what is allowed there."""
        more = [self._indexes, self._renditions and self._renditions.folder]
        roots = () if allow_symlinks or allow_absolute else (self._door.root, *(folder for folder in more if folder))
        self._children = Children(reader, program, roots, limits.max_bytes if makes_proxies else 0)
        self._held: dict[tuple[str, Wanted], np.ndarray] = {}
        """Pictures that several samples want, by file."""
        self.drawn: Counter[str] = Counter()
        """How many pictures have come from where, as this object was asked for them."""

    @property
    def rules(self) -> list[Any]:
        """What decides whether a file may be opened, as JSON takes it."""
        door = dataclasses.asdict(self._door) | {"root": ""}
        return [door, dataclasses.asdict(self.limits)]

    def probe(self, key: str) -> Header:
        """What the file says of itself; its numbers are above 0, and no larger than 2^62."""
        found = self._facts("probe", key)
        duration, fps = _ratio(key, found.get("duration")), _ratio(key, found.get("fps"))
        num_frames = None if found.get("num_frames") is None else _whole(key, found["num_frames"])
        width, height = (_whole(key, found.get(name)) for name in ("width", "height"))
        return Header(
            duration, width, height, fps, num_frames, *(phrase(str(found.get(name))) for name in ("codec", "container"))
        )

    def inspect(self, key: str) -> Inspected:
        """What the file turns out to be when all of it is read."""
        found = self._facts("inspect", key)
        numbers = {name: _whole(key, found.get(name)) for name in ("width", "height", "num_frames")}
        return Inspected(_ratio(key, found.get("duration")), fps=_ratio(key, found.get("fps")), **numbers)

    def pictures(
        self, key: str, wanted: Sequence[Wanted], predicted_seconds: float = 0.0
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (index into `wanted`, picture_HWC uint8) for every index.

        Each comes from the smallest rendition that suffices, those from one in the order of their times; after an
        anomaly an index may come again, and the last counts. A picture is valid until the next one is asked for.
        `predicted_seconds`: see `Limits.deadline`.
        """
        for numbers, pictures_NHWC in self.batches(key, wanted, predicted_seconds):
            yield from zip(numbers, pictures_NHWC, strict=True)

    def batches(self, key: str, wanted: Sequence[Wanted], predicted_seconds: float = 0.0) -> Iterator[Batch]:
        """`pictures`, as many at a time as come together; none of them may be written to."""
        with self._named(key):
            yield from self._batches(key, wanted, predicted_seconds)

    def _batches(self, key: str, wanted: Sequence[Wanted], predicted_seconds: float) -> Iterator[Batch]:
        left = dict(enumerate(wanted))
        for which in [which for which, one in left.items() if self._held and (key, one) in self._held]:
            self.drawn["shared"] += 1
            yield [which], self._held[key, left.pop(which)][None]
        yield from self._renditions_of(key, left)
        if left:
            numbers = list(left)
            for ats, pictures_NHWC in self._original(key, list(left.values()), predicted_seconds):
                yield [numbers[at] for at in ats], pictures_NHWC

    def _renditions_of(self, key: str, left: dict[int, Wanted]) -> Iterator[Batch]:
        """The pictures that renditions have; they are left no more."""
        stamp = self.stamp(key) if self._renditions is not None and left else None
        if self._renditions is None or stamp is None:
            # What keeps the file from being opened is told by whoever opens it.
            return
        for kind, show in ((TILES, self._tiles), (PROXY, self._proxy)):
            found = self._renditions.get(key, kind, stamp) if left else None
            if found is None or not found.keeps_to(self.limits):
                continue
            try:
                places = found.places(left)
            except (OSError, Anomaly):
                continue
            # One that fails is not believed in what it has shown before.
            if (yield from show(key, found, {which: left[which] for which in places}, places)):
                for which in places:
                    del left[which]

    def _tiles(self, key: str, found: Rendition, wanted: Mapping[int, Wanted], places: Mapping[int, int]) -> Shown:
        with suppress(OSError, ValueError, Anomaly):
            for numbers, pictures_NHWC in found.tiles(wanted, places):
                self.drawn["tiles"] += len(numbers)
                yield numbers, pictures_NHWC
            return True
        return False

    def _proxy(self, key: str, found: Rendition, wanted: Mapping[int, Wanted], places: Mapping[int, int]) -> Shown:
        assert self._renditions is not None
        if not wanted:
            return True
        door, name, numbers = Door(self._renditions.folder), self._renditions.name(key, PROXY), list(wanted)
        file = (self._rules, self._renditions.folder, key, found.stamp, found.size)
        kept = Kept(self._frames, file, list(wanted.values()))
        try:
            yield from self._counted("cache", kept.look(found.index), numbers)
            decoded = self._decoded(door, name, kept.left, 0.0, attached=True)
            yield from self._counted("proxy", kept.through(decoded), numbers)
        except MediaError:
            # Whatever is wrong with it, the file is still there.
            self.drawn["unfit proxy"] += 1
            return False
        kept.write(found.index)
        return True

    def _original(self, key: str, wanted: Sequence[Wanted], predicted_seconds: float) -> Iterator[Batch]:
        status = None if self._frames is None else self._status(key)
        stamp = None if status is None else status.stamp
        # Copied over, a file may keep its time of change; to the disk it is another.
        inode = None if status is None else (status.inode, status.ctime_ns)
        kept = Kept(None if status is None else self._frames, (self._rules, key, stamp, inode), wanted)
        numbers = range(len(wanted))
        yield from self._counted("cache", kept.look(self._known(key, stamp, wanted)), numbers)
        decoded = self._decoded(self._door, key, kept.left, predicted_seconds)
        yield from self._counted("file", kept.through(decoded), numbers)
        # The first time, decoding it has taught what is needed to find its pictures again.
        kept.write(self._known(key, stamp, wanted))

    def _known(self, key: str, stamp: tuple[int, int] | None, wanted: Sequence[Wanted]) -> PacketIndex | None:
        """The index of a file, where one is kept that can tell which frames are to be shown."""
        index = self._memory(self._door, key, stamp).index()
        return index if index is not None and index.knows(wanted) else None

    def _counted(
        self, whence: str, pictures: Iterable[tuple[int, np.ndarray]], numbers: Sequence[int]
    ) -> Iterator[Batch]:
        for at, picture_HWC in pictures:
            self.drawn[whence] += 1
            yield [numbers[at]], picture_HWC[None]

    def _memory(self, door: Door, key: str, stamp: tuple[int, int] | None) -> IndexFile:
        if self._indexes is None or stamp is None:
            return IndexFile(None)
        return IndexFile(place_of(self._indexes, self._rules, key, stamp), self._least_packets)

    @property
    def _least_packets(self) -> int | None:
        """Of which files the index is kept: where pictures are kept, of all."""
        return None if self._frames is None else 1

    def _decoded(
        self, door: Door, key: str, wanted: Sequence[Wanted], predicted_seconds: float, attached: bool = False
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Pictures of a file behind a door, in the order of their times; `attached`: its index is at its end."""
        if not wanted:
            return
        self._check_member(key)
        if self.isolate == "inline":
            yield from self._inline(door, key, wanted, attached)
            return
        order = sorted(range(len(wanted)), key=lambda which: wanted[which].time)
        once = list(dict.fromkeys(wanted[which] for which in order))
        with self._children.one() as child, door.member(key) as handed:
            request = self._request("read", key, door) | {"attached": attached}
            pictures = child.pictures(key, once, request, self.limits.deadline(predicted_seconds), handed)
            if child.learnt is not None and not attached:
                self._learn(key, child, once[:1])
            by_wish = dict(zip(once, pictures, strict=True))
            for which in order:
                yield which, by_wish[wanted[which]]

    def _learn(self, key: str, child: Child, wanted: Sequence[Wanted]) -> None:
        """Keep what a process has learnt of a file, if it is of the file as it is; from one that has seen other files
        it is not taken, and a fresh one is asked."""
        stamp, learnt = self.stamp(key), child.learnt
        child.learnt = None
        if not child.is_unspoilt and self._frames is None:
            learnt = None
            # What nobody can be had to say is asked again the next time.
            with (
                suppress(MediaError, IsolationError),
                self._children.fresh() as fresh,
                self._door.member(key) as handed,
            ):
                fresh.pictures(key, wanted, self._request("read", key), self.limits.deadline(), handed)
                learnt = fresh.learnt
        if learnt is not None and stamp == learnt.stamp:
            self._keep(key, learnt.stamp, learnt.content)

    def stamp(self, key: str) -> tuple[int, int] | None:
        """Size and time of change of a file; None where it is not to be had."""
        status = self._status(key)
        return None if status is None else status.stamp

    def _status(self, key: str) -> Status | None:
        with suppress(MediaError):
            return self._door.status(key)
        return None

    def _inline(
        self, door: Door, key: str, wanted: Sequence[Wanted], attached: bool
    ) -> Iterator[tuple[int, np.ndarray]]:
        with door.opened(key) as path:
            stamp = stamp_of(path.stat())
            memory = Attached(path) if attached else self._memory(door, key, stamp)
            yield from decode.read(path, wanted, self.reader, limits_for(key, self.limits), memory)
            if memory.kept is not None:
                self._keep(key, stamp, memory.kept)

    def _keep(self, key: str, stamp: tuple[int, int], index: bytes) -> None:
        """Write what has been learnt of a file, by a name that its own key decides: it speaks of no other."""
        if self._indexes is not None:
            write(place_of(self._indexes, self._rules, key, stamp), index)

    def transcode(
        self, key: str, sizes: Sizes, proxy: BinaryIO, tiles: BinaryIO | None, seconds: float
    ) -> dict[str, Any]:
        """Write a file's proxy, and tiles where some are wanted, within `seconds`; says what was made."""
        files = [proxy] if tiles is None else [proxy, tiles]
        with self._named(key):
            if self.isolate == "inline":
                with self._door.opened(key) as path:
                    from vista_train.video.decode.transcode import transcode

                    return transcode(path, self.limits, sizes, stamp_of(path.stat()), proxy, tiles)
            with self._children.fresh() as child, self._door.member(key) as handed:
                request = self._request("transcode", key) | {"sizes": dataclasses.asdict(sizes)}
                return child.ask(key, request, seconds, [*handed, *(file.fileno() for file in files)])

    def at(self, position: int) -> Media:
        """The same, asked on behalf of a training position."""
        other = copy.copy(self)
        other.position, other.drawn = position, Counter()
        return other

    def holding(self, asked: Mapping[str, Collection[Wanted]], predicted: Mapping[str, float]) -> Media:
        """The same, with the pictures asked of some files at hand, as far as these can be had at once.

        A file that fails, or would take longer than one request may, is left to whoever wants its pictures: what is
        wrong with it, and for whom, does not depend on who else wants some.
        """
        other = self.at(self.position)
        other._held = {}
        for key, wanted in asked.items():
            once = list(dict.fromkeys(wanted))
            if self.limits.deadline(2 * predicted[key]) >= self.limits.max_deadline_seconds:
                continue
            with suppress(MediaError):
                batches = [(numbers, p.copy()) for numbers, p in other._batches(key, once, predicted[key])]
                for numbers, pictures_NHWC in batches:
                    other._held |= zip(((key, once[which]) for which in numbers), pictures_NHWC, strict=True)
        return other

    def refuse(self, keys: Iterable[str]) -> None:
        """`MediaError` for the first of the files that are not to be tried again, at its position."""
        for key in keys:
            kind = self.quarantine.kind(key, self.position)
            if kind is not None:
                raise KINDS[kind](key, NOT_AGAIN)

    def refuses(self, key: str) -> bool:
        """Whether a file is not to be tried again, at its position."""
        return self.quarantine.kind(key, self.position) is not None

    def confined(self) -> Confined:
        """What its decoding processes have given up; starts one."""
        with self._children.one() as child:
            return child.confined

    def told(self) -> str:
        """One line on it. Starts a decoding process, where there are any: a run that can have none learns it first."""
        if self.isolate == "inline":
            apart = "decoded in the data workers: for files that you trust"
        else:
            confined = self.confined()
            reach = [
                name for name, gone in (("network", confined.no_network), ("files", confined.no_files)) if not gone
            ]
            some = f"with {' and other '.join(reach)} in reach (see vista-train doctor)"
            apart = f"decoded apart by {self.reader}, {some if reach else 'out of all reach'}"
        more = [f"proxies in {self._renditions.folder}"] if self._renditions is not None else []
        if self._frames is not None:
            more.append(f"{self._frames.max_bytes / 2**30:g} GiB of pictures kept")
        if self.snap_seconds:
            more.append(f"NOT EXACT: keyframes stand in within {float(self.snap_seconds):g} s")
        return "; ".join([f"{self.root}, {apart}", *more])

    def close(self) -> None:
        """End its decoding processes; they are started again when they are needed."""
        self._children.close()

    def _request(self, op: str, key: str, door: Door | None = None) -> dict[str, Any]:
        return {
            "op": op,
            **dataclasses.asdict(door or self._door),
            "reader": self.reader,
            "limits": dataclasses.asdict(limits_for(key, self.limits)),
            "indexes": self._indexes,
            "rules": self._rules,
            "attached": False,
            "least_packets": self._least_packets,
            "memory_bytes": self.limits.max_memory_mib << 20,
            # The packets alone, then the frames; to inspect a file, its header before and three frames after.
            "passes": 2 if op == "read" else 4,
        }

    def _facts(self, op: str, key: str) -> dict[str, Any]:
        with self._named(key):
            self._check_member(key)
            if self.isolate == "inline":
                with self._door.opened(key) as path:
                    return facts(op, path, limits_for(key, self.limits))
            with self._children.one() as child, self._door.member(key) as handed:
                # Nothing is known of it yet; it may have to be read to its end.
                seconds = min(3 * self.limits.deadline(), self.limits.max_deadline_seconds)
                return child.ask(key, self._request(op, key), seconds, handed)

    def _check_member(self, key: str) -> None:
        """`MediaTooLarge` for a file in a tar, which would be copied before anybody asks how large it is."""
        inside = split(key)
        if inside is not None and inside[1].size > self.limits.max_bytes:
            size = inside[1].size
            raise MediaTooLarge(key, f"has {size} bytes, and limits.max_bytes is {self.limits.max_bytes}")

    @contextmanager
    def _named(self, key: str) -> Iterator[None]:
        """Errors within are about `key`, and fit to be shown. What has cost a process is not tried again."""
        try:
            yield
        except MediaError as error:
            kind = type(error).__name__
            # Who is killed twice over one file is killed for it.
            if is_costly(kind, error.reason) or (kind in COSTLY and key in self._killed):
                self.quarantine.add(key, kind, self.position)
            elif kind in COSTLY:
                self._killed.add(key)
            raise type(error)(key, phrase(error.reason)) from None


def _ratio(key: str, text: Any) -> Fraction:
    """A number above 0 of a process that a file may have taken over."""
    num, slash, den = str(text).partition("/")
    # As many digits as `MAX_NUMBER` has: Python refuses to read numbers without end.
    if not (slash and num.isdecimal() and den.isdecimal() and max(len(num), len(den)) < 20):
        raise MediaUnreadable(key, "its header tells no length or frame rate above 0")
    return Fraction(_whole(key, int(num)), _whole(key, int(den)))


def _whole(key: str, number: Any) -> int:
    if type(number) is not int or not 0 < number < MAX_NUMBER:
        raise MediaUnreadable(key, "its header tells no length, size or frame rate above 0")
    return number
