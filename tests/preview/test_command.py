"""The command: one position or many, on a sheet or on a page, and one sentence for what cannot be shown."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from tests.preview.made import marked, parsed
from vista_train import preview
from vista_train.config import load_recipe


def test_a_picture_of_a_position_is_made(recipe, tmp_path, capsys):
    out = tmp_path / "deep" / "one.png"
    assert preview.main([str(recipe), "--position", "3", "--out", str(out), "seed=5"]) == 0
    assert capsys.readouterr().out == f"1 samples in {out}\n"
    loaded = load_recipe(recipe, ["seed=5"])
    dataset = loaded.make_dataset(loaded.make_family().codec)
    again = preview.sheet(preview.look(dataset, 3), loaded.make_view())
    picture = Image.open(out)
    assert picture.size == again.size == (preview.SHEET_WIDTH, again.height)
    assert (np.asarray(picture) == np.asarray(again)).all()
    assert marked(picture).sum() > 50


def test_a_replaced_sample_is_shown_as_what_it_became(recipe, world, tmp_path):
    root = tmp_path / "clips"
    shutil.copytree(world, root)
    for path in sorted(root.rglob("*.mp4"))[::3]:
        path.write_text("not a video")
    loaded = load_recipe(recipe, [f"data.root={root}"])
    dataset = loaded.make_dataset(loaded.make_family().codec)
    position = next(p for p in range(40) if dataset[p].attempt > 0)
    look = preview.look(dataset, position)
    assert look.sample == dataset.sample(position, dataset[position].attempt) != dataset.sample(position)
    assert "attempt 0 lost: " in look.note
    assert {look.origins[clip.path] for clip in look.sample.shown.clips()} == {"clips"}
    assert len(look.frames_TCHW) == len(look.plan.times)


def test_a_page_holds_samples_the_mix_and_the_step(recipe, tmp_path, capsys):
    out = tmp_path / "many.html"
    asked = [str(recipe), "seed=5", "train.batch_samples=6", "--position", "3", "--count", "3", "--out", str(out)]
    assert preview.main([*asked, "--plan", "20", "--ranks", "2"]) == 0
    assert capsys.readouterr().out == f"3 samples in {out}\n"
    html = parsed(out.read_text())
    assert [card.attributes["id"] for card in html.all("article")] == ["position-3", "position-4", "position-5"]
    assert html.one("h1").text == "What the model will see"
    facts = {row.one("dt").text: row.one("dd").text for row in html.all("header")[0].all("div")}
    assert facts["recipe"] == f"{recipe} seed=5 train.batch_samples=6"
    assert (facts["family"], facts["seed"], facts["positions"]) == ("tiny", "5", "3 to 5")
    assert facts["view"] == "at most 4 frames, midpoints, 56x56, letterbox"
    loaded = load_recipe(recipe, ["seed=5"])
    dataset = loaded.make_dataset(loaded.make_family().codec)
    for position, card in zip(range(3, 6), html.all("article"), strict=True):
        sample = dataset.sample(position)
        assert len(card.all("img")) == 4
        for message in sample.messages:
            assert " ".join(message.content.split()) in card.text.replace(" (the answer)", "")
        assert [i.text for i in card.all("span", css="path")] == [clip.path for clip in sample.shown.clips()]
        assert {i.text for i in card.all("span", css="manifest")} == {"clips"}
        again = f"vista-train preview {recipe} seed=5 train.batch_samples=6 --position {position}"
        assert card.one("div", css="again").one("code").text == again
    assert html.one(id="mix").all("p")[0].text == "Positions 0 to 19 as they are planned, from metadata alone."
    assert html.one(id="step-title").text == "Step 0 on 2 ranks"
    assert len(html.one(id="step").all("a")) == 3


def test_a_page_can_do_without_the_mix(recipe, tmp_path):
    out = tmp_path / "few.html"
    assert preview.main([str(recipe), "--out", str(out), "--plan", "0", "--ranks", "1", "train.batch_samples=2"]) == 0
    html = parsed(out.read_text())
    assert html.all(id="mix") == []
    assert html.one(id="step-title").text == "Step 0 on 1 rank"


def test_what_is_lost_has_a_card_that_says_so(recipe, world, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    shutil.copy(world / "clips.jsonl", tmp_path / "bare")
    out = tmp_path / "lost.html"
    asked = [str(recipe), f"data.root={tmp_path / 'bare'}", "--count", "2", "--plan", "4", "--out", str(out)]
    assert preview.main(asked) == 0
    assert capsys.readouterr().out == f"2 samples in {out}, 2 of them lost\n"
    cards = parsed(out.read_text()).all("article")
    assert [card.one("span", css="badge").text for card in cards] == ["lost", "lost"]
    for card in cards:
        assert "Every attempt at this position was lost; its slot in the step stays empty." in card.text
        assert "attempt 0: source_" in card.text
        assert "MediaMissing: " in card.text
        assert card.all("img") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.stpes=1"], "train.stpes: unknown key; did you mean 'steps'?"),
        (["data.root=nowhere"], "manifest nowhere/clips.jsonl is not a file"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(recipe, tmp_path, capsys, arguments, said):
    out = tmp_path / "none.png"
    assert preview.main([str(recipe), *arguments, "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vista_train: ")
    assert line.endswith(said)
    assert not out.exists()


def test_nothing_decodable_is_one_sentence(recipe, world, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    shutil.copy(world / "clips.jsonl", tmp_path / "bare")
    assert preview.main([str(recipe), f"data.root={tmp_path / 'bare'}", "--out", str(tmp_path / "x.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "position 0: every attempt was lost: attempt 0 lost: source_0" in line
    assert "no such file" in line


@pytest.mark.parametrize(
    "arguments",
    [["--out", "x.gif"], ["--count", "0"], ["--position", "-1"], ["--plan", "-1"], ["--ranks", "0"]],
    ids=["kind", "count", "position", "plan", "ranks"],
)
def test_an_impossible_wish_is_refused(recipe, capsys, arguments):
    assert preview.main([str(recipe), *arguments]) == 2
    assert "must" in capsys.readouterr().err
