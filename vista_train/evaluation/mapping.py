"""Mappings: which columns of a benchmark's rows hold the video, the question, the options and the answer."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vista_train.evaluation.choices import LABEL, LETTERS, TEMPLATE, Question, letter_of, parted
from vista_train.evaluation.footage import Footage
from vista_train.redact import phrase
from vista_train.video.composition import Video
from vista_train.video.decode import MediaError
from vista_train.video.geometry import exact

MAPPINGS = Path(__file__).parent / "mappings"
PLACE = re.compile(r"\{([^{}]+)\}")
ABSENT = ("", "N/A")
"""Options that are none: LongVideoBench fills rows up with them."""
FILES = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True)
class ColumnMapping:
    """Where a benchmark's rows say what. A column inside an object is `outer.inner`; texts may hold `{column}`."""

    name: str
    """What the benchmark is called."""
    video: str
    """The video's path under the root, as a text with columns in it, such as `data/{videoID}.mp4`; or a folder of
    frames."""
    question: str
    """The column of the question."""
    options: str | tuple[str, ...] = ()
    """The column that lists the options, or a column for each; none where the question's text holds them: each then
    begins a line of it with its letter, as in `(A) red`."""
    answer: str = "answer"
    """The column that tells the right option."""
    answer_is: Literal["letter", "index", "text"] = "letter"
    """How it does: by letter, by number from 0, or by the option's own words."""
    id: str = ""
    """What names a row, as a text with columns in it; default, the row's number in the file."""
    each: str = ""
    """The column that lists the questions of a row, where one row has several; its columns are then `each.column`."""
    groups: tuple[str, ...] = ()
    """Columns to count by."""
    start: str = ""
    """The column of the second that the question's part of the video begins at; rows may lack it."""
    end: str = ""
    """... and ends at."""
    prompt: str = TEMPLATE
    """How a question is put: `{letters}`, `{question}` and `{options}` are filled in."""
    folder_fps: float = 25.0
    """Frames a second of videos that are folders of frames."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        if not {"question", "options"} <= set(PLACE.findall(self.prompt)):
            raise ValueError(
                f"mapping {self.name!r}: prompt is {self.prompt!r}; it must hold {{question}} and {{options}}"
            )

    def questions(
        self, rows: Sequence[Mapping[str, Any]], footage: Footage, limit: int | None = None
    ) -> Iterator[Question]:
        """The questions of all rows, or the first so many; `ValueError` names the row and the column that is wrong."""
        singles = ((at, single) for at, row in enumerate(rows) for single in self._singles(row, at))
        for number, (at, single) in enumerate(itertools.islice(singles, limit)):
            yield self._question(single, f"row {at}", str(number), footage)

    def _singles(self, row: Mapping[str, Any], at: int) -> list[Mapping[str, Any]]:
        """A row for each question."""
        if not self.each:
            return [row]
        listed = _column(row, self.each, f"row {at}")
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise ValueError(f"row {at}: {self.each} is {_shown(listed)}; it must be a list of questions")
        return [{**row, self.each: entry} for entry in listed]

    def _question(self, row: Mapping[str, Any], where: str, number: str, footage: Footage) -> Question:
        text = str(_column(row, self.question, where)).strip()
        if self.options:
            labels, options = parted(self._options(row, where))
        else:
            text, (labels, options) = _options_in(text)
        right = self._right(_column(row, self.answer, where), labels, options, where)
        video, failure = self._video(row, where, footage)
        try:
            return Question(
                key=_filled(self.id, row, where) if self.id else number,
                video=video,
                text=text,
                options=options,
                right=right,
                labels=labels,
                groups={name: _group(_column(row, name, where)) for name in self.groups},
                template=self.prompt,
                failure=failure,
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _options(self, row: Mapping[str, Any], where: str) -> list[str]:
        if isinstance(self.options, str):
            found = _column(row, self.options, where)
            if isinstance(found, str):
                # CSV has no lists; some write them as JSON.
                found = _listed(found)
            if not isinstance(found, Sequence) or isinstance(found, str):
                raise ValueError(f"{where}: {self.options} is {_shown(found)}; it must be a list of options")
        else:
            found = [_column(row, name, where) for name in self.options]
        options = [str(option).strip() for option in found if option is not None]
        while options and options[-1] in ABSENT:
            options.pop()
        return options

    def _right(self, answer: Any, labels: Sequence[str], options: Sequence[str], where: str) -> int:
        """The place of the right option."""
        said = str(answer).strip()
        match self.answer_is:
            case "letter":
                letter = letter_of(said)
                if letter is not None:
                    return LETTERS.index(letter)
            case "index":
                if re.fullmatch(r"\d+(\.0)?", said):
                    return int(float(said))
            case "text":
                bare = next((said[len(label) :] for label in labels if label and said.startswith(label)), said)
                if bare in options:
                    return options.index(bare)
        wanted = {"letter": "a letter", "index": "a number from 0", "text": "the words of an option"}
        raise ValueError(f"{where}: {self.answer} is {_shown(answer)}; it must be {wanted[self.answer_is]}")

    def _video(self, row: Mapping[str, Any], where: str, footage: Footage) -> tuple[Video | None, str]:
        """The video, or why there is none."""
        try:
            clip = footage.clip(_filled(self.video, row, where))
        except MediaError as error:
            return None, f"{type(error).__name__}: {error}"
        start, end = (_optional(row, name) for name in (self.start, self.end))
        if start is None and end is None:
            return clip, ""
        first = exact(float(start or 0))
        last = clip.duration if end is None else min(clip.duration, exact(float(end)))
        if not 0 <= first < last:
            return None, f"its part, {start}..{end} s, lies outside the video, which lasts {float(clip.duration):g} s"
        return clip.subclip(first, last), ""


def known_mappings() -> list[str]:
    """The benchmarks that a mapping is at hand for."""
    return sorted(path.stem for path in MAPPINGS.glob("*.yaml"))


def mapping_file(name: str) -> Path:
    """The YAML file of a mapping, by the benchmark's name or by its path; `ValueError` where there is none."""
    if name in known_mappings():
        return MAPPINGS / f"{name}.yaml"
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ValueError(f"--mapping is {name!r}; it must be a YAML file, or one of {', '.join(known_mappings())}")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines, JSON, parquet or CSV file; `ValueError` where it is none of these."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        match path.suffix.lower():
            case ".jsonl":
                lines = path.read_text(encoding="utf-8").splitlines()
                rows = [json.loads(line) for line in lines if line.strip()]
            case ".json":
                rows = json.loads(path.read_text(encoding="utf-8"))
            case ".parquet":
                rows = pq.read_table(path).to_pylist()
            case ".csv":
                with path.open(encoding="utf-8", newline="") as stream:
                    rows = list(csv.DictReader(stream))
            case other:
                raise ValueError(f"the name ends in {other!r}; it must end in one of {', '.join(FILES)}")
    except (ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{path}: {phrase(str(error))}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: it must hold a list of objects, one a row")
    return rows


def _column(row: Mapping[str, Any], name: str, where: str) -> Any:
    found: Any = row
    for step in name.split(".") if name not in row else [name]:
        if not isinstance(found, Mapping) or step not in found:
            known = ", ".join(map(str, found)) if isinstance(found, Mapping) else _shown(found)
            raise ValueError(f"{where}: there is no column {name!r}; there are {known}")
        found = found[step]
    return found


def _optional(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; None where the row lacks it or it is empty."""
    found: Any = row
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return None if found == "" else found


def _filled(text: str, row: Mapping[str, Any], where: str) -> str:
    return PLACE.sub(lambda found: str(_column(row, found[1], where)), text)


def _group(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _options_in(text: str) -> tuple[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """A question that holds its options, and these: lines that begin with letters in order, from A on."""
    lines, found = text.splitlines(), list[str]()
    while lines and not _begins(lines[-1], "A"):
        found.insert(0, lines.pop())
    found = [lines.pop(), *found] if lines else []
    options: list[str] = []
    for line in found:
        if _begins(line, LETTERS[len(options)]):
            options.append(line.strip())
        else:
            # An option of several lines.
            options[-1] += f" {line.strip()}"
    return "\n".join(lines).strip(), parted(options)


def _begins(line: str, letter: str) -> bool:
    """Whether a line begins with an option's letter."""
    found = LABEL.match(line)
    return bool(found and found[2] == letter)


def _listed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    return phrase(repr(value))[:80]
