"""Rows on their way to the device: the next one is copied while the present one computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vista_train.types import Row


def on_device(rows: Sequence[Row], device: torch.device) -> Iterator[Row]:
    """Each row with its tensors on the device, frames as bytes; on a GPU, one is always ahead.

    The copies run on a stream of their own, beside the computation where rows lie in pinned memory. Whoever takes a
    row may use it on the stream that is current when it is given out.
    """
    if device.type != "cuda":
        yield from (row.to(device) for row in rows)
        return
    stream = torch.cuda.Stream(device)
    ahead = _copied(rows[0], device, stream) if rows else None
    for number in range(len(rows)):
        assert ahead is not None
        row, there = ahead
        current = torch.cuda.current_stream(device)
        current.wait_event(there)
        for tensor in row.tensors:
            # It was made on the other stream, which must not take its memory back while this one reads.
            tensor.record_stream(current)
        ahead = _copied(rows[number + 1], device, stream) if number + 1 < len(rows) else None
        yield row


def _copied(row: Row, device: torch.device, stream: Any) -> tuple[Row, Any]:
    """The row on the device, and the event that says it is there."""
    with torch.cuda.stream(stream):
        moved = row.to(device, non_blocking=True)
    return moved, stream.record_event()
