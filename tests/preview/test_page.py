"""A page holds all there is to say of a sample, in words that stay words, and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from tests.preview.made import GONE, VIEW, Element, clip, painted, parsed, shown
from vista_train.data.rows import RowBudget
from vista_train.preview import About, Lost, Overview, Planned, Shown, dealt, mix_view, page
from vista_train.preview.document import WEB
from vista_train.types import Failure, Message, Plan, Sample
from vista_train.video.composition import Concat, Overlay
from vista_train.video.geometry import Box
from vista_train.video.sampling import View

ABOUT = About("my recipe.yaml", ("seed=5",), "tiny", 5, range(17, 18))
WILD = "</script><script>alert(1)</script>{{7*7}}<img src=x onerror=alert(1)>'\"&<!--"
PLANS = {at: Planned(at, ("plain", "video_grid")[at % 2], 10 + at, 4, 2, 1e9 + at, 3.0 + at) for at in range(8)}
DEALT = dealt(PLANS, 5, RowBudget(batch_samples=8, max_row_tokens=64, max_row_patches=64), 2)
OVERVIEW = Overview(mix_view(list(PLANS.values()), []), DEALT)


def the_card(one: Shown | Lost, view: View = VIEW) -> Element:
    return parsed(page([one], view, ABOUT)).one("article")


def numbers(element: Element, *names: str) -> list[float]:
    return [float(element.attributes[name].rstrip("%")) for name in names]


def test_evidence_is_boxed_in_per_cent_on_the_frames_that_show_it():
    figures = the_card(shown()).all("figure")
    assert [len(figure.all("rect", css="mark")) for figure in figures] == [0, 1, 1, 0]
    assert numbers(figures[1].one("rect", css="mark"), "x", "y", "width", "height") == [50, 50, 50, 50]
    assert [figure.one("figcaption").text for figure in figures] == [
        "1.00 s",
        "3.00 s evidence",
        "5.00 s evidence",
        "7.00 s",
    ]
    assert figures[0].one("img").attributes["alt"] == "Frame 1 of 4, at 1.00 s"
    assert figures[1].one("img").attributes["alt"] == "Frame 2 of 4, at 3.00 s: shows the evidence"


def test_a_box_lies_on_what_the_canvas_shows():
    # Letterboxed: 16:9 in a square leaves bars of 12.25 pixels, which round.
    view = View(frames=2, width=56, height=56, min_pixels=1)
    mark = the_card(painted(view, (1920, 1080), 2, Box("1/2", 0, 1, 1)), view).all("rect", css="mark")[0]
    left, top, width, height = numbers(mark, "x", "y", "width", "height")
    assert (left, width) == (50, 50)
    assert top == pytest.approx(100 * 12 / 56, abs=0.01)
    assert height == pytest.approx(100 * 32 / 56, abs=0.01)


def test_the_words_the_numbers_and_the_sources_are_told():
    card = the_card(shown(GONE))
    assert [turn.one("span", css="role").text for turn in card.all("div", css="turn")] == ["user", "assistant"]
    assert [p.text for p in card.all("div", css="turn")[0].all("p")] == [
        "What is seen?",
        "A. Red",
        "B. Grey (the answer)",
    ]
    assert [p.text for p in card.all("p", css="option")] == ["A. Red", "B. Grey (the answer)"]
    assert [p.text for p in card.all("p", css="right")] == ["B. Grey (the answer)"]
    assert card.one("div", css="answer").one("p").text == "B"
    assert {row.one("dt").text: row.one("dd").text for row in card.one("dl").all("div")} == {
        "tokens": "1,234",
        "labels": "45",
        "patches": "64",
        "frames": "4 of 100 × 100",
        "duration": "8.00 s",
        "video": "200 × 200",
        "cost": "2 GFLOPs",
    }
    assert card.one("ol").one("li").text == "1 grey/clip.mp4 0.00 to 8.00 s first 200 × 200 Grey."
    assert card.one("span", css="badge").text == "replaced"
    assert "attempt 0: a.mp4: MediaMissing: gone" in card.text
    assert card.one("h3").one("a").attributes["href"] == "#position-17"
    assert card.one("code").text == "vista-train preview 'my recipe.yaml' seed=5 --position 17"
    assert the_card(shown()).all("span", css="badge") == []


def test_an_answer_that_is_no_letter_marks_no_option():
    messages = (Message("user", "Which?\nA. A cat\nB. A dog"), Message("assistant", "A cat"))
    sample = replace(shown().sample, messages=messages)
    assert the_card(replace(shown(), sample=sample)).all("p", css="right") == []


def test_the_time_bar_has_parts_evidence_and_ticks():
    host, needle = clip("host.mp4", 6), clip("needle.mp4", 2)
    video = Overlay(
        Concat((host.subclip(0, 2), needle, host.subclip(2, 6))), clip("inset.mp4", 4), Fraction(4), Box(0, 0, 1, "1/2")
    )
    bar = the_card(replace(shown(), sample=replace(shown().sample, video=video))).one("div", css="time")
    parts = bar.all("rect", css="part")
    assert [numbers(part, "x", "width", "y") for part in parts] == [[0, 25, 0], [25, 25, 0], [50, 50, 0], [50, 50, 18]]
    assert [part.one("title").text for part in parts] == [
        "1: host.mp4, 0.00 to 2.00 s",
        "2: needle.mp4, 2.00 to 4.00 s",
        "3: host.mp4, 4.00 to 8.00 s",
        "4: inset: inset.mp4, 4.00 to 8.00 s",
    ]
    colours = [next(name for name in part.classes if re.fullmatch(r"c\d", name)) for part in parts]
    assert colours[0] == colours[2]
    assert len(set(colours)) == 3
    assert [text.text for text in bar.all("text")] == ["1", "2", "3", "4"]
    assert numbers(bar.one("rect", css="evidence"), "x", "width", "y") == [25, 50, 39]
    ticks = bar.all("line", css="tick")
    assert [numbers(tick, "x1") for tick in ticks] == [[12.5], [37.5], [62.5], [87.5]]
    assert ["seen" in tick.classes for tick in ticks] == [False, True, True, False]
    assert [span.text for span in bar.one("div", css="scale").all("span")] == ["0 s", "4.00 s", "8.00 s"]


def test_words_alone_and_pictures_have_no_time_bar():
    words = replace(shown().sample, video=None, evidence=())
    alone = Shown(4, words, Plan((), 40, 0, 2, 1.0), torch.zeros((0, 3, 0, 0), dtype=torch.uint8))
    card = the_card(alone)
    assert card.all("svg") == card.all("img") == card.all("ol") == []
    assert "B. Grey" in card.text
    view = View(frames=4, width=56, height=56, min_pixels=1)
    card = the_card(painted(view, (112, 90), 1, Box("1/2", 0, 1, "1/2")), view)
    assert card.all("div", css="time") == []
    assert len(card.all("img")) == 1
    assert "picture 112 × 90" in card.text


def test_of_many_frames_some_are_pictured_and_the_page_says_so():
    view = View(frames=60, width=28, height=28, min_pixels=1)
    card = the_card(painted(view, (28, 28), 60, Box()), view)
    assert len(card.all("img")) == 48
    assert "48 of 60 frames are pictured" in card.text
    assert len(card.all("line", css="tick")) == 60


def wild_page() -> str:
    """A page whose every foreign word is markup."""
    words = (Message("user", WILD), Message("assistant", WILD))
    sample = replace(shown().sample, video=clip(f"{WILD}.mp4", caption=WILD), messages=words, kind="plain")
    failure = Failure(17, 0, WILD, WILD, WILD)
    one = replace(shown(failure), sample=sample, origins={f"{WILD}.mp4": WILD})
    about = About(WILD, (WILD,), WILD, 5, range(17, 19))
    return page([one, Lost(18, "plain", (GONE, failure))], VIEW, about, OVERVIEW)


def test_foreign_words_stay_words():
    text = wild_page()
    html = parsed(text)
    assert "49" not in html.one("article", id="position-17").one("div", css="turns").text
    for part in ("turns", "sources", "failures", "again"):
        found = [element for element in html.one(id="position-17").all() if part in element.classes]
        assert (shlex.quote(WILD) if part == "again" else WILD) in found[0].text, part
    assert len(re.findall("(?i)<script", text)) == len(re.findall("(?i)</script", text)) == 2
    assert "<!--" not in text
    assert [element for element in html.all("img") if "onerror" in element.attributes] == []
    index = json.loads(html.one("script", id="index").raw)
    assert index[0]["manifest"] == [WILD]
    assert WILD.lower() in index[0]["words"]
    assert {chip.attributes["data-value"] for chip in html.all("button", css="chip")} == {
        WILD,
        "first",
        "lost",
        "replaced",
    }


def test_only_its_own_style_and_script_may_run():
    html = parsed(wild_page())
    (policy,) = [e.attributes["content"] for e in html.all("meta") if "http-equiv" in e.attributes]
    style, script = html.one("style").raw, html.all("script")[-1].raw
    assert (style, script) == tuple((WEB / name).read_text() for name in ("page.css", "page.js"))
    for kind, text in (("style", style), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy.split("; ")
    assert policy.split("; ")[:2] == ["default-src 'none'", "img-src data:"]
    assert "unsafe" not in policy
    # The policy stands before all that it is about.
    assert [e.name for e in html.one("head").all()][:2] == ["meta", "meta"]


def test_nothing_is_asked_of_a_network():
    html = parsed(page([shown(GONE), Lost(18, "plain", (GONE,))], VIEW, ABOUT, OVERVIEW))
    assert html.all("link") == html.all("iframe") == html.all("base") == html.all("object") == []
    for element in html.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), name
            assert name != "style"
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value.startswith(("data:image/webp;base64,", "#")), value
    for source in WEB.iterdir():
        assert not re.search(r"https?:|//\w|@import|url\((?!#)|fetch\(|XMLHttp|eval\(|innerHTML", source.read_text())


def test_every_link_leads_somewhere_on_the_page():
    html = parsed(page([shown(), replace(shown(), position=3)], VIEW, ABOUT, OVERVIEW))
    ids = [element.attributes["id"] for element in html.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = {element.attributes["href"] for element in html.all("a")}
    assert targets == {"#samples", "#mix", "#step", "#position-17", "#position-3"}
    assert targets <= {f"#{name}" for name in ids}
    labels = {e.attributes[key] for e in html.all() for key in ("aria-labelledby", "for") if key in e.attributes}
    assert labels <= set(ids)


def test_chips_count_what_they_would_leave():
    others = [replace(shown(GONE), position=at, sample=replace(shown().sample, kind="two_needle")) for at in (3, 4)]
    html = parsed(page([shown(), *others, Lost(5, "plain", (GONE,))], VIEW, ABOUT))
    chips = {
        chip.attributes["data-value"]: chip.one("span", css="count").text for chip in html.all("button", css="chip")
    }
    assert chips == {"plain": "2", "two_needle": "2", "as planned": "1", "replaced": "2", "lost": "1"}
    # All come from one manifest, so there is nothing to choose.
    assert {chip.attributes["data-key"] for chip in html.all("button", css="chip")} == {"kind", "state"}


def test_the_mix_and_the_step_are_drawn_as_they_are():
    html = parsed(page([replace(shown(), position=5)], VIEW, ABOUT, OVERVIEW))
    rows = [[cell.text for cell in row.all("td")] for row in html.one("tbody").all("tr")]
    assert rows == [
        ["0.0 %", "50.0 % 4", "48.1 % 52", "6.0 s"],
        ["0.0 %", "50.0 % 4", "51.9 % 56", "7.0 s"],
    ]
    drawn = [
        sum(int(bar.one("title").text.split()[0]) for bar in row.all("rect", css="bin"))
        for row in html.one(id="mix").all("div", css="row")
    ]
    assert drawn == [4, 4, 0, 4, 4, 0]
    step = html.one(id="step")
    bars = step.one("div", css="deal").all("svg")
    assert [len(bar.all("rect", css="bin")) for bar in bars] == [len(row.samples) for row in DEALT.rows]
    for bar, row in zip(bars, DEALT.rows, strict=True):
        widths = [numbers(rect, "width")[0] for rect in bar.all("rect")]
        assert sum(widths) == pytest.approx(100, abs=0.01)
        assert sum(widths[: len(row.samples)]) == pytest.approx(100 * row.cost / DEALT.dearest, abs=0.01)
    assert [link.attributes["href"] for link in step.all("a")] == ["#position-5"]
    assert f"{DEALT.efficiency:.3f} where ranks wait" in step.text
    assert [small.text for small in step.all("small")] == [
        f"{100 * row.tokens / 64:.1f} % full, patches {100 * row.patches / 64:.1f} %" for row in DEALT.rows
    ]


def test_a_step_that_cannot_be_dealt_does_not_end_the_page():
    fault = dealt(PLANS, 0, RowBudget(batch_samples=8, max_row_tokens=12), 2)
    html = parsed(page([shown()], VIEW, ABOUT, Overview(None, fault)))
    assert "This step cannot be dealt: sample 3 of the step plans 13 tokens" in html.one(id="step").text


def test_of_many_rows_the_first_are_drawn():
    many = dealt(PLANS, 0, RowBudget(batch_samples=8, max_row_tokens=64), 200)
    step = parsed(page([shown()], VIEW, ABOUT, Overview(None, many))).one(id="step")
    assert len(step.one("div", css="deal").all("div", css="row")) == 128
    assert "The first 128 of 200 rows are drawn." in step.text


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio of two colours."""
    lights = []
    for colour in (first, second):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        lights.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(lights) / min(lights)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_what_is_written_can_be_read(scheme):
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    found = re.findall(r":root \{(.*?)\}", (WEB / "page.css").read_text(), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", found))
    texts = [(text, ground) for text in ("ink", "quiet", "link") for ground in ("paper", "card", "soft")]
    texts += [("mark", "card"), ("warn", "card"), ("warn", "warn-soft"), ("ink", "warn-soft"), ("ink", "good-soft")]
    texts += [("number", f"c{number}") for number in range(8)]
    assert {pair: contrast(*(colours[name] for name in pair)) for pair in texts if _weak(colours, pair, 4.5)} == {}
    shapes = [(f"k{number}", "card") for number in range(10)] + [("good", "good-soft"), ("mark", "card")]
    assert [pair for pair in shapes if _weak(colours, pair, 3)] == []


def _weak(colours: dict[str, str], pair: tuple[str, str], least: float) -> bool:
    return contrast(colours[pair[0]], colours[pair[1]]) < least


def test_the_same_samples_are_the_same_page():
    assert wild_page() == wild_page()


def test_a_sample_can_be_given_without_a_recipe():
    html = parsed(page([shown()], VIEW))
    assert html.all("code") == []
    assert len(html.all("article")) == 1
    assert isinstance(shown().sample, Sample)
