"""PackedCollator: a list of Encoded samples -> one Row, without padding, positions restarting with every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vista_train.types import Encoded, Row


@dataclass(frozen=True)
class PackedCollator:
    """Packs samples end to end; `DataLoader(VistaDataset(...), batch_size=k, collate_fn=PackedCollator())` works."""

    def __call__(self, samples: Sequence[Encoded]) -> Row:
        """One Row of all samples in order. A sample that was lost (no tokens) leaves only its failures."""
        return Row.packed(samples)
