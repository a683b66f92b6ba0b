"""What vision towers have in common: the canvas of one of fixed size, and what lies behind the layer that is used."""

from __future__ import annotations

from transformers import PreTrainedConfig

from vista_train.video.sampling import View


def square_canvas(view: View, side: int, patch: int) -> int:
    """The patches of a square frame; `ValueError` if the view's canvas is not the one square that a tower takes."""
    if (view.width, view.height) != (side, side) or view.fit == "native" or view.tiles:
        raise ValueError(
            f"view.width x view.height is {view.width}x{view.height}, view.fit {view.fit!r}, view.tiles {view.tiles}; "
            f"the checkpoint needs {side}x{side}, squash, crop or letterbox, and no tiles"
        )
    return (side // patch) ** 2


def behind_layer(config: PreTrainedConfig, root: str, layer: int, rest: str = r"post_layernorm\.") -> tuple[str, ...]:
    """Patterns of what lies behind the hidden state that is used: number `layer`, 0 the embeddings, -1 the last."""
    num = config.num_hidden_layers
    if not isinstance(layer, int) or not -num - 1 <= layer <= num:
        raise ValueError(
            f"vision_feature_layer is {layer!r}; the tower has hidden states 0 to {num}, or -1 for the last"
        )
    numbers = "|".join(str(number) for number in range(layer % (num + 1), num))
    behind = rf"{root}encoder\.layers\.({numbers})\."
    return (behind, root + rest) if numbers else (root + rest,)
