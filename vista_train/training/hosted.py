"""Hosted: our samples, rows and families in other people's trainers, such as Hugging Face's and TRL's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import nn

from vista_train.data.dataset import VistaDataset
from vista_train.models.base import Family
from vista_train.training.loss import summed_cross_entropy
from vista_train.training.settings import LoopSettings
from vista_train.types import Encoded, Row


class Hosted(nn.Module):
    """A family's model as a `transformers.Trainer` calls it: a batch of `HostedCollator` in, its mean loss out.

    `num_items_in_batch`, which the trainer counts over a whole step, makes that step exact however it is cut; without
    it the loss is the mean of the row. A checkpoint in the family's own layout is written by `family.save(model, ...)`.
    """

    def __init__(self, family: Family, model: nn.Module) -> None:
        super().__init__()
        self.family, self.model = family, model
        self.config: Any = model.config

    def forward(
        self,
        row: Row,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **unused: Any,
    ) -> dict[str, torch.Tensor]:
        """`loss`, over the labels of a packed row; `labels` (the row's own) are there for who counts them."""
        hidden_LD = self.family.hidden_states(self.model, row)
        total = summed_cross_entropy(hidden_LD, row.labels_1L[0], self.family.head(self.model))
        count = row.num_labels if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / torch.as_tensor(count, device=total.device).clamp(min=1)}

    def gradient_checkpointing_enable(self, **unused: Any) -> None:
        """Compute activations again in the backward pass, in our way: each layer, each pass of a tower that trains."""
        self.family.arrange(self.model, LoopSettings(gradient_checkpointing=True).memory)

    def add_model_tags(self, tags: Sequence[str] | str) -> None:
        """TRL says on model cards that it trained a model."""
        model: Any = self.model
        model.add_model_tags(tags)


class HostedCollator:
    """Samples of a `VistaDataset` -> a batch for `Hosted`: one packed row, and its labels.

    Given the dataset, it takes positions of it as `positions` lists them, for trainers that insist on a table.
    """

    def __init__(self, dataset: VistaDataset | None = None) -> None:
        self._dataset = dataset

    def __call__(self, samples: Sequence[Encoded | Mapping[str, Any]]) -> dict[str, Any]:
        """One row of all samples in order. A sample that was lost leaves nothing in it but its failures."""
        row = Row.packed([self._encoded(sample) for sample in samples])
        return {"row": row, "labels": row.labels_1L}

    def _encoded(self, sample: Encoded | Mapping[str, Any]) -> Encoded:
        if isinstance(sample, Encoded):
            return sample
        if self._dataset is None:
            raise ValueError("HostedCollator got a position without a dataset to look it up in; give it one")
        return self._dataset[int(sample["position"])]


def positions(dataset: VistaDataset, first: int = 0, count: int | None = None) -> datasets.Dataset:
    """The training positions of a dataset as a table: `count` (default, an epoch) from `first` on."""
    last = first + (len(dataset) if count is None else count)
    return datasets.Dataset.from_dict({"position": list(range(first, last))})
