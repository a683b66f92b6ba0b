"""Several ways to one result, measured in turns: how far from the plain one, how long, and in how much memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Result = tuple[torch.Tensor, list[torch.Tensor]]
"""A value, and the gradients of what it was made of."""
Way = Callable[[], Result]
FIGURES = ("value_error", "gradient_error", "ms", "memory_mb")


def compare(
    ways: Mapping[str, Callable[[], Way]], device: torch.device, repeats: int, again: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Figures of every way by its name; the first is the plain one. Each is made ready once, then they take turns.

    Errors are relative, of norms. Memory is the peak above what was in use before a way was made ready: on a GPU what
    the allocator held, else what the system gave a process of its own, which `again` and the way's name start.
    """
    ready = {name: make() for name, make in ways.items()}
    results = {name: run() for name, run in ready.items()}
    plain_value, plain_grads = results[next(iter(ways))]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ready.items():
            settle(device)
            since = time.perf_counter()
            run()
            settle(device)
            seconds[name].append(time.perf_counter() - since)
    figures = {}
    for name, (value, grads) in results.items():
        figures[name] = {
            "value_error": error([value], [plain_value]),
            "gradient_error": error(grads, plain_grads),
            "ms": 1000 * statistics.median(seconds[name]),
        }
    del ready, results, plain_value, plain_grads
    for name, make in ways.items():
        if device.type == "cuda":
            figures[name]["memory_mb"] = peak_mb(make, device)
        else:
            done = subprocess.run([sys.executable, *again, name], check=True, capture_output=True, text=True)
            figures[name]["memory_mb"] = float(done.stdout.split()[-1])
    return figures


def error(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The norm of what differs over that of what is wanted, of all tensors together."""
    differ = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, wanted, strict=True))
    return float(differ / sum(float(b.double().square().sum()) for b in wanted)) ** 0.5


def settle(device: torch.device) -> None:
    """Wait until all that was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_mb(make: Callable[[], Way], device: torch.device) -> float:
    """The most memory in use while a way is made ready and runs once, above what was in use before; on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        make()()
        settle(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def ready_and_run() -> None:
        make()()

    return resident_mb(ready_and_run)


def resident_mb(run: Callable[[], object]) -> float:
    """The most memory that this process has in use during the call, above what was in use before; on Linux."""
    status = Path("/proc/self/status")
    # Sets the recorded peak back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5")
    held = int(status.read_text().split("VmHWM:")[1].split()[0])
    run()
    return (int(status.read_text().split("VmHWM:")[1].split()[0]) - held) / 1024


def print_table(title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """The figures, and the plain way's time and memory over each one's."""
    plain = next(iter(figures.values()))
    print(f"{title}\n  {'way':<12}{'value':>10}{'gradient':>10}{'ms':>12}{'faster':>9}{'MB':>11}{'smaller':>9}")
    for name, found in figures.items():
        print(
            f"  {name:<12}{found['value_error']:>10.1e}{found['gradient_error']:>10.1e}{found['ms']:>12,.1f}"
            f"{plain['ms'] / max(found['ms'], 1e-9):>8.2f}x{found['memory_mb']:>11,.1f}"
            f"{plain['memory_mb'] / max(found['memory_mb'], 1e-3):>8.1f}x"
        )
