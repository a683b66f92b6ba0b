"""Named stretches of a step, which a profile tells apart; without one they cost nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.profiler import record_function

WAIT, COPY, VISION, LANGUAGE = "waiting for data", "copy to device", "forward vision", "forward language"
LOSS, BACKWARD, OPTIMIZER = "loss", "backward", "optimizer"
SPANS = (WAIT, COPY, VISION, LANGUAGE, LOSS, BACKWARD, OPTIMIZER)
PREFIX = "vista_train: "
"""How a span's name begins in a trace."""


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """One of SPANS. While a profile is taken, it ends when the GPU has done all that was asked of it, whose time so
    counts where it belongs."""
    if not torch.autograd._profiler_enabled():
        yield
        return
    _settle()
    with record_function(PREFIX + name):
        yield
        _settle()


def _settle() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
