"""Lines: what one line of a manifest may say, checked key by key, and the row that it becomes."""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import Any, NoReturn, get_args

import datasets

from vista_train.redact import phrase, redacted
from vista_train.video.composition import QAKind
from vista_train.video.kinds import WORDS, is_picture, is_words

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What moves a terminal, or ends a string in C; no file that is meant to be found has it in its name."""

FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("video", "caption", "source", "qa")}
    | {
        name: datasets.Value("float64")
        for name in ("start", "end", "source_start", "duration", "width", "height", "fps")
    }
    | {"after_gap": datasets.Value("bool")}
)
"""One column a key. `source` and `start` hold their defaults, `qa` is JSON text, all else unknown is null."""
KEYS = frozenset(FEATURES)
QA_KEYS = frozenset(("question", "answer", "distractors", "kind", "clips"))
QA_KINDS = get_args(QAKind)


class LineCheck:
    """Checks lines of a manifest and turns them into rows; remembers the foreign keys it has let pass."""

    def __init__(self, allow_absolute: bool = False) -> None:
        self._foreign: set[str] = set()
        self._allow_absolute = allow_absolute

    def row(self, line: bytes, where: str = "") -> tuple:
        """The line's values in the order of `FEATURES`; `ValueError` begins with the key that is wrong.

        `where` it stands names it, if it has no video.
        """
        return self.values(_parsed(line), where)

    def values(self, data: dict[str, Any], where: str = "") -> tuple:
        """The same of a line that has been read."""
        self._refuse_misspelt(data, KEYS)
        if "video" in data and data["video"] is None:
            return self._words(data, f"{WORDS}{where}")
        video = _path(data, self._allow_absolute)
        start = _number(data, "start", zero=True) or 0.0
        end = _number(data, "end")
        if end is not None and end <= start:
            raise ValueError(
                f"end is {end}, start is {start}; end must be after start, both in seconds inside the file"
            )
        duration, fps = _number(data, "duration"), _number(data, "fps")
        if is_picture(video):
            _refuse_times(data, "picture")
            duration = fps = 1.0
        return (
            video,
            "" if data.get("caption") is None and data.get("qa") else _text(data, "caption"),
            video if data.get("source") is None else _text(data, "source"),
            self._qa(data.get("qa")),
            start,
            end,
            _number(data, "source_start", zero=True),
            duration,
            _number(data, "width", whole=True),
            _number(data, "height", whole=True),
            fps,
            _flag(data, "after_gap"),
        )

    def _words(self, data: dict[str, Any], key: str) -> tuple:
        """The row of a conversation without anything to see: one second of one pixel, which nobody looks at."""
        _refuse_times(data, "conversation")
        qa = self._qa(data.get("qa"))
        if qa is None or any("kind" in pair for pair in json.loads(qa)):
            raise ValueError("video is null; such a line needs `qa`, questions and answers that are about no clip")
        if data.get("caption"):
            raise ValueError(f"caption is {data['caption']!r:.60}, but video is null; it describes nothing")
        source = key if data.get("source") is None else _text(data, "source")
        return (key, "", source, qa, 0.0, None, None, 1.0, 1.0, 1.0, 1.0, None)

    def _refuse_misspelt(self, data: dict[str, Any], known: frozenset[str], where: str = "") -> None:
        for key in data.keys() - known - self._foreign:
            if right := _nearest(key, known):
                raise ValueError(f"{where}{phrase(key)} is not a key of a manifest; did you mean `{right}`?")
            self._foreign.add(key)

    def _qa(self, entries: Any) -> str | None:
        if entries is None:
            return None
        if not isinstance(entries, list):
            raise ValueError(f"qa is {entries!r:.60}; it must be a list of objects with `question` and `answer`")
        pairs = []
        for index, entry in enumerate(entries):
            where = f"qa[{index}]."
            if not isinstance(entry, dict):
                raise ValueError(f"qa[{index}] is {entry!r:.60}; it must be an object with `question` and `answer`")
            self._refuse_misspelt(entry, QA_KEYS, where)
            wrong = entry.get("distractors")
            if not (wrong is None or (isinstance(wrong, list) and all(isinstance(text, str) for text in wrong))):
                raise ValueError(f"{where}distractors is {wrong!r:.60}; it must be a list of strings")
            pair: dict[str, Any] = {key: _text(entry, key, where) for key in ("question", "answer")}
            pairs.append(pair | {"distractors": wrong or []} | _asked_about(entry, where))
        return json.dumps(pairs) if pairs else None


def _asked_about(entry: dict[str, Any], where: str) -> dict[str, Any]:
    """What a question is about, `kind` and number of `clips`, where that is not the one clip by itself."""
    kind, clips = entry.get("kind"), entry.get("clips")
    if kind is not None and kind not in QA_KINDS:
        raise ValueError(f"{where}kind is {kind!r:.60}; it must be one of {', '.join(QA_KINDS)}")
    is_one = kind in (None, "clip")
    clips = 1 if clips is None and is_one else clips
    if isinstance(clips, bool) or not isinstance(clips, int) or (clips != 1 if is_one else clips < 2):
        right = "1 for a question about one clip" if is_one else f"2 or more for one of kind {kind}"
        raise ValueError(f"{where}clips is {clips!r:.60}; it must be {right}")
    return {} if is_one else {"kind": kind, "clips": clips}


def _refuse_times(data: dict[str, Any], what: str) -> None:
    """`ValueError` where what lasts no time has a span all the same."""
    for key in ("start", "end"):
        if data.get(key):
            raise ValueError(f"{key} is {data[key]!r:.60}; a {what} has no time, and is taken whole")


def _nearest(key: str, known: frozenset[str]) -> str | None:
    """The known key that `key` seems to misspell: same first letter, as long to one letter, four fifths alike."""
    low = key.lower()
    near = [right for right in sorted(known) if right[0] == low[:1] and abs(len(right) - len(low)) <= 1]
    return next(iter(difflib.get_close_matches(low, near, 1, 0.8)), None)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        data = DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"line is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line is not JSON ({error.msg} at column {error.colno}); it must be one object") from None
    except RecursionError:
        raise ValueError("line is not JSON that can be read: it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError(f"line is {data!r:.60}; it must be a JSON object with `video` and `caption`")
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"line holds {name}, which is not JSON; numbers must be finite, and unknown ones left out")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _text(data: dict[str, Any], key: str, where: str = "") -> str:
    value = data.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else f"{value!r:.60}"
        raise ValueError(f"{where}{key} is {found}; it must be a string")
    value = value.strip()
    if not value:
        raise ValueError(f"{where}{key} is empty; it must say something")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{where}{key} holds half a surrogate pair, which is not text") from None
    return value


def _path(data: dict[str, Any], allow_absolute: bool) -> str:
    video = _text(data, "video")
    if (
        (video.startswith("/") and not allow_absolute)
        or "://" in video
        or ".." in video.split("/")
        or CONTROL.search(video)
        or is_words(video)
    ):
        shown = f"{redacted(repr(video)):.200}"
        raise ValueError(
            f"video is {shown}; it must be a path under the data root, relative to it, without `..`, and printable"
        )
    return video


def _number(data: dict[str, Any], key: str, zero: bool = False, whole: bool = False) -> float | None:
    value = data.get(key)
    if value is None:
        return None
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r:.60}; it must be {kind}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{key} is not finite; it must be {kind}")
    if number < 0 or (number == 0 and not zero) or (whole and not number.is_integer()):
        raise ValueError(f"{key} is {value}; it must be {kind}, {'0 or more' if zero else 'above 0'}")
    return number


def _flag(data: dict[str, Any], key: str) -> bool | None:
    value = data.get(key)
    if not (value is None or isinstance(value, bool)):
        raise ValueError(f"{key} is {value!r:.60}; it must be true or false")
    return value
