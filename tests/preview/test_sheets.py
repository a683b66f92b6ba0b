"""Contact sheets show what the model will see, box what it is asked about, and say everything that is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.preview.made import GONE, VIEW, marked, painted, shown
from vista_train import preview
from vista_train.config import load_recipe
from vista_train.types import Evidence, Plan
from vista_train.video.geometry import Box, Span
from vista_train.video.sampling import View


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
    assert preview.words(look) == [
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


def test_a_picture_is_called_one():
    view = View(frames=4, width=56, height=56, tiles=4, min_pixels=1)
    look = painted(view, (112, 90), 1, Box("1/2", 0, 1, "1/2"))
    assert look.frames_TCHW.shape == (1, 3, 112, 112)
    text = preview.words(look)
    assert text[0] == "position 3   plain   a picture of 112x90, seen at 112x112   1 tokens, 1 of them learnt"
    assert marked(preview.sheet(look, view)).sum() > 100


def test_everything_is_said():
    text = "\n".join(preview.words(shown(GONE)))
    for part in (
        "position 17   plain   8.00 s at 200x200   4 frames of 100x100   1234 tokens, 45 of them learnt",
        "user: What is seen?",
        "user: B. Grey",
        "assistant: B",
        "evidence: 2.00-6.00 s",
        "sources: grey/clip.mp4",
        "replaced: attempt 0 lost: a.mp4 MediaMissing: gone",
    ):
        assert part in text
    assert "replaced" not in "\n".join(preview.words(shown()))


def test_the_words_are_those_of_the_sample(recipe):
    loaded = load_recipe(recipe)
    dataset = loaded.make_dataset(loaded.make_family().codec)
    for position in range(6):
        look = preview.look(dataset, position)
        assert look.sample == dataset.sample(position)
        assert torch.equal(look.frames_TCHW, dataset[position].frames_TCHW)
        text = " ".join(" ".join(preview.words(look)).split())
        assert f"{look.plan.tokens} tokens, {look.plan.labels} of them learnt" in text
        for message in look.sample.messages:
            assert all(" ".join(line.split()) in text for line in message.content.splitlines())
        assert all(clip.path in text for clip in look.sample.video.clips())


def test_sheets_are_stacked_whole():
    sheets = [preview.sheet(shown(), VIEW), preview.sheet(shown(GONE), VIEW)]
    whole = preview.stacked(sheets)
    assert whole.size == (preview.SHEET_WIDTH, sheets[0].height + sheets[1].height)
    assert (np.asarray(whole)[sheets[0].height :] == np.asarray(sheets[1])).all()
