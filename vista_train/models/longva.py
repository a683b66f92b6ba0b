"""LongVA: CLIP's second last layer without its CLS token, Linear-GELU-Linear, 2x2 mean pooling, and Qwen2.

Each frame, or each 336-pixel tile of one, becomes 144 tokens, back to back, right before the first user's words
(Zhang et al., arXiv 2406.16852, UniRes).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from vista_train.models.base import register_family
from vista_train.models.chat import CHATML, ChatFormat
from vista_train.models.hub import CLIP_SCALE, load_weights, read_config, read_json, write_kept
from vista_train.models.hub_family import HubFamily
from vista_train.models.longva_published import FROM_PUBLISHED, PUBLISHED_TYPE, config_of_published, write_published
from vista_train.models.passes import Passes
from vista_train.models.pooled_llava import (
    LongVAConfig,
    LongVAForConditionalGeneration,
    TileLayout,
    pooled_media,
    pooled_unread,
    tile_layout,
)
from vista_train.types import Row


@register_family("longva")
class LongVA(HubFamily):
    """LongVA-7B and its like: the published `llava_qwen` layout, or the one that `save` writes."""

    model_types: ClassVar = {LongVAConfig: LongVAForConditionalGeneration}
    chat = ChatFormat(end="<|im_end|>", video="<image>", picture="<image>", reserved=("<image>", "<|im_end|>"))
    chat_template = CHATML
    scale = CLIP_SCALE
    native_layout = True

    def read_config(self, folder: Path) -> PreTrainedConfig:
        """Ours, or a published one translated."""
        data = read_json(folder / "config.json")
        self.is_published = data.get("model_type") == PUBLISHED_TYPE
        return config_of_published(data, folder) if self.is_published else read_config(folder, (LongVAConfig,))

    def set_up(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give the tokenizer a media token, in a spare row of the embedding table where there is one."""
        tokenizer.add_tokens([self.chat.video], special_tokens=True)
        self.config.image_token_id = tokenizer.convert_tokens_to_ids(self.chat.video)
        super().set_up(tokenizer)

    def layout(self) -> TileLayout:
        """Tiles of 144 tokens."""
        return tile_layout(self.config, self.chat.video, self.view)

    def weights(self, options: Mapping[str, Any]) -> Any:
        """The model, whichever layout it lies in; a table without a spare row gets one more."""
        assert self.folder is not None
        mapping = FROM_PUBLISHED if self.is_published else None
        model = load_weights(self.model_type, self.folder, self.config, options, mapping)
        if self.config.image_token_id >= model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(self.config.image_token_id + 1, mean_resizing=False)
        return model

    def media(self, model: Any, row: Row, passes: Passes) -> dict[str, Any]:
        """The features of all tiles."""
        return pooled_media(model, row, self.scale, passes)

    def unread(self) -> tuple[str, ...]:
        """What lies behind the second last vision layer."""
        return pooled_unread(self.config)

    def save_published(self, model: Any, folder: Path) -> None:
        """Write the `llava_qwen` layout that LongVA's own code and VISTA's read."""
        write_published(model, self.tokenizer, folder)
        write_kept(self.kept, folder)
