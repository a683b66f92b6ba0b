"""`vista-train preview recipe.yaml --position 17`: see what the model will see, and what it will be told; with `--out
page.html`, also what the whole mix holds, and how a step is dealt to ranks."""

from vista_train.preview.cards import Card, card
from vista_train.preview.command import describe, main, run
from vista_train.preview.contact import (
    LABEL_WIDTH,
    LINE,
    MARGIN,
    MARK,
    SHEET_WIDTH,
    sheet,
    stacked,
    words,
)
from vista_train.preview.dealing import Dealt, DealtRow, dealt
from vista_train.preview.document import About, Overview, page
from vista_train.preview.mix import Histogram, MixView, histogram, mix_view
from vista_train.preview.plans import Planned, planned
from vista_train.preview.shown import Lost, Shown, find, look

__all__ = [
    "LABEL_WIDTH",
    "LINE",
    "MARGIN",
    "MARK",
    "SHEET_WIDTH",
    "About",
    "Card",
    "Dealt",
    "DealtRow",
    "Histogram",
    "Lost",
    "MixView",
    "Overview",
    "Planned",
    "Shown",
    "card",
    "dealt",
    "describe",
    "find",
    "histogram",
    "look",
    "main",
    "mix_view",
    "page",
    "planned",
    "run",
    "sheet",
    "stacked",
    "words",
]
