"""StepModule: what an engine wraps, and the only way into the model: rows in, losses or likelihoods out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vista_train.models.base import Family
from vista_train.models.likelihood import weighed
from vista_train.models.spans import LOSS, span
from vista_train.training.loss import LossChoice, summed_cross_entropy
from vista_train.training.weighting import Weighting, weights_of
from vista_train.types import Row

Places = tuple[torch.Tensor, torch.Tensor]


class StepModule(nn.Module):
    """The model as the engine wraps it: a packed row in, its summed cross entropy out."""

    def __init__(self, family: Family, model: nn.Module, weighting: Weighting = "token") -> None:
        super().__init__()
        self.family = family
        self.model = model
        self.loss, self.weighting = LossChoice(), weighting
        # Engines ask for these: how wide the model is, and which modules are gathered one at a time.
        self.config = family.text_config(model)
        self._no_split_modules = family.blocks(model)

    def forward(
        self,
        row: Row,
        head_calls: int = 1,
        tower_passes: Sequence[int] = (),
        mlp_tiles: int = 1,
        asked: Places | None = None,
    ) -> torch.Tensor | Places:
        """The row's summed cross entropy; or with `asked` (places and tokens of a look, models/likelihood.py) the
        log-likelihood of each token, and the likeliest token at each place.

        Where weights are sharded, every rank must call each module equally often: so often, at least.
        """
        hidden_LD = self.family.hidden_states(self.model, row, tower_passes, mlp_tiles)
        head = self.family.head(self.model)
        if asked is not None:
            return weighed(hidden_LD, head, *asked, calls=head_calls)
        with span(LOSS):
            # Evaluated, every label counts alike.
            weights_L = weights_of(row, self.weighting) if self.training else None
            return summed_cross_entropy(
                hidden_LD, row.labels_1L[0], head, calls=head_calls, kind=self.loss.kind, weights_L=weights_L
            )
