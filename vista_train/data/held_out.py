"""Held-out samples: so many of each augmentation of a mix, the same ones at every evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vista_train.data.dataset import Encoder, Ingredient, VistaDataset
from vista_train.data.sources import ClipSource
from vista_train.video.media import Media


class HeldOut(VistaDataset):
    """`samples` positions of each augmentation, one augmentation after another; the weights of the mix do not count.

    Positions 0 to `samples - 1` are of the first augmentation in `mix`, the next `samples` of the second, and so on.
    `more` are other arguments of a VistaDataset.
    """

    def __init__(
        self,
        sources: Mapping[str, ClipSource],
        mix: Sequence[Ingredient],
        codec: Encoder,
        media: Media,
        samples: int,
        **more: Any,
    ) -> None:
        self.samples_each = samples
        count = sum(ingredient.weight > 0 for ingredient in mix)
        super().__init__(sources, mix, codec, media, epoch_samples=samples * max(1, count), **more)

    def digest(self) -> str:
        """A hash of everything that decides which sample a position is."""
        return f"{self.samples_each}x{super().digest()}"

    def _drawn(self, position: int, attempt: int) -> Ingredient:
        """A replacement is of the same augmentation."""
        if not 0 <= position < self.epoch_samples:
            raise ValueError(f"position is {position}; there are {self.epoch_samples} held-out samples, from 0")
        return self.mix[position // self.samples_each]
