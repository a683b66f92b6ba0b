"""The preview shows what the model will see, boxes what it is asked about, and says everything that is said."""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vista_train import preview
from vista_train.config import load_recipe
from vista_train.types import Evidence, Message, Plan, Sample
from vista_train.video.composition import Clip
from vista_train.video.geometry import Box, Span
from vista_train.video.render import render_view
from vista_train.video.sampling import View

VIEW = View(frames=4, width=100, height=100, min_pixels=7)
RED = np.array(preview.MARK)


def shown(note=""):
    """Four grey frames of a grey video; the right lower quarter is asked about, on the second and the third."""
    frames_TCHW = torch.full((4, 3, 100, 100), 128, dtype=torch.uint8)
    clip = Clip("grey/clip.mp4", 0, 8, 200, 200, Fraction(10), "Grey.")
    words = (Message("user", "What is seen?\nA. Red\nB. Grey"), Message("assistant", "B"))
    sample = Sample(clip, words, (Evidence(Span(2, 6), Box("1/2", "1/2", 1, 1)),), "plain")
    times = tuple(Fraction(2 * number + 1) for number in range(4))
    return preview.Shown(17, sample, Plan(times, 123, 64, 45, 1.0), frames_TCHW, note)


@pytest.fixture
def recipe(world, tmp_path):
    data = {
        "family": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(world)},
        "augment": {"spatial_needle": {}, "temporal_needle": {}, "plain": {}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def marked(picture):
    """1 for every pixel [H, W] of a picture that is as red as the mark, or nearly."""
    return (np.abs(np.asarray(picture.convert("RGB")).astype(int) - RED).sum(axis=2) < 30).astype(int)


def frame_area(number):
    """Where frame `number` of a sheet of 100-pixel frames lies: rows and columns."""
    left = preview.MARGIN + number * (100 + preview.MARGIN)
    return slice(preview.MARGIN, preview.MARGIN + 100), slice(left, left + 100)


def test_the_evidence_is_boxed_on_the_frames_that_show_it():
    sheet = preview.sheet(shown(), VIEW)
    red_HW = marked(sheet)
    boxed = [red_HW[frame_area(number)] for number in range(4)]
    assert [int(area.sum()) for area in boxed] == [0, 384, 384, 0]
    # A frame two pixels wide around the right lower quarter, 50 x 50: 50^2 - 46^2 pixels.
    rows, columns = np.nonzero(boxed[1])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 99, 50, 99)
    assert boxed[1][52:98, 52:98].sum() == 0


def test_the_frames_are_those_of_the_model():
    pixels = np.asarray(preview.sheet(shown(), VIEW))
    assert all((pixels[frame_area(number)][:50] == 128).all() for number in range(4))


def test_a_canvas_larger_than_a_thumbnail_is_shrunk_with_its_boxes():
    view = View(frames=4, width=400, height=400)
    large = replace(shown(), frames_TCHW=torch.full((4, 3, 400, 400), 128, dtype=torch.uint8))
    red_HW = marked(preview.sheet(large, view))
    second = red_HW[preview.MARGIN : preview.MARGIN + 224, 240 : 240 + 224]
    rows, columns = np.nonzero(second)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (112, 223, 112, 223)


def test_a_box_thinner_than_a_pixel_of_the_sheet_can_be_drawn():
    view = View(frames=4, width=1400, height=1400, min_pixels=1)
    thin = replace(shown().sample, evidence=(Evidence(Span(2, 6), Box(0, 0, "1/1000", 1)),))
    frames = torch.full((4, 3, 1400, 1400), 128, dtype=torch.uint8)
    assert marked(preview.sheet(preview.Shown(0, thin, shown().plan, frames), view)).sum() > 200


def painted(view, size, frames, box, colour=(20, 160, 20)):
    """A grey video of `size` with one box of a colour, as `view` renders it, and asked about all the time."""
    pixels_TCHW = torch.full((frames, 3, size[1], size[0]), 128, dtype=torch.uint8)
    left, top, right, bottom = (int(edge * side) for edge, side in zip(box.edges, size * 2, strict=True))
    pixels_TCHW[:, :, top:bottom, left:right] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    clip = Clip.from_frames(pixels_TCHW, frames, "Green on grey.")
    times = view.times(clip.duration, clip.frame_measure)
    sample = Sample(clip, shown().sample.messages, (Evidence(Span(0, frames), box),), "plain")
    frames_TCHW = render_view(clip, times, view)
    return preview.Shown(3, sample, Plan(times, 1, 2, 1, 1.0), frames_TCHW)


@pytest.mark.parametrize(
    ("view", "size", "canvas", "thumbnail"),
    [
        (View(frames=2, width=112, height=112, tiles=36), (960, 540), (672, 336), (416, 208)),
        (View(frames=2, width=112, height=112, tiles=4), (960, 540), (224, 112), (224, 112)),
        (View(frames=2, width=336, height=336, tiles=8), (540, 960), (672, 672), (416, 416)),
        # Two frames of eight have four times the tiles.
        (View(frames=8, width=112, height=112, tiles=16), (960, 540), (448, 224), (416, 208)),
        (View(frames=2, width=400, height=400, fit="native"), (1920, 1080), (532, 280), (298, 157)),
        (View(frames=2, width=400, height=400, fit="native"), (168, 84), (168, 84), (168, 84)),
        (View(frames=2, width=400, height=400, fit="native"), (28, 2800), (28, 2800), (4, 416)),
        (View(frames=2, width=400, height=200), (1920, 1080), (400, 200), (224, 112)),
    ],
)
def test_canvases_of_any_shape_are_shown_with_their_boxes(view, size, canvas, thumbnail):
    look = painted(view, size, 2, Box("1/2", "1/4", "3/4", "1/2"))
    assert tuple(look.frames_TCHW.shape[2:]) == canvas[::-1]
    sheet = preview.sheet(look, view)
    pixels_HWC, red_HW = np.asarray(sheet).astype(int), marked(sheet)
    step = max(thumbnail[0], min(thumbnail[1], preview.LABEL_WIDTH)) + preview.MARGIN
    for number in range(2):
        left = preview.MARGIN + number * step
        rows = slice(preview.MARGIN, preview.MARGIN + thumbnail[1])
        columns = slice(left, left + thumbnail[0])
        assert not (pixels_HWC[rows, columns] == 255).all(axis=2).any()
        assert (pixels_HWC[rows.stop, columns] == 255).all()
        assert (pixels_HWC[rows, columns.stop] == 255).all()
        assert (pixels_HWC[rows, left - 1] == 255).all()
        # What is asked about is green, and the mark lies upon its edge.
        green_HW = np.abs(pixels_HWC[rows, columns] - (20, 160, 20)).sum(axis=2) < 60
        found = [red_HW[rows, columns].nonzero(), (green_HW | (red_HW[rows, columns] == 1)).nonzero()]
        boxed, asked = ((y.min(), y.max(), x.min(), x.max()) for y, x in found)
        assert np.abs(np.subtract(boxed, asked)).max() <= 1
        assert min(thumbnail) < 8 or green_HW.sum() > 50
    assert red_HW.sum() > 0


def test_words_alone_are_a_sheet_of_words(tmp_path):
    words = replace(shown().sample, video=None, evidence=())
    look = preview.Shown(4, words, Plan((), 40, 0, 2, 1.0), torch.zeros((0, 3, 0, 0), dtype=torch.uint8))
    assert preview._words(look) == [
        "position 4   plain   words alone   40 tokens, 2 of them learnt",
        "user: What is seen?",
        "user: A. Red",
        "user: B. Grey",
        "assistant: B",
    ]
    sheet = preview.sheet(look, VIEW)
    assert sheet.size == (preview.SHEET_WIDTH, 5 * preview.LINE + 3 * preview.MARGIN)
    assert marked(sheet).sum() == 0
    assert np.asarray(sheet).min() < 60
    assert "B. Grey" in preview.page([look], VIEW)


def test_a_picture_is_called_one():
    view = View(frames=4, width=56, height=56, tiles=4, min_pixels=1)
    look = painted(view, (112, 90), 1, Box("1/2", 0, 1, "1/2"))
    assert look.frames_TCHW.shape == (1, 3, 112, 112)
    text = preview._words(look)
    assert text[0] == "position 3   plain   a picture of 112x90, seen at 112x112   1 tokens, 1 of them learnt"
    assert marked(preview.sheet(look, view)).sum() > 100


def test_everything_is_said():
    text = "\n".join(preview._words(shown("attempt 0 lost: a.mp4 gone")))
    for part in (
        "position 17   plain   8.00 s at 200x200   4 frames of 100x100   123 tokens, 45 of them learnt",
        "user: What is seen?",
        "user: B. Grey",
        "assistant: B",
        "evidence: 2.00-6.00 s",
        "sources: grey/clip.mp4",
        "replaced: attempt 0 lost: a.mp4 gone",
    ):
        assert part in text
    assert "replaced" not in "\n".join(preview._words(shown()))


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


def test_the_words_are_those_of_the_sample(recipe):
    loaded = load_recipe(recipe)
    dataset = loaded.make_dataset(loaded.make_family().codec)
    for position in range(6):
        look = preview.look(dataset, position)
        assert look.sample == dataset.sample(position)
        assert torch.equal(look.frames_TCHW, dataset[position].frames_TCHW)
        text = " ".join(" ".join(preview._words(look)).split())
        assert f"{look.plan.tokens} tokens, {look.plan.labels} of them learnt" in text
        for message in look.sample.messages:
            assert all(" ".join(line.split()) in text for line in message.content.splitlines())
        assert all(clip.path in text for clip in look.sample.video.clips())


def test_a_page_holds_many_and_stands_by_itself(recipe, tmp_path):
    out = tmp_path / "many.html"
    assert preview.main([str(recipe), "--count", "3", "--out", str(out)]) == 0
    html = out.read_text()
    pictures = re.findall(r"src='data:image/png;base64,([^']+)'", html)
    assert len(pictures) == html.count("<h3>") == 3
    assert all(Image.open(io.BytesIO(base64.b64decode(data))).width == preview.SHEET_WIDTH for data in pictures)
    assert re.findall(r"<h3>(\d+): ", html) == ["0", "1", "2"]
    assert "http" not in html


def test_a_caption_is_text_and_no_markup():
    wild = replace(shown().sample, messages=(Message("user", "<script>'\"&"), Message("assistant", "x")))
    html = preview.page([replace(shown(), sample=wild)], VIEW)
    assert "<script>" not in html
    assert "&lt;script&gt;&#x27;&quot;&amp;" in html


def test_sheets_are_stacked_whole():
    sheets = [preview.sheet(shown(), VIEW), preview.sheet(shown("x"), VIEW)]
    whole = preview.stacked(sheets)
    assert whole.size == (preview.SHEET_WIDTH, sheets[0].height + sheets[1].height)
    assert (np.asarray(whole)[sheets[0].height :] == np.asarray(sheets[1])).all()


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
    assert len(look.frames_TCHW) == len(look.plan.times)


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
    "arguments", [["--out", "x.gif"], ["--count", "0"], ["--position", "-1"]], ids=["kind", "count", "position"]
)
def test_an_impossible_wish_is_refused(recipe, capsys, arguments):
    assert preview.main([str(recipe), *arguments]) == 2
    assert "must" in capsys.readouterr().err
