"""The family that the README writes is one: its rows are its samples, and its plans are exact."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

from vista_train.models.base import FAMILIES, load_family, register_family
from vista_train.models.chat import CHATML, ChatFormat
from vista_train.models.hub import CLIP_SCALE
from vista_train.models.hub_family import HubFamily, features_of
from vista_train.models.pooled_llava import TileLayout
from vista_train.models.towers import behind_layer, square_canvas
from vista_train.training.loss import summed_cross_entropy
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

README = Path(__file__).parents[2] / "README.md"
TALK = (Message("user", "What is it?"), Message("assistant", "A cat."))
BESIDE = (
    torch, LlavaConfig, LlavaForConditionalGeneration, register_family, ChatFormat, HubFamily, TileLayout,
    behind_layer, features_of, square_canvas,
)  # fmt: skip
"""What the README leaves out: the imports."""


@pytest.fixture
def family(make_checkpoint: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """The README's family on a small checkpoint, whose frames are as large as it says."""
    section = README.read_text(encoding="utf-8").split("### Add a family")[1].split("\n## ")[0]
    assert len(section.strip().splitlines()) < 30
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {thing.__name__: thing for thing in BESIDE} | {"CHATML": CHATML, "CLIP_SCALE": CLIP_SCALE}
    exec(block, names)
    tokenizer = make_checkpoint.byte_tokenizer(["<|im_start|>", "<|im_end|>", "<image>"], "<|im_end|>", CHATML, {})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**make_checkpoint.vision_sizes(56)),
        text_config=Qwen2Config(**make_checkpoint.text_sizes(len(tokenizer))),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    try:
        yield load_family("llava", {"path": str(tmp_path)}, View(frames=2, width=56, height=56, min_pixels=2))
    finally:
        FAMILIES.pop("llava", None)


def encoded(family: Any, video: Clip | None, seed: int) -> Encoded:
    sample = Sample(video, TALK, (), "made")
    plan = family.codec.plan(sample)
    side = 56 if video else 0
    noise = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (len(plan.times), 3, side, side), dtype=torch.uint8, generator=noise)
    out = family.codec.encode(sample, plan, frames, seed)
    assert (plan.tokens, plan.patches) == (len(out.input_ids), 16 * len(plan.times))
    return out


def test_the_readmes_family_keeps_what_families_promise(family: Any) -> None:
    model = family.load().train()
    clips = (Clip("a.mp4", 0, 9, 320, 240), None, Clip("a.png", 0, 1, 300, 300, 1))
    samples = [encoded(family, clip, seed) for seed, clip in enumerate(clips)]
    results = []
    for rows in ([samples], [[sample] for sample in samples]):
        model.zero_grad()
        packed = [Row.packed(row) for row in rows]
        loss = sum(
            summed_cross_entropy(family.hidden_states(model, row), row.labels_1L[0], family.head(model))
            for row in packed
        )
        loss.backward()
        grads = [p.grad for named in family.parts(model).values() for _, p in named]
        assert all(grad is not None for grad in grads)
        results.append((loss.item(), torch.cat([grad.flatten() for grad in grads]).norm().item()))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
