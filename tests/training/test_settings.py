"""What a step holds at a time is told by part, and whatever cannot be is an error that says what can."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vista_train.config import parse_recipe
from vista_train.models.memory import Memory
from vista_train.training.settings import LoopSettings


def memory(**train: Any) -> Memory:
    return parse_recipe({"train": train}).make_loop().memory


def test_checkpointing_is_for_all_parts_or_by_part() -> None:
    assert memory() == Memory(vision=False, language=False)
    assert memory(gradient_checkpointing=True) == Memory(vision=True, language=True)
    assert memory(gradient_checkpointing={"language": "offload"}) == Memory(vision=True, language="offload")
    assert memory(gradient_checkpointing={"language": False, "vision": True}) == Memory(vision=True)
    assert memory(gradient_checkpointing={"vision": False}) == Memory(language=True)


def test_what_is_cut() -> None:
    assert memory(vision_chunk=512, tiled_mlp=2048) == Memory(512, tiled_mlp=2048)
    assert memory(tiled_mlp="auto").tiled_mlp == "auto"
    assert memory(tiled_mlp="none").tiled_mlp is None
    assert memory(compile=True).compiled
    assert LoopSettings().memory == memory()


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (
            {"gradient_checkpointing": {"language": "disk"}},
            r"train\.gradient_checkpointing\.language is 'disk'; it must be true, false or offload",
        ),
        ({"gradient_checkpointing": {"vission": True}}, r"train\.gradient_checkpointing\.vission: unknown key"),
        ({"gradient_checkpointing": "all"}, r"train\.gradient_checkpointing is 'all'; it must be true or false"),
        ({"gradient_checkpointing": {"vision": "offload"}}, r"gradient_checkpointing\.vision is 'offload'; it must be"),
        ({"vision_chunk": 0}, r"train\.vision_chunk is 0; it must be at least 1 patch"),
        ({"tiled_mlp": "some"}, r"train\.tiled_mlp is 'some'; it must be none, auto, or tokens in a tile, 16 or more"),
        ({"tiled_mlp": 4}, r"train\.tiled_mlp is 4; it must be none"),
    ],
)
def test_faults_name_key_value_and_what_would_be_right(train: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        memory(**train)


def test_a_recipe_that_says_so_is_written_and_read_again() -> None:
    recipe = parse_recipe({"train": {"gradient_checkpointing": {"language": "offload"}, "tiled_mlp": 256}})
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again.make_loop() == recipe.make_loop()
