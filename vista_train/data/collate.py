"""PackedCollator: a list of Encoded samples -> one Row, without padding, positions restarting with every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vista_train.types import Encoded, Row


@dataclass(frozen=True)
class PackedCollator:
    """Packs samples end to end; `DataLoader(VistaDataset(...), batch_size=k, collate_fn=PackedCollator())` works."""

    def __call__(self, samples: Sequence[Encoded]) -> Row:
        """One Row of all samples in order. A sample that was lost (no tokens) leaves only its failures."""
        kept = [sample for sample in samples if len(sample.input_ids)]
        with_frames = [sample.frames_TCHW for sample in kept if len(sample.frames_TCHW)]
        lengths = tuple(len(sample.input_ids) for sample in kept)
        empty = torch.zeros(0, dtype=torch.int64)
        return Row(
            input_ids_1L=torch.cat([empty, *(sample.input_ids for sample in kept)])[None],
            labels_1L=torch.cat([empty, *(sample.labels for sample in kept)])[None],
            positions_1L=torch.cat([empty, *(torch.arange(length) for length in lengths)])[None],
            frames_TCHW=torch.cat(with_frames) if with_frames else torch.zeros((0, 3, 0, 0), dtype=torch.uint8),
            lengths=lengths,
            frame_counts=tuple(len(sample.frames_TCHW) for sample in kept),
            samples=tuple(sample.position for sample in kept),
            kinds=tuple(sample.kind for sample in kept),
            failures=tuple(failure for sample in samples for failure in sample.failures),
        )
