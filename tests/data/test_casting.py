"""Who may play beside whom, and for how long an anchor is kept."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace

from vista_train.augment import Augment, CannotComposeError, Role
from vista_train.data.dataset import Ingredient, Later, VistaDataset
from vista_train.types import Message, Sample


def test_a_second_caption_of_a_file_that_is_shown_is_no_wrong_option(recorder, tools):
    """Six files with five captions each: nothing whose file is on screen may be told of as if it were not."""
    clips = tools.ClipList([replace(clip, path=f"{number % 6}.mp4") for number, clip in
                            enumerate(tools.clip_list("a", 30).clips)])  # fmt: skip
    dataset = VistaDataset({"a": clips}, [Ingredient(recorder())], tools.BareCodec(), ".")
    absent = 0
    for position in range(200):
        roles = json.loads(dataset.sample(position).messages[-1].content)
        shown = {path for path, _ in roles["anchor"] + roles["other"]}
        assert not shown & {path for path, _ in roles["distractor"]}
        absent += len(roles["distractor"])
    assert absent > 350


def test_the_anchor_stays_while_others_can_take_their_turn(tools, augmentations):
    """One of ten can play beside an anchor: other casts are tried before another anchor is."""

    @dataclass(frozen=True)
    class Picky(Augment):
        roles = (Role("anchor"), Role("other"))

        def draw(self, rng, clips, view):
            return {}

        def apply(self, clips, params):
            if int(clips["other"][0].path[2:-4]) % 2:
                raise CannotComposeError("odd")
            words = (Message("user", "Who?"), Message("assistant", clips["anchor"][0].path))
            return Sample(clips["anchor"][0], words, (), self.name)

    dataset = VistaDataset({"a": tools.clip_list("a", 40)}, [Ingredient(Picky())], tools.BareCodec(), ".")
    anchors = Counter(dataset.sample(position).messages[-1].content for position in range(40))
    # Each anchor has four chances of a half: 1 in 16 is passed over.
    assert len(anchors) >= 34


def test_distractors_are_drawn_when_they_are_looked_at_and_once():
    drawn = []

    def draw():
        drawn.append(1)
        return ("a", "b", "c")

    later = Later(draw)
    assert not drawn
    assert (len(later), later[-1], later[:2], list(later)) == (3, "c", ("a", "b"), ["a", "b", "c"])
    assert drawn == [1]
