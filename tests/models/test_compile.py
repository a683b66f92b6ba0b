"""Compiled norms and MLPs compute what they did, for rows of any length, also computed again and in tiles."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models.test_passes import loss_and_norm
from vista_train.models import offload
from vista_train.models.memory import Memory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for the CPU"),
]
TOLERANCE = 1e-4


def test_compiled_layers_change_nothing(rigs: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of unlike length go through what was compiled for the first; so do tiles of another length."""
    monkeypatch.setattr(offload, "LEAST_BYTES", 1)
    torch.compiler.reset()
    rig = rigs("longva")
    rows = [rig.mixed(), rig.mixed()[:3], rig.mixed()[:1]]
    counted = torch._dynamo.utils.counters["stats"]
    graphs = []
    for memory in (Memory(compiled=True), Memory(compiled=True, language="offload", tiled_mlp=64)):
        model = copy.deepcopy(rig.model).train()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "embed" not in name:
                    parameter.mul_(3)
        plain = [loss_and_norm(rig, model, row) for row in rows]
        rig.family.arrange(model, memory)
        counted.clear()
        for row, expected in zip(rows, plain, strict=True):
            assert loss_and_norm(rig, model, row) == pytest.approx(expected, rel=TOLERANCE)
            graphs.append(counted["unique_graphs"])
    rig.family.arrange(copy.deepcopy(rig.model), Memory())
    # One of a norm and one of an MLP, whatever the length of a row.
    assert graphs[:3] == [2, 2, 2]
    assert len(set(graphs[3:])) == 1
