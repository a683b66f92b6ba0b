"""Qwen-VL: positions, times and frames of any shape are those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch

from vista_train.models import load_family
from vista_train.types import Message
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

TALK = (Message("user", "What is it?"), Message("assistant", "A cat."))
CLIPS = {
    "video": Clip("video.mp4", 0, 10, 320, 240),
    "tall": Clip("tall.mp4", 0, Fraction(37, 3), 120, 500),
    "two frames": Clip("two.mp4", 0, 1, 320, 240, 2),
    "picture": Clip("picture.png", 0, 1, 300, 300, 1),
    "words": None,
}


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("what", CLIPS)
def test_positions_are_transformers(kind: str, what: str, rigs: Callable[[str], Any]) -> None:
    rig, clip = rigs(kind), CLIPS[what]
    out = rig.encoded(clip, TALK)
    config, codec = rig.family.config, rig.family.codec
    plan = codec.plan(rig.sample(clip, TALK))
    ids_1L = out.input_ids[None]
    types_1L = (ids_1L == config.video_token_id) * 2 + (ids_1L == config.image_token_id) * 1
    vision = config.vision_config
    arguments: dict[str, Any] = {}
    if clip is not None:
        columns, rows = (side // vision.patch_size for side in codec.view.canvas_of(clip))
        grid = torch.tensor([[-(-len(plan.times) // 2), rows, columns]])
        arguments["image_grid_thw" if out.picture else "video_grid_thw"] = grid
        if kind == "qwen2_5_vl" and len(plan.times) > 1:
            arguments["second_per_grid_ts"] = torch.tensor([2 * float(plan.times[1] - plan.times[0])])
    expected_31L, _ = rig.model.model.get_rope_index(ids_1L, mm_token_type_ids=types_1L, **arguments)
    assert torch.equal(out.mrope_3L, expected_31L[:, 0])


def test_qwen3_says_the_mean_of_the_times_that_were_sampled(rigs: Callable[[str], Any]) -> None:
    rig = rigs("qwen3_vl")
    out = rig.encoded(Clip("video.mp4", 0, 100, 320, 240), TALK)
    said = rig.family.tokenizer.decode(out.input_ids).replace("<|video_pad|>", "")
    # Five frames at 10, 30, 50, 70 and 90 s: two pairs, and the last alone.
    pairs = "".join(f"<{seconds} seconds><|vision_start|><|vision_end|>" for seconds in ("20.0", "60.0", "90.0"))
    assert f"<|vision_start|>{pairs}<|vision_end|>What is it?" in said


def test_the_outer_marks_can_be_left_out(rigs: Callable[[str], Any]) -> None:
    rig = rigs("qwen3_vl")
    family = load_family("qwen_vl", {"path": str(rig.folder), "outer_marks": False}, rig.family.view)
    sample = rig.sample(CLIPS["video"], TALK)
    plan, other = family.codec.plan(sample), rig.family.codec.plan(sample)
    assert plan.tokens == other.tokens - 2
    frames_TCHW = rig.frames(CLIPS["video"], len(plan.times))
    said = family.tokenizer.decode(family.codec.encode(sample, plan, frames_TCHW).input_ids)
    assert "user\n<2.0 seconds><|vision_start|>" in said


def test_time_positions_follow_the_stride_of_qwen2_5(rigs: Callable[[str], Any]) -> None:
    """Two positions a second, pairs of frames 2 x 8 s apart: 32 positions from pair to pair."""
    out = rigs("qwen2_5_vl").encoded(Clip("video.mp4", 0, 40, 320, 240), TALK)
    is_video = out.input_ids == rigs("qwen2_5_vl").family.config.video_token_id
    times = out.mrope_3L[0, is_video].unique()
    assert (times - times[0]).tolist() == [0, 32, 64]


def test_the_last_frame_stands_for_the_one_that_lacks(rigs: Callable[[str], Any]) -> None:
    rig = rigs("qwen2_5_vl")
    odd_TCHW = rig.frames(CLIPS["video"], 5)
    even_TCHW = torch.cat([odd_TCHW, odd_TCHW[-1:]])
    odd, even = (rig.family._patches(frames, torch.float32) for frames in (odd_TCHW, even_TCHW))
    assert odd[1] == even[1]
    assert torch.equal(odd[0], even[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fit": "native", "multiple": 14}, r"view\.multiple is 14; the checkpoint needs multiples of 28"),
        ({"fit": "squash", "width": 100, "height": 56}, r"are 100 and 56; the checkpoint needs multiples of 28"),
        ({"fit": "squash", "tiles": 4}, "no tiles"),
    ],
)
def test_a_view_that_does_not_suit_is_refused(change: dict[str, Any], words: str, rigs: Callable[[str], Any]) -> None:
    view = View(**{"frames": 4, "width": 56, "height": 56, "min_pixels": 2, **change})
    with pytest.raises(ValueError, match=words):
        load_family("qwen_vl", {"path": str(rigs("qwen2_5_vl").folder)}, view)
