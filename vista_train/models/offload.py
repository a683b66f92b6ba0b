"""What recomputation keeps of a long row, held in the memory of the host until the backward pass comes to it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

LEAST_BYTES = 32 << 20
"""A smaller tensor stays where it is: there would be little to gain (4,681 tokens of 3,584 numbers in bf16)."""


BLOCK_BYTES = 64 << 20
"""Pinned memory is given out in powers of two: in blocks of this size, less than one is wasted for each tensor."""


class Held:
    """One tensor in the memory of the host, and what is needed to bring it back."""

    def __init__(self, tensor: torch.Tensor, blocks: Sequence[torch.Tensor], before: Held | None) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.blocks = blocks
        """Its bytes, in order."""
        self.before = weakref.ref(before) if before is not None else None
        """The one that was put away before it: the next that the backward pass asks for."""
        self.coming: tuple[torch.Tensor, Any] | None = None
        """Its copy on the device and the event that says it is whole, once that is under way."""


class Offload:
    """Hooks for what autograd saves: tensors go to the host and come back, beside the computation on a GPU.

    On a GPU the copies run on a stream of their own, out of pinned memory, and while a layer is computed again the
    input of the one before it is already on its way.
    """

    def __init__(self, least_bytes: int | None = None) -> None:
        self.least_bytes = LEAST_BYTES if least_bytes is None else least_bytes
        self.last: weakref.ref[Held] | None = None
        self.leaving: tuple[torch.Tensor, Any] | None = None
        """What is being copied to the host, and the event that says it is there."""
        self.streams: dict[torch.device, Any] = {}
        self.held_bytes = 0
        """Bytes that have gone to the host."""

    def hooks(self) -> saved_tensors_hooks:
        """The context in which what is saved goes to the host."""
        return saved_tensors_hooks(self.pack, self.unpack)

    def pack(self, tensor: torch.Tensor) -> torch.Tensor | Held:
        """Put a tensor away, if it is large."""
        size = tensor.numel() * tensor.element_size()
        if size < self.least_bytes:
            return tensor
        before = self.last() if self.last is not None else None
        held = Held(tensor, self._to_host(tensor.detach()), before)
        self.last = weakref.ref(held)
        self.held_bytes += size
        return held

    def unpack(self, packed: torch.Tensor | Held) -> torch.Tensor:
        """The tensor on its device again; the one before it sets out."""
        if isinstance(packed, torch.Tensor):
            return packed
        if packed.device.type != "cuda":
            return _restored(packed)
        self._let_go()
        tensor, whole = packed.coming or self._set_out(packed)
        packed.coming = None
        torch.cuda.current_stream(packed.device).wait_event(whole)
        before = packed.before() if packed.before is not None else None
        if before is not None and before.coming is None:
            before.coming = self._set_out(before)
        return tensor

    def _to_host(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        bytes_N = tensor.contiguous().view(-1).view(torch.uint8)
        pieces = bytes_N.split(BLOCK_BYTES)
        if tensor.device.type != "cuda":
            return [piece.clone() for piece in pieces]
        # Held here until the copy is made, in the order of the stream that computes: given to the allocator to watch,
        # its memory would not be free again before the host has seen the copy end, many layers later.
        self._let_go()
        stream = self._stream(tensor.device)
        blocks = [torch.empty(len(piece), dtype=torch.uint8, pin_memory=True) for piece in pieces]
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            for block, piece in zip(blocks, pieces, strict=True):
                block.copy_(piece, non_blocking=True)
        self.leaving = (bytes_N, stream.record_event())
        return blocks

    def _let_go(self) -> None:
        """Give up the device's copy of what has gone to the host."""
        if self.leaving is not None:
            tensor, there = self.leaving
            torch.cuda.current_stream(tensor.device).wait_event(there)
            self.leaving = None

    def _set_out(self, held: Held) -> tuple[torch.Tensor, Any]:
        stream = self._stream(held.device)
        tensor = torch.empty(held.shape, dtype=held.dtype, device=held.device)
        # Its memory may still be in use by what was computed there before.
        stream.wait_stream(torch.cuda.current_stream(held.device))
        with torch.cuda.stream(stream):
            _fill(tensor, held.blocks)
        # If nobody asks for it, nobody has waited for it either.
        tensor.record_stream(stream)
        return tensor, stream.record_event()

    def _stream(self, device: torch.device) -> Any:
        if device not in self.streams:
            self.streams[device] = torch.cuda.Stream(device)
        return self.streams[device]


def _restored(held: Held) -> torch.Tensor:
    return _fill(torch.empty(held.shape, dtype=held.dtype, device=held.device), held.blocks)


def _fill(tensor: torch.Tensor, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Bytes from the host into a tensor, in the order of the present stream."""
    pieces = tensor.view(-1).view(torch.uint8).split(BLOCK_BYTES)
    for piece, block in zip(pieces, blocks, strict=True):
        piece.copy_(block, non_blocking=True)
    return tensor
