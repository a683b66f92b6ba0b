"""Samples made by hand, for a page or a sheet whose every number is known; and pages taken apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

from vista_train.preview import MARK, Shown
from vista_train.types import Evidence, Failure, Message, Plan, Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box, Span
from vista_train.video.render import render_view
from vista_train.video.sampling import View

VIEW = View(frames=4, width=100, height=100, min_pixels=7)
GONE = Failure(17, 0, "a.mp4", "MediaMissing: gone", "first")
VOID = frozenset(("meta", "img", "input", "br", "link", "hr", "source", "base"))
RAW = frozenset(("script", "style"))


def clip(path: str = "grey/clip.mp4", end: int = 8, caption: str = "Grey.", start: int = 0) -> Clip:
    return Clip(path, Fraction(start), Fraction(end), 200, 200, Fraction(10), caption)


def shown(*failures: Failure) -> Shown:
    """Four grey frames of a grey video; the right lower quarter is asked about, on the second and the third."""
    frames_TCHW = torch.full((4, 3, 100, 100), 128, dtype=torch.uint8)
    words = (Message("user", "What is seen?\nA. Red\nB. Grey"), Message("assistant", "B"))
    sample = Sample(clip(), words, (Evidence(Span(2, 6), Box("1/2", "1/2", 1, 1)),), "plain")
    times = tuple(Fraction(2 * number + 1) for number in range(4))
    return Shown(17, sample, Plan(times, 1234, 64, 45, 2e9), frames_TCHW, failures, {"grey/clip.mp4": "first"})


def painted(view: View, size: tuple[int, int], frames: int, box: Box, colour=(20, 160, 20)) -> Shown:
    """A grey video of `size` with one box of a colour, as `view` renders it, and asked about all the time."""
    pixels_TCHW = torch.full((frames, 3, size[1], size[0]), 128, dtype=torch.uint8)
    left, top, right, bottom = (int(edge * side) for edge, side in zip(box.edges, size * 2, strict=True))
    pixels_TCHW[:, :, top:bottom, left:right] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    video = Clip.from_frames(pixels_TCHW, frames, "Green on grey.")
    times = view.times(video.duration, video.frame_measure)
    sample = Sample(video, shown().sample.messages, (Evidence(Span(0, frames), box),), "plain")
    return Shown(3, sample, Plan(times, 1, 2, 1, 1.0), render_view(video, times, view))


def marked(picture: Image.Image) -> np.ndarray:
    """1 for every pixel [H, W] of a picture that is as red as the mark, or nearly."""
    return (np.abs(np.asarray(picture.convert("RGB")).astype(int) - MARK).sum(axis=2) < 30).astype(int)


@dataclass
class Element:
    """An element of a page; text stands among its children."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def text(self) -> str:
        """All words inside, but those of scripts and styles."""
        parts = [
            child if isinstance(child, str) else child.text
            for child in self.children
            if isinstance(child, str) or child.name not in RAW
        ]
        return " ".join(" ".join(parts).split())

    @property
    def raw(self) -> str:
        return "".join(child for child in self.children if isinstance(child, str))

    def all(self, name: str = "", **attributes: str) -> list[Element]:
        """Elements below of a name, and with these attributes; `css` is one of an element's classes."""
        css = attributes.pop("css", "")
        found = []
        for child in self.children:
            if isinstance(child, str):
                continue
            is_named = not name or child.name == name
            has = all(child.attributes.get(key) == value for key, value in attributes.items())
            found += [child] if is_named and has and (not css or css in child.classes) else []
            found += child.all(name, **attributes, **({"css": css} if css else {}))
        return found

    def one(self, name: str = "", **attributes: str) -> Element:
        (found,) = self.all(name, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(html: str) -> Element:
    """A page as a tree; every element must be closed, in order."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root], f"<{reader.open[-1].name}> is never closed"
    return reader.root
