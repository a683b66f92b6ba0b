"""The page in a real browser, from disk: its filters work, it stays silent, and nothing foreign runs in it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.preview.browser import Browser
from tests.preview.made import GONE, VIEW, marked, shown
from tests.preview.test_page import ABOUT, OVERVIEW, WILD
from vista_train.preview import Lost, page
from vista_train.types import Message

# All share one browser.
pytestmark = pytest.mark.xdist_group("chromium")
WIDTHS = ((1400, 900), (390, 844))
LONG = "a_very_long_path_without_a_break/" * 8


def a_page() -> str:
    """Five samples of three kinds from two manifests, one replaced, one lost; one with words that are markup."""
    calm = shown()
    wild = replace(calm.sample, messages=(Message("user", WILD), Message("assistant", WILD)), kind="two_needle")
    there = calm.sample.shown
    long = replace(calm.sample, video=replace(there, path=f"{LONG}.mp4", caption="An owl."), kind="video_grid")
    return page(
        [
            calm,
            replace(calm, position=18, sample=wild),
            replace(calm, position=19, sample=long, origins={f"{LONG}.mp4": "second"}),
            replace(shown(GONE), position=20, sample=long, origins={f"{LONG}.mp4": "second"}),
            Lost(21, "plain", (GONE,)),
        ],
        VIEW,
        ABOUT,
        OVERVIEW,
    )


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(a_page(), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, url: str) -> Browser:
    browser.size(*WIDTHS[0])
    browser.open(url)
    return browser


def left(browser: Browser) -> list[int]:
    """The positions that can be seen."""
    return browser.ask(
        "[...document.querySelectorAll('article')].filter(c => c.offsetHeight).map(c => Number(c.id.slice(9)))"
    )


def chip(key: str, value: str) -> str:
    return f'.chip[data-key="{key}"][data-value="{value}"]'


def test_chips_choose_within_a_group_and_narrow_across_groups(opened):
    told = "document.getElementById('told').textContent"
    assert left(opened) == [17, 18, 19, 20, 21]
    assert opened.ask(told) == "5 samples"
    opened.click(chip("kind", "video_grid"))
    assert left(opened) == [19, 20]
    assert opened.ask(told) == "2 of 5 samples"
    opened.click(chip("kind", "plain"))
    assert left(opened) == [17, 19, 20, 21]
    opened.click(chip("manifest", "first"))
    # What was lost came from there too.
    assert left(opened) == [17, 21]
    opened.click(chip("manifest", "first"))
    opened.click(chip("state", "lost"))
    opened.click(chip("state", "replaced"))
    assert left(opened) == [20, 21]
    assert opened.ask("[...document.querySelectorAll('.chip[aria-pressed=true]')].length") == 4
    opened.click("#clear")
    assert left(opened) == [17, 18, 19, 20, 21]
    assert opened.ask("document.querySelectorAll('.chip[aria-pressed=true]').length") == 0
    assert opened.faults() == opened.requests() == []


def test_words_are_searched(opened):
    opened.click("#search")
    opened.type("OWL long_path")
    assert left(opened) == [19, 20]
    opened.type(" nowhere")
    assert left(opened) == []
    assert "No sample is left." in opened.ask("document.getElementById('none').innerText")
    opened.click("#clear-none")
    assert left(opened) == [17, 18, 19, 20, 21]
    opened.type("{{7*7}}")
    assert left(opened) == [18]
    # Enter sends nothing away.
    opened.press("Enter", 13, "\r")
    assert left(opened) == [18]
    assert opened.faults() == opened.requests() == []


def test_filters_are_reached_and_worked_by_keyboard(opened):
    focused = "document.activeElement.dataset.value || document.activeElement.id"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    reached = []
    while not reached or reached[-1] != "clear":
        opened.press("Tab", 9)
        reached.append(opened.ask(focused))
        assert opened.ask(outline) != "none", reached
        assert len(reached) < 30
        if reached[-1] == "two_needle":
            opened.press(" ", 32, " ")
    assert {"plain", "video_grid", "first", "lost", "search", "show-boxes", "clear"} <= set(reached)
    assert left(opened) == [18]


def test_boxes_lie_on_their_frames_and_can_be_switched_off(opened, tmp_path):
    def red() -> np.ndarray:
        opened.picture(tmp_path / "frame.png", whole=False)
        x, y, width, height = opened.ask(
            "(r => [r.x, r.y, r.width, r.height])(document.querySelectorAll('.picture')[1].getBoundingClientRect())"
        )
        with Image.open(tmp_path / "frame.png") as picture:
            return marked(picture.crop((round(x), round(y), round(x + width), round(y + height))))

    opened.ask("document.querySelectorAll('.picture')[1].scrollIntoView({block: 'center', behavior: 'instant'})")
    found = red()
    rows, columns = np.nonzero(found)
    height, width = found.shape
    assert found.sum() > width / 2
    assert np.abs(np.array([rows.min() / height, columns.min() / width]) - 0.5).max() < 0.03
    opened.click("#show-boxes")
    opened.ask("document.querySelectorAll('.picture')[1].scrollIntoView({block: 'center', behavior: 'instant'})")
    assert red().sum() == 0
    opened.click("#show-boxes")
    assert opened.ask("getComputedStyle(document.querySelector('.boxes')).display") != "none"


def test_a_link_brings_back_what_is_filtered_away(opened):
    opened.click(chip("kind", "video_grid"))
    assert 17 not in left(opened)
    opened.ask("void (location.hash = '#position-17')")
    opened.wait(lambda: 17 in left(opened), "the sample of the link")
    top = "document.getElementById('position-17').getBoundingClientRect().top"
    opened.wait(lambda: -1 <= opened.ask(top) < 200, "the way there")
    # The step's own bar leads to it too.
    assert opened.ask("document.querySelectorAll('#step a').length") == 0


def test_a_command_is_copied_or_marked_to_be(opened):
    opened.click("#position-18 .copy")
    opened.wait(
        lambda: opened.ask("document.querySelector('#position-18 .copy').textContent") != "Copy", "a word on it"
    )
    told = opened.ask("document.querySelector('#position-18 .copy').textContent")
    if told == "Marked":
        assert opened.ask("String(getSelection())") == "vista-train preview 'my recipe.yaml' seed=5 --position 18"
    assert told in ("Copied", "Marked")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_it_fits_its_window_and_stays_silent(browser, url, tmp_path, width, height, dark):
    browser.size(width, height, dark)
    browser.open(url)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    # Nothing sticks out but what scrolls within its own strip.
    stray = browser.ask(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.frames, .scroll, .sr, defs, [hidden]')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert stray == []
    images = "[...document.images].map(i => i.naturalWidth)"
    assert browser.ask(images) == [100] * 16
    colour = browser.ask("getComputedStyle(document.body).backgroundColor")
    shade = np.mean([int(part) for part in re.findall(r"\d+", colour)])
    assert shade < 60 if dark else shade > 200
    browser.picture(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width == width
    assert browser.faults() == browser.requests() == []


def test_its_policy_holds_what_escaping_would_miss(browser, url, tmp_path):
    raw = (
        "<script>window.broken = 1</script><img src='http://127.0.0.1:9/x' onerror='window.broken = 2'>"
        "<p id='styled' style='color: rgb(1, 2, 3)'>x</p><link rel='stylesheet' href='http://127.0.0.1:9/y'>"
    )
    html = a_page().replace("<h1>What the model will see</h1>", raw)
    path = tmp_path / "harmed.html"
    path.write_text(html, encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.ask("window.broken === undefined")
    assert browser.ask("getComputedStyle(document.getElementById('styled')).color") != "rgb(1, 2, 3)"
    assert len([fault for fault in browser.faults() if "Content Security Policy" in fault]) >= 4
    assert left(browser) == [17, 18, 19, 20, 21]


def test_this_test_hears_what_a_page_does(browser, tmp_path):
    path: Path = tmp_path / "loud.html"
    path.write_text("<script>console.log('hi'); fetch('http://127.0.0.1:9/z'); missing()</script>")
    browser.open(path.as_uri())
    browser.wait(browser.requests, "a request")
    assert browser.requests() == ["http://127.0.0.1:9/z"]
    told = "\n".join(browser.faults())
    assert "hi" in told
    assert "missing is not defined" in told
