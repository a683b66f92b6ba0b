"""The page: samples, the whole mix and a dealt step in one HTML file that asks nothing of any network.

Captions, paths and questions are other people's words: Jinja escapes all of them, what the script reads is JSON that
cannot close its element, and the page's own policy lets no style and no script run but the two that it was made with.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import vista_train
from vista_train.preview.cards import Card, card
from vista_train.preview.dealing import Dealt
from vista_train.preview.mix import Histogram, MixView
from vista_train.preview.shown import Lost, Shown
from vista_train.video.sampling import View

WEB = Path(__file__).parent / "web"
KIND_COLOURS = 10
DRAWN_ROWS = 128
"""Of a step with more, so many rows are drawn."""


@dataclass(frozen=True)
class About:
    """What is previewed."""

    recipe: str
    overrides: tuple[str, ...]
    family: str
    seed: int
    positions: range

    def command(self, position: int) -> str:
        """What shows a position again, for a shell."""
        return shlex.join(["vista-train", "preview", self.recipe, *self.overrides, "--position", str(position)])


@dataclass(frozen=True)
class Overview:
    """What lies beyond the samples that are shown."""

    mix: MixView | None = None
    dealt: Dealt | None = None


def page(
    everyone: Iterable[Shown | Lost], view: View, about: About | None = None, overview: Overview | None = None
) -> str:
    """An HTML page that stands by itself; samples are taken one by one, and only their pictures kept."""
    cards = [card(one, view) for one in everyone]
    whole = overview or Overview()
    colours = _colours(cards, whole)
    style, script = ((WEB / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            about=about,
            version=vista_train.__version__,
            view=view.told(),
            cards=cards,
            index=[_entry(one) for one in cards],
            filters=_filters(cards),
            colours=colours,
            here={one.position for one in cards},
            mix=whole.mix,
            dealt=whole.dealt,
            drawn_rows=DRAWN_ROWS,
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
        )
    )


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy that lets through this style, this script and embedded pictures, and nothing else."""
    style_hash, script_hash = (
        "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src '{style_hash}'; script-src '{script_hash}'; "
        f"base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(WEB),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"share": _share, "coordinate": _coordinate, "brief": _brief, "bars": _bars}
    return found


def _colours(cards: Sequence[Card], whole: Overview) -> dict[str, int]:
    """A colour for every augmentation, the same wherever it is drawn."""
    kinds = {one.kind for one in cards}
    kinds |= {share.kind for share in whole.mix.shares} if whole.mix else set()
    kinds |= {sample.kind for row in whole.dealt.rows for sample in row.samples} if whole.dealt else set()
    return {kind: number % KIND_COLOURS for number, kind in enumerate(sorted(kinds))}


def _entry(one: Card) -> dict[str, Any]:
    """What the script filters by."""
    return {
        "position": one.position,
        "kind": one.kind,
        "manifest": list(one.manifests),
        "state": one.state,
        "words": one.words.lower(),
    }


def _filters(cards: Sequence[Card]) -> list[tuple[str, str, list[tuple[str, int]]]]:
    """Groups of chips: the key they filter by, what they are called, and each value with its number of samples."""
    groups = [
        ("kind", "Augmentation", [one.kind for one in cards]),
        ("manifest", "Manifest", [name for one in cards for name in one.manifests]),
        ("state", "State", [one.state for one in cards]),
    ]
    return [(key, name, [(value, found.count(value)) for value in sorted(set(found))]) for key, name, found in groups]


def _share(value: float) -> str:
    """Per cent."""
    return "100 %" if value >= 0.9995 else f"{100 * value:.1f} %"


def _coordinate(value: float) -> str:
    """A coordinate."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _brief(value: float) -> str:
    """A number on an axis."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _bars(histogram: Histogram, kind: str) -> list[dict[str, float]]:
    """The bins of an augmentation that hold something: left, width and height in per cent."""
    counts = histogram.counts[kind]
    most = max(counts, default=0)
    width = 100 / len(counts)
    return [
        {"left": number * width, "width": width, "height": 100 * count / most, "count": count, "number": number}
        for number, count in enumerate(counts)
        if count
    ]
