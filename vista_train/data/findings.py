"""What a media file turned out to be, and what follows from it for a manifest's line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from vista_train.data.lines import DECODER
from vista_train.data.sources import OVERRUN_SECONDS
from vista_train.video.decode import Inspected, MediaError

Inspect: TypeAlias = Callable[[str], Inspected]
"""What a media file turns out to be, by its path as manifests have it."""

NUMBERS = ("duration", "width", "height", "fps", "num_frames")
"""What is written of a file into each of its lines."""
SPAN_OUTSIDE = "SpanOutside"
"""The kind of a line that is refused though its file is good."""
COLON, COMMA = re.compile(r"\s*:\s*"), re.compile(r"[\s,]*")


def finding(inspect: Inspect, name: str) -> dict[str, Any]:
    """What a file turns out to be, as the journal has it: `found`, its numbers, or `failed` and `reason`."""
    try:
        found = inspect(name)
    except MediaError as error:
        return {"failed": type(error).__name__, "reason": error.reason}
    numbers = {"duration": float(found.duration), "fps": float(found.fps)}
    return {"found": {key: numbers.get(key, getattr(found, key)) for key in NUMBERS}}


def judged(data: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str | None, str, float]:
    """Why a line is refused, its kind and reason; or None, and the seconds that its span lasts."""
    if "failed" in record:
        return record["failed"], record["reason"], 0.0
    duration = record["found"]["duration"]
    start = float(data.get("start") or 0)
    end = duration if data.get("end") is None else float(data["end"])
    if start >= duration - 1e-6 or end > duration + OVERRUN_SECONDS + 1e-9:
        return SPAN_OUTSIDE, f"its span {start}..{end} s lies outside the file, which lasts {duration} s", 0.0
    return None, "", min(end, duration) - start


def members_of(text: str) -> dict[str, tuple[str, Any]]:
    """The members of a JSON object by key: each as it is written, key and value, and the value."""
    members = {}
    at = COMMA.match(text, text.index("{") + 1).end()  # type: ignore[union-attr]
    while text[at] != "}":
        key, after = DECODER.raw_decode(text, at)
        value, end = DECODER.raw_decode(text, COLON.match(text, after).end())  # type: ignore[union-attr]
        members[key] = (text[at:end], value)
        at = COMMA.match(text, end).end()  # type: ignore[union-attr]
    return members


def untimed_source(members: Mapping[str, tuple[str, Any]]) -> str | None:
    """The source in which a line has no time, but only its place among the other lines; None for every other line."""
    source, start = (members.get(key, ("", None))[1] for key in ("source", "source_start"))
    return source.strip() if source is not None and start is None else None


def renewed(members: Mapping[str, tuple[str, Any]], found: Mapping[str, Any], after_gap: bool = False) -> str:
    """A line with its file's true numbers, its span cut to the file; all else as it is written.

    `after_gap`: the line before it in its source is not there any more.
    """
    new: dict[str, Any] = dict(found) | ({"after_gap": True} if after_gap else {})
    end = members.get("end", ("", None))[1]
    if end is not None and end > found["duration"]:
        new["end"] = found["duration"]
    written = {key: text for key, (text, _) in members.items()}
    written |= {key: f"{json.dumps(key)}: {json.dumps(value)}" for key, value in new.items()}
    return "{" + ", ".join(written.values()) + "}"
