"""One sample as the page shows it: pictures, boxes in per cent, a time bar, words and sources; plain data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from vista_train.preview.pictures import chosen, embedded
from vista_train.preview.shown import Lost, Shown
from vista_train.preview.timeline import Segment, segments
from vista_train.redact import redacted
from vista_train.types import Evidence, Message
from vista_train.video.geometry import Box
from vista_train.video.sampling import View

CLIP_COLOURS = 8
LANES_PX, LANE_PX, LEAST_LANE_PX, CELL_PX = 96, 18, 2, 12
"""Height of a time bar's lanes: of all together where they are many, of one else, of the least, of a grid's row."""
NUMBERED = 0.03
"""A segment as long as this share of the video has room for its number."""
OPTION = re.compile(r"[A-Z]\. ")


@dataclass(frozen=True)
class Part:
    """A rectangle in per cent of what it lies on, left, top, width and height; a time bar's are pixels downwards."""

    left: float
    top: float
    width: float
    height: float
    colour: int = 0
    title: str = ""
    number: int | None = None
    """Of the source that it shows, where there is room to say so."""


@dataclass(frozen=True)
class Frame:
    """A sampled frame."""

    uri: str
    time: Fraction
    alt: str
    boxes: tuple[Part, ...]
    """Evidence that it shows."""


@dataclass(frozen=True)
class TimeBar:
    """A composed video over time: parts in lanes, evidence below, and ticks at the sampled frames."""

    duration: Fraction
    height: float
    """Of all lanes, in pixels."""
    parts: tuple[Part, ...]
    evidence: tuple[Part, ...]
    ticks: tuple[tuple[float, bool], ...]
    """Where on the bar, in per cent, and whether the frame shows evidence."""
    told: str


@dataclass(frozen=True)
class Line:
    """A line of a message; an option of a multiple choice may be the right one."""

    text: str
    is_option: bool = False
    is_right: bool = False


@dataclass(frozen=True)
class Source:
    """A clip that is shown, with the span of its file that is."""

    number: int
    colour: int
    manifest: str
    path: str
    start: float
    end: float
    size: tuple[int, int]
    place: str
    caption: str


@dataclass(frozen=True)
class Card:
    """All there is to show of a position; one that was lost has nothing but its failures."""

    position: int
    kind: str
    failures: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    frames: tuple[Frame, ...] = ()
    frame_size: tuple[int, int] = (0, 0)
    num_frames: int = 0
    """Sampled; there are fewer pictures where these are too many."""
    bar: TimeBar | None = None
    turns: tuple[tuple[str, tuple[Line, ...]], ...] = ()
    """Who says what."""
    sources: tuple[Source, ...] = ()
    manifests: tuple[str, ...] = ()
    is_lost: bool = False

    @property
    def state(self) -> str:
        return "lost" if self.is_lost else "replaced" if self.failures else "as planned"

    @property
    def words(self) -> str:
        """What a search looks through."""
        lines = [line.text for _, lines in self.turns for line in lines]
        clips = [f"{source.path} {source.caption}" for source in self.sources]
        return " ".join([str(self.position), self.kind, self.state, *lines, *dict.fromkeys(clips), *self.failures])


def card(one: Shown | Lost, view: View) -> Card:
    """The card of a position."""
    failures = tuple(redacted(f"attempt {f.attempt}: {f.key}: {f.reason}") for f in one.failures)
    if isinstance(one, Lost):
        manifests = tuple(sorted({f.source for f in one.failures if f.source}))
        return Card(one.position, one.kind, failures, manifests=manifests, is_lost=True)
    video = one.sample.video
    laid = segments(video) if video is not None else []
    height, width = one.frames_TCHW.shape[2:]
    sources = _sources(laid, one)
    # Words alone show nothing that has a source.
    drawn_from = {source.manifest for source in sources if source.manifest} or set(one.origins.values())
    return Card(
        one.position,
        one.sample.kind,
        failures,
        facts=_facts(one),
        frames=_frames(one, view),
        frame_size=(width, height),
        num_frames=len(one.frames_TCHW),
        bar=_bar(laid, one) if video is not None and video.frame_measure > 1 else None,
        turns=_turns(one.sample.messages),
        sources=sources,
        manifests=tuple(sorted(drawn_from)),
    )


def _facts(shown: Shown) -> tuple[tuple[str, str], ...]:
    plan, video = shown.plan, shown.sample.video
    facts = [("tokens", f"{plan.tokens:,}"), ("labels", f"{plan.labels:,}"), ("patches", f"{plan.patches:,}")]
    if video is not None:
        height, width = shown.frames_TCHW.shape[2:]
        facts.append(("frames", f"{len(plan.times):,} of {width} × {height}"))
        if video.frame_measure > 1:
            facts.append(("duration", f"{float(video.duration):.2f} s"))
        facts.append(("video" if video.frame_measure > 1 else "picture", f"{video.size[0]} × {video.size[1]}"))
    return (*facts, ("cost", f"{plan.cost / 1e9:,.3g} GFLOPs"))


def _frames(shown: Shown, view: View) -> tuple[Frame, ...]:
    times = shown.plan.times
    seen = [shown.seen(time) for time in times]
    picked = chosen([bool(evidence) for evidence in seen])
    height, width = shown.frames_TCHW.shape[2:]
    frames = []
    for index, uri in zip(picked, embedded(shown.frames_TCHW[picked]), strict=True):
        alt = f"Frame {index + 1} of {len(times)}, at {float(times[index]):.2f} s"
        alt += ": shows the evidence" if seen[index] else ""
        boxes = tuple(_box(shown, evidence, view, width, height) for evidence in seen[index])
        frames.append(Frame(uri, times[index], alt, boxes))
    return tuple(frames)


def _box(shown: Shown, evidence: Evidence, view: View, width: int, height: int) -> Part:
    box = shown.box(evidence, view)
    left, top = 100 * box.left / width, 100 * box.top / height
    return Part(left, top, 100 * box.width / width, 100 * box.height / height)


def _bar(laid: Sequence[Segment], shown: Shown) -> TimeBar:
    duration = shown.sample.shown.duration
    tops, colours = _lanes(laid), _colours(laid)
    parts = []
    for number, segment in enumerate(laid, 1):
        left, width = _across(segment.span.start, segment.span.end, duration)
        top, height = tops[segment.lane], tops[segment.lane + 1] - tops[segment.lane]
        if segment.cell != Box():
            left, top = left + width * float(segment.cell.left), top + height * float(segment.cell.top)
            width *= float(segment.cell.right - segment.cell.left)
            height *= float(segment.cell.bottom - segment.cell.top)
        has_room = width >= 100 * NUMBERED and height >= CELL_PX
        title = ": ".join(filter(None, [f"{number}", segment.place, _path(segment)])) + f", {_span(segment)}"
        colour = colours[_path(segment)]
        parts.append(Part(left, top, width, height, colour, title, number if has_room else None))
    evidence = []
    for one in shown.sample.evidence:
        left, width = _across(one.span.start, min(one.span.end, duration), duration)
        title = f"evidence, {float(one.span.start):.2f} to {float(one.span.end):.2f} s"
        evidence.append(Part(left, 0.0, width, 100.0, title=title))
    ticks = tuple((100 * float(time / duration), bool(shown.seen(time))) for time in shown.plan.times)
    num_seen = sum(is_seen for _, is_seen in ticks)
    told = (
        f"Time bar of {float(duration):.2f} s: {_counted(len(laid), 'part')}, "
        f"{_counted(len(evidence), 'span')} of evidence, {num_seen} of {len(ticks)} sampled frames show it"
    )
    return TimeBar(duration, tops[-1], tuple(parts), tuple(evidence), ticks, told)


def _lanes(laid: Sequence[Segment]) -> list[float]:
    """Where each lane begins, in pixels, and where the last one ends."""
    count = 1 + max((segment.lane for segment in laid), default=0)
    plain = min(LANE_PX, max(LEAST_LANE_PX, LANES_PX // count))
    tops = [0.0]
    for lane in range(count):
        rows = max((round(1 / (s.cell.bottom - s.cell.top)) for s in laid if s.lane == lane), default=1)
        tops.append(tops[-1] + (plain if rows == 1 else max(plain, min(LANES_PX, CELL_PX * rows))))
    return tops


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _across(start: Fraction, end: Fraction, duration: Fraction) -> tuple[float, float]:
    """Where a span begins, and how long it is, in per cent of the whole."""
    return 100 * float(start / duration), 100 * float((end - start) / duration)


def _path(segment: Segment) -> str:
    return segment.clip.path if segment.clip is not None else ""


def _span(segment: Segment) -> str:
    return f"{float(segment.span.start):.2f} to {float(segment.span.end):.2f} s"


def _colours(laid: Sequence[Segment]) -> dict[str, int]:
    """A colour for every file, in order of appearance."""
    paths = dict.fromkeys(_path(segment) for segment in laid)
    return {path: number % CLIP_COLOURS for number, path in enumerate(paths)}


def _sources(laid: Sequence[Segment], shown: Shown) -> tuple[Source, ...]:
    colours = _colours(laid)
    return tuple(
        Source(
            number,
            colours[clip.path],
            shown.origins.get(clip.path, ""),
            clip.path,
            float(clip.start),
            float(clip.end),
            clip.size,
            segment.place,
            clip.caption,
        )
        for number, segment in enumerate(laid, 1)
        if (clip := segment.clip) is not None
    )


def _turns(messages: Sequence[Message]) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """The conversation; of a question's options, the one whose letter is the answer is marked."""
    turns = []
    for number, message in enumerate(messages):
        following = messages[number + 1].content.strip() if number + 1 < len(messages) else ""
        lines = []
        for text in message.content.splitlines() or [""]:
            is_option = message.role == "user" and bool(OPTION.match(text))
            lines.append(Line(text, is_option, is_option and text[0] == following))
        turns.append((message.role, tuple(lines)))
    return tuple(turns)
