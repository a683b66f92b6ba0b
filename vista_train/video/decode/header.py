"""What a file says of itself, and what it turns out to be."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from vista_train.video.decode.base import Header, Inspected, MediaUnreadable, Wanted
from vista_train.video.decode.limits import Limits
from vista_train.video.decode.packets import Anomaly
from vista_train.video.decode.pyav import PyAVReader, first_shown
from vista_train.video.decode.source import Source, opened, read_index

MATROSKA_DURATION = re.compile(r"(?P<hours>\d{1,9}):(?P<minutes>\d{1,9}):(?P<seconds>\d{1,9}(\.\d{1,18})?)", re.ASCII)
"""The tag in which Matroska muxers leave a stream's end; its header has only the whole file's length."""
ALIKE = Fraction(1, 100)
"""A stated frame rate this near to the measured one is taken: Matroska's times are rounded to the millisecond."""


def admit(path: Path, limits: Limits) -> None:
    """Raise what `opened` raises; for readers that have no such checks of their own."""
    with opened(path, limits):
        pass


def header(path: Path, limits: Limits) -> Header:
    """What the file says of its best video stream. Decodes one frame, which alone tells how the picture is turned."""
    with opened(path, limits) as source:
        stream = source.stream
        num_frames, duration = _stated_frames(source), _stated_seconds(source)
        fps = stream.average_rate or stream.guessed_rate
        frame = next(source.frames(source.packets()), None)
        if frame is None:
            raise Anomaly("no frame can be decoded")
        sideways = round(frame.rotation / 90) % 2 == 1
        size = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        source.check(0, 0, 0, duration or Fraction(0))
        codec, container = stream.codec.canonical_name, source.container.format.name
    if not duration or not fps:
        with opened(path, limits) as source:
            index = read_index(source)
            num_frames = len(index)
            duration = duration or index.duration or (1 / fps if fps else None)
            fps = fps or (num_frames / duration if duration else None)
    if not duration or not fps:
        raise MediaUnreadable(path, "neither its duration nor its frame rate can be known")
    return Header(duration, *size, fps, num_frames, codec, container)


def _stated_frames(source: Source) -> int | None:
    if not source.num_promised():
        return None
    if "mov" in source.formats:
        return sum(not entry.is_discard for entry in source.stream.index_entries)
    return source.stream.frames


def _stated_seconds(source: Source) -> Fraction | None:
    """How long the video stream is shown, from its first frame; the whole file's length where it does not say."""
    stream = source.stream
    if stream.duration and stream.duration > 0:
        return stream.duration * source.time_base
    tag = MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag:
        ends = int(tag["hours"]) * 3600 + int(tag["minutes"]) * 60 + Fraction(tag["seconds"])
    else:
        ends = Fraction(source.container.duration or 0, av.time_base)
    seconds = ends - (stream.start_time or 0) * source.time_base
    return seconds if seconds > 0 else None


def inspected(path: Path, limits: Limits) -> Inspected:
    """All packets of the file are read, and its first, middle and last frame decoded; `MediaError` if that fails."""
    told = header(path, limits)
    with opened(path, limits) as source:
        index = read_index(source)
    if index.is_damaged:
        raise MediaUnreadable(path, "cannot be decoded: a packet is damaged")
    first = index.first
    if index.may_start_late:
        with opened(path, limits) as source:
            first = first_shown(source, index)[0][0]
    index = replace(index, first=first)
    last, num_frames = index.starts_at(-1), len(index) - first
    measured = 1 / index.mean_seconds if index.mean_seconds else told.fps
    seconds = last + (index.last_seconds or 1 / told.fps)
    middle = index.starts_at(first + num_frames // 2)
    wanted = [Wanted(time, told.width, told.height) for time in (Fraction(0), middle, last)]
    for _ in PyAVReader().pictures(path, wanted, limits):
        pass
    fps = told.fps if abs(told.fps - measured) <= ALIKE * measured else measured
    return Inspected(seconds, told.width, told.height, fps, num_frames)
