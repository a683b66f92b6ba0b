"""Layouts: which columns of a published file hold what a manifest's keys hold; records become lines of a manifest."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from vista_train.data.shards import SOURCE, VIDEO

SPAN = "span"
"""A column that holds both start and end, as a pair."""
LAYOUTS: dict[str, dict[str, str]] = {
    "panda70m": {
        "video": "{videoID}.mp4",
        "source": "videoID",
        "caption": "caption[]",
        SPAN: "timestamp[]",
    },
    "internvid": {
        "video": "{YoutubeID}.mp4",
        "source": "YoutubeID",
        "caption": "Caption",
        "start": "Start_timestamp",
        "end": "End_timestamp",
    },
    "openvid1m": {"video": "video", "caption": "caption", "duration": "seconds", "fps": "fps"},
    "miradata": {
        "video": "{clip_id}.mp4",
        "source": "video_id",
        "caption": "dense_caption",
        "duration": "seconds",
        "width": "width",
        "height": "height",
    },
    "finevideo": {
        "video": "original_video_filename",
        "caption": "content_metadata.description",
        "duration": "duration_seconds",
        "qa": "content_metadata.qAndA",
    },
    "llava": {"video": "video|image", "caption": "caption", "qa": "conversations|messages"},
    "vista400k": {"video": "image|video", "qa": "conversations"},
    "videochat2": {"video": "video", "caption": "caption", "start": "start", "end": "end", "qa": "QA"},
    "webdataset": {"video": VIDEO, "source": SOURCE, "caption": "caption", "qa": "conversations|messages"},
}
"""By name: of each key of a manifest, the column that holds it. Where a video lies below the data root is what the
downloader made of it, so `columns: {video: "videos/{videoID}.mp4"}` often goes on top."""
SOURCE_IN_NAME = {"openvid1m": re.compile(r"(.+)_\d+_\d+to\d+\.\w+")}
"""Where no column says what recording a clip is of, its file's name may: <recording>_<scene>_<frame>to<frame>.mp4."""
WORDY = frozenset(("llava",))
"""Layouts whose records may be words alone: they name no video, and none is missing."""
OTHER_MEDIA = ("images", "videos", "audio", "audios")
"""Columns of such records that hold what cannot be shown: then they are not words alone."""
PLACEHOLDER = re.compile(r"\s*<(?:video|image)>\s*")
"""Stands in the words of instruction sets where the video goes; here it always goes first."""
CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
MAX_LISTED = 1 << 16
"""Clips of one record."""
FIELD = re.compile(r"\{([^{}]+)\}")
"""A column's place in a text that is put together."""
_ABSENT = object()


def columns_of(layout: str, columns: Mapping[str, str]) -> dict[str, str]:
    """The layout's columns, if it is one that is published, and those that the user names; `ValueError` for such as
    cannot be meant."""
    named = LAYOUTS.get(layout, {}) | dict(columns)
    if "video" not in named:
        raise ValueError("columns names no `video`: say which column holds the path, or how it is put together")
    heads = {key: column[: column.rfind("[]") + 2] for key, column in named.items() if "[]" in column}
    for key in heads:
        if "{" in named[key] or "|" in named[key]:
            raise ValueError(f"columns.{key} is {named[key]!r}; a list cannot be put together, or chosen")
    if len(set(heads.values())) > 1 and any(head.count("[]") > 1 for head in heads.values()):
        told = ", ".join(f"{key}: {named[key]}" for key in heads)
        raise ValueError(f"columns has lists within lists that are not the same ones ({told}); clips would be mixed up")
    return named


def needed(columns: Mapping[str, str], layout: str = "") -> set[str]:
    """The columns that have to be read at all."""
    names = set(OTHER_MEDIA if layout in WORDY else ())
    for column in columns.values():
        fields = FIELD.findall(column) if "{" in column else [column]
        choices = [choice for field in fields for choice in field.split("|")]
        names |= {name for choice in choices for name in (choice, choice.partition(".")[0].removesuffix("[]"))}
    return names


class Layout:
    """Which columns hold what, made ready: millions of records are asked."""

    def __init__(self, columns: Mapping[str, str], name: str = "") -> None:
        self._source = None if "source" in columns else SOURCE_IN_NAME.get(name)
        self._may_be_words = name in WORDY
        self._columns = dict(columns)
        self._plain = {key: column for key, column in columns.items() if not set(column) & set("{|.[")}
        self._other = {key: column for key, column in columns.items() if key not in self._plain}
        self._lists = [key for key, column in columns.items() if "[]" in column]
        self._times = [key for key in ("start", "end", SPAN) if key in columns]

    def lines(self, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """What a record says, as lines of a manifest: one, or one for each entry of the lists that its columns hold.

        `ValueError` names the key and the column.
        """
        known: dict[str, Any] = {key: record.get(column) for key, column in self._plain.items()}
        for key, column in self._other.items():
            found = _found(record, column)
            known[key] = None if found is _ABSENT else found
        for key in self._times:
            column = self._columns[key]
            if column in record and record[column] in (None, ""):
                raise ValueError(f"{key} is empty in column {column}; it must be a time")
        known = {key: value for key, value in known.items() if not (value is None or value == "")}
        if self._may_be_words and "video" not in known and "qa" in known:
            known |= _shows_nothing(record, known["qa"])
        lists = {key: known[key] for key in self._lists if key in known}
        for key, value in lists.items():
            if not isinstance(value, list | tuple):
                raise ValueError(f"column {self._columns[key]} holds {value!r:.60}; it must be a list")
        if self._source and isinstance(known.get("video"), str):
            found = self._source.fullmatch(known["video"].rpartition("/")[2])
            known |= {"source": found[1]} if found else {}
        if not lists:
            yield _line(known)
            return
        lengths = {key: len(value) for key, value in lists.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{self._columns[key]} {length}" for key, length in lengths.items())
            raise ValueError(f"the lists of one record have different lengths: {told}")
        length = next(iter(lengths.values()))
        if length > MAX_LISTED:
            raise ValueError(f"one record tells of {length} clips; {MAX_LISTED} are the most")
        for at in range(length):
            line = {key: value[at] if key in lists else value for key, value in known.items()}
            for key in self._times:
                if key in line and (line[key] is None or line[key] is _ABSENT):
                    raise ValueError(f"{key} is empty in entry {at} of {self._columns[key]}; it must be a time")
            yield _line({key: value for key, value in line.items() if value is not _ABSENT and value is not None})


def seconds(value: Any, key: str) -> Any:
    """A time in seconds: a number, its text, or a clock's `0:01:02.5`."""
    if isinstance(value, str):
        text = value.strip()
        if ":" in text and (clock := CLOCK.fullmatch(text)):
            hours, minutes, rest = clock.groups()
            # Decimal text keeps its digits: 0:01:02.3 is 62.3, not what adding floats makes of it.
            return round(3600 * int(hours or 0) + 60 * int(minutes) + float(rest), 9)
        return _number(text, key)
    return value


def pairs_of(value: Any) -> list[dict[str, Any]]:
    """Questions and answers, in the order in which they were asked.

    From `{question, answer}`, from turns of `{from, value}` or `{role, content}` (LLaVA, ShareGPT), or from
    `{i, q, a}`, an instruction, a question and an answer (VideoChat2-IT).
    """
    if isinstance(value, str):
        value = _listed(value, "qa")
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"qa is {value!r:.60}; it must be a list of questions and answers, or of turns")
    if any("from" in entry or "role" in entry for entry in value):
        return _turns(value)
    pairs = []
    for entry in value:
        if "a" in entry:
            asked = [str(entry[key]).strip() for key in ("i", "q") if str(entry.get(key) or "").strip()]
            pairs.append({"question": "\n".join(asked), "answer": entry["a"]})
        else:
            pairs.append({key: entry[key] for key in ("question", "answer", "distractors") if entry.get(key)})
    return pairs


def _turns(turns: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    said = []
    for turn in turns:
        who = SPEAKERS.get(str(turn.get("from", turn.get("role"))).lower())
        if who is None:
            raise ValueError(f"a turn is from {turn.get('from', turn.get('role'))!r:.40}; it must be human or gpt")
        if who != "system":
            text = turn.get("value", turn.get("content"))
            said.append((who, text if not isinstance(text, str) else PLACEHOLDER.sub(" ", text).strip()))
    if len(said) % 2 or any(who != ("user", "assistant")[at % 2] for at, (who, _) in enumerate(said)):
        raise ValueError("its turns do not go from human to gpt, one after the other")
    asked = [{"question": said[at][1], "answer": said[at + 1][1]} for at in range(0, len(said), 2)]
    videos = sum(len(PLACEHOLDER.findall(str(turn.get("value", turn.get("content"))))) for turn in turns)
    if videos > 1:
        raise ValueError(f"its words name {videos} videos or images; one a conversation can be shown")
    return asked


def _shows_nothing(record: Mapping[str, Any], qa: Any) -> dict[str, None]:
    """`video: null` where a record without a video has none to show; `ValueError` where it has something else."""
    if other := [name for name in OTHER_MEDIA if record.get(name)]:
        raise ValueError(f"column {other[0]} holds {record[other[0]]!r:.60}; one video or picture a record is taken")
    # Who speaks of one that is not there asks about nothing.
    return {} if PLACEHOLDER.search(str(qa)) else {"video": None}


def _line(values: dict[str, Any]) -> dict[str, Any]:
    line = values
    if SPAN in line:
        pair = line.pop(SPAN)
        pair = _listed(pair, SPAN) if isinstance(pair, str) else pair
        if not isinstance(pair, list | tuple) or len(pair) != 2 or any(part in (None, "") for part in pair):
            raise ValueError(f"{SPAN} is {pair!r:.60}; it must be a pair, start and end")
        line["start"], line["end"] = pair
    for key in ("start", "end", "source_start", "duration"):
        if key in line:
            line[key] = seconds(line[key], key)
    for key in ("width", "height", "fps"):
        if isinstance(line.get(key), str):
            line[key] = _number(line[key], key)
    if "qa" in line:
        line["qa"] = pairs_of(line["qa"])
    return line


def _found(record: Mapping[str, Any], column: str) -> Any:
    """What a column holds: of `a|b` the first that is there, of `a.b` what stands in an object, of `a[]` a list,
    of `x/{a}.mp4` the text put together."""
    if "{" in column:
        parts = {field: _found(record, field) for field in FIELD.findall(column)}
        if any(part is _ABSENT or part is None or part == "" for part in parts.values()):
            return _ABSENT
        return FIELD.sub(lambda field: str(parts[field[1]]), column)
    for choice in column.split("|"):
        value = record[choice] if choice in record else _inside(record, choice.split("."), column)
        if value is not _ABSENT and value is not None:
            return value
    return _ABSENT


def _inside(value: Any, path: list[str], column: str) -> Any:
    for at, step in enumerate(path):
        name = step.removesuffix("[]")
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
        if step.endswith("[]"):
            entries = _listed(value, column) if isinstance(value, str) else value
            if entries is None:
                entries = []
            if not isinstance(entries, list):
                raise ValueError(f"column {column} holds {entries!r:.40}; it must be a list")
            rest = path[at + 1 :]
            if not rest:
                return entries
            found = [_inside(entry, rest, column) for entry in entries]
            if "[]" not in "".join(rest):
                return found
            # Where a list is missing there is nothing; who names the same list has nothing there either.
            return [one for part in found if part is not _ABSENT for one in part]
    return value


def _listed(text: str, what: str) -> Any:
    """A list that stands as text in a cell, as JSON or as Python prints it."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return parse(text)
    raise ValueError(f"{what} holds {text!r:.60}; it must be a list")


def _number(text: str, key: str) -> float:
    try:
        # Python reads 1_000 as a number; whoever wrote it may have meant something else.
        return float(text.replace("_", " "))
    except ValueError:
        raise ValueError(f"{key} is {text!r:.60}; it must be a number") from None
