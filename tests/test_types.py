"""Samples come back from their traces as they were, with a video, a picture, or nothing to see."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from vista_train.types import Evidence, Message, Sample
from vista_train.video.composition import Clip, Concat, Video
from vista_train.video.geometry import Box, Span

TALK = (Message("system", "Be brief."), Message("user", "What is it?\n<video>"), Message("assistant", "A 🐈."))
CLIP = Clip("a/b.mp4", Fraction(1, 3), 5, 64, 48, Fraction(30000, 1001), "A cat.")


@pytest.mark.parametrize(
    ("video", "evidence"),
    [
        (None, ()),
        (Clip("picture.png", 0, 1, 300, 200, 1), (Evidence(Span(0, 1)),)),
        (Concat((CLIP, CLIP.subclip(0, 1))), (Evidence(Span("1/3", 2), Box("1/7", 0, "2/7", 1)), Evidence(Span(2, 3)))),
    ],
    ids=["words", "picture", "video"],
)
def test_a_sample_comes_back_from_its_trace(video: Video | None, evidence: tuple[Evidence, ...]) -> None:
    sample = Sample(video, TALK, evidence, "made")
    trace = json.loads(json.dumps(sample.to_json()))
    again = Sample.from_json(trace)
    assert again == sample
    assert again.to_json() == sample.to_json() == trace
    assert (trace["video"] is None) == (video is None)


def test_words_alone_show_no_video() -> None:
    assert Sample(CLIP, TALK, (), "made").shown is CLIP
    with pytest.raises(ValueError, match="this made sample is words alone; it shows no video"):
        _ = Sample(None, TALK, (), "made").shown
