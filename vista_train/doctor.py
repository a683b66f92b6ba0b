"""`vista-train doctor`: what this machine has, what `auto` chooses on it, what is bad about it, and what is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from vista_train import machine
from vista_train.data.sidecars import cache_folder
from vista_train.machine import OpenFiles, Space, size_told
from vista_train.models import attention
from vista_train.training import loss
from vista_train.training.settings import LoopSettings
from vista_train.video.decode import AUTO, AUTO_BECAUSE, LIMITS, READERS, check_reader
from vista_train.video.decode.versions import ffmpeg_versions
from vista_train.video.isolate import IsolationError
from vista_train.video.media import Media

FLOORS = {
    "torch": ((2, 10), "CVE-2026-24747: a checkpoint read with weights_only=True could run code"),
    "transformers": ((5, 3), "CVE-2026-4372, CVE-2026-5241: a config.json could fetch and run code"),
    "FFmpeg": ((8, 1, 2), "CVE-2026-8461, CVE-2026-40962, CVE-2026-30999: a crafted video could write past its memory"),
}
"""The first versions without a hole that is known to be used, and which hole."""
PACKAGES = (
    "torch", "transformers", "accelerate", "deepspeed", "peft", "av", "decord", "torchcodec", "flash-attn",
    "liger-kernel",
)  # fmt: skip
BYTES_PER_PATCH = 14 * 14 * 3
"""Of frames, as most vision towers see them."""
LEAST_DISK = 2 << 30
"""Indexes of ten million clips take about so much."""
LEAST_FILES, LEAST_FILES_OF_RANKS = 1024, 4096
"""What one process with its workers needs, and what a rank may allow itself that is connected to all others."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and whether it should be mended."""

    subject: str
    found: str
    warning: str = ""


@dataclass(frozen=True)
class Advice:
    """What to install, and what is gained."""

    install: str
    gain: str


@dataclass(frozen=True)
class Gpu:
    """One that PyTorch sees."""

    name: str
    capability: tuple[int, int]
    memory: Space
    has_bf16: bool


@dataclass(frozen=True)
class Examination:
    """All there is to say of this machine."""

    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]

    @property
    def warnings(self) -> list[Finding]:
        return [entry for entry in self.findings if entry.warning]

    def told(self) -> str:
        """Lines for people."""
        width = 2 + max(len(entry.subject) for entry in self.findings)
        lines = [f"{entry.subject:<{width}}{entry.found}" for entry in self.findings]
        warnings = [f"warning: {entry.subject} {entry.found}: {entry.warning}" for entry in self.warnings]
        faster = [f"to be faster: {entry.install}: {entry.gain}" for entry in self.advice]
        for told in (warnings, faster):
            lines += ["", *told] if told else []
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """All of it for machines; `warnings` are those of the findings that have one."""
        return {
            "findings": [asdict(entry) for entry in self.findings],
            "warnings": [asdict(entry) for entry in self.warnings],
            "advice": [asdict(entry) for entry in self.advice],
        }


def examine() -> Examination:
    """Look at everything. Starts one decoding process, and uses every GPU for a moment."""
    gpus = found_gpus()
    return Examination(tuple(findings(gpus)), tuple(advice(gpus)))


def findings(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Versions, protection, what `auto` chooses, and what there is of memory and disk."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    versions = _installed()
    for name in PACKAGES:
        version = versions.get(name)
        yield Finding(name, version or "not installed", known_bad(name, version) if version else "")
    for library, version in ffmpeg_versions().items():
        yield Finding(f"FFmpeg in {library}", version, known_bad("FFmpeg", version))
    for name in READERS:
        try:
            check_reader(name)
        except ImportError as error:
            yield Finding(f"reader {name}", f"cannot be used: {error.__cause__ or error}")
        else:
            yield Finding(f"reader {name}", "can be used")
    yield Finding("data.reader auto", f"{AUTO}: {AUTO_BECAUSE}")
    yield from _isolation()
    for device_type in ("cuda", "cpu") if gpus else ("cpu",):
        yield from choices(device_type)
    yield from gpu_findings(gpus)
    yield Finding("cores", str(machine.num_cores()))
    yield from memory_findings(machine.host_memory(), machine.memory_limit())
    yield shared_memory_finding(machine.shared_memory(), max(1, len(gpus)))
    yield files_finding(machine.open_files())
    cache = cache_folder(None)
    yield disk_finding(str(cache), machine.disk(cache))


def choices(device_type: str) -> Iterator[Finding]:
    """Which attention and which loss `auto` takes on a device, and why not those before them.

    In half precision on a GPU and in single on a CPU, as runs are; for a decoder and a head that suit every kernel.
    """
    name = attention.choose_attention(device_type)
    told = attention.describe_attention(attention.NAMES[name])
    yield Finding(f"attention on {device_type}", told + _not_others(name, attention.lacks_of(device_type)))
    head = nn.Linear(1, 1, bias=False)
    chosen = loss.choose_loss("auto", head, device_type, in_half=device_type == "cuda")
    lacks = loss.lacks_of(device_type)
    if device_type == "cuda" and not lacks["torch"]:
        lacks["torch"] = "single precision: it sums up in that of its input"
    yield Finding(f"loss on {device_type}", chosen.told + _not_others(chosen.kind, lacks))


def _not_others(chosen: str, lacks: Mapping[str, str]) -> str:
    told = [f"{name} needs {lacking}" for name, lacking in lacks.items() if lacking and name != chosen]
    return f" ({'; '.join(told)})" if told else ""


def found_gpus() -> list[Gpu]:
    """The GPUs that PyTorch sees."""
    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        capability = torch.cuda.get_device_capability(number)
        name = torch.cuda.get_device_name(number)
        # Below 8.0 PyTorch computes it in software.
        found.append(Gpu(name, capability, Space(total, free), torch.version.hip is not None or capability >= (8, 0)))
    return found


def gpu_findings(gpus: Sequence[Gpu]) -> Iterator[Finding]:
    """Each GPU with its memory."""
    if not gpus:
        yield Finding("GPU", "none")
    for number, gpu in enumerate(gpus):
        precision = "bf16" if gpu.has_bf16 else "fp32: it has no bf16"
        capability = ".".join(map(str, gpu.capability))
        yield Finding(
            f"GPU {number}", f"{gpu.name}, capability {capability}, {gpu.memory.told()}, trains in {precision}"
        )


def memory_findings(host: Space | None, limit: Space | None) -> Iterator[Finding]:
    """The host's memory, and what a container leaves of it."""
    least = LIMITS.max_memory_mib << 20
    hint = f"a process that decodes may ask for {size_told(least)} (data.limits.max_memory_mib)"
    if host is None:
        yield Finding("memory", "unknown: this system has no /proc/meminfo")
    else:
        yield Finding("memory", host.told(), hint if host.free < least else "")
    if limit is None:
        yield Finding("memory limit", "none")
    else:
        what = "the system kills what goes beyond it; "
        yield Finding("memory limit", f"{limit.told()} (cgroup)", f"{what}{hint}" if limit.free < least else "")


def shared_memory_need(ranks: int) -> int:
    """Bytes of frames that the data workers of some ranks keep in shared memory, in the rows of a recipe's defaults."""
    loop = LoopSettings()
    rows = loop.workers * loop.rows_ahead(loop.workers, 1) + 1
    return ranks * rows * loop.budget.max_row_patches * BYTES_PER_PATCH


def shared_memory_finding(space: Space | None, ranks: int) -> Finding:
    """What data workers hand their rows over in; a warning where it cannot hold them."""
    need = size_told(shared_memory_need(ranks))
    remedy = "in a container, start it with --shm-size=16g or --ipc=host; else train.workers=0 decodes without it"
    if space is None:
        return Finding("shared memory", "none", f"data workers need /dev/shm to hand rows over; {remedy}")
    if space.free >= shared_memory_need(ranks):
        return Finding("shared memory", space.told())
    return Finding(
        "shared memory",
        space.told(),
        f"rows of a recipe's defaults take up to {need} of it (banner: loader), and a data worker that finds none left "
        f"dies of a bus error; {remedy}",
    )


def files_finding(limits: OpenFiles) -> Finding:
    """How many files may be open; a warning where that is few."""
    hard = "any number" if limits.hard >= machine.UNLIMITED else str(limits.hard)
    is_low = limits.soft < LEAST_FILES or limits.hard < LEAST_FILES_OF_RANKS
    hint = (
        f"data workers and connections between ranks need more; `ulimit -n {LEAST_FILES_OF_RANKS}`, in a container "
        f"--ulimit nofile={LEAST_FILES_OF_RANKS}"
    )
    return Finding("open files", f"{limits.soft}; runs of several ranks may take {hard}", hint if is_low else "")


def disk_finding(folder: str, space: Space) -> Finding:
    """The folder of caches; a warning where little fits in."""
    hint = f"indexes may take {size_told(LEAST_DISK)}; set VISTA_TRAIN_CACHE to a folder on a larger disk"
    return Finding("cache", f"{folder}, {space.told()}", hint if space.free < LEAST_DISK else "")


def advice(gpus: Sequence[Gpu]) -> Iterator[Advice]:
    """What would make this machine faster; nothing that it could not use."""
    if not gpus:
        if loss.lacks_of("cpu")["torch"]:
            yield Advice("pip install 'torch>=2.13'", "its fused loss is faster on a CPU than the chunked one")
        return
    lacks = attention.lacks_of("cuda")
    is_able = all(gpu.capability >= attention.LEAST_CAPABILITY for gpu in gpus)
    if is_able and all(lacks.values()):
        yield Advice(
            "pip install 'torch>=2.13', or flash-attn (pip install '.[flash]' --no-build-isolation)",
            "attention in one call for a whole row; by_sample makes one for each of its samples, in every layer",
        )
    if loss.lacks_of("cuda")["liger"]:
        yield Advice(
            "pip install 'liger-kernel>=0.6.2'",
            "a fused loss: three products with the head's weight for each label; chunked makes four, since it computes "
            "logits again in the backward pass (not under ZeRO-3 and FSDP2, whose loss is always chunked)",
        )


def known_bad(name: str, version: str) -> str:
    """Why a version is to be replaced; empty where nothing is known against it, and where it says no number."""
    floor, hole = FLOORS.get(name, ((), ""))
    number = re.match(r"n?(\d+(?:\.\d+)*)", version)
    if not floor:
        return ""
    if number is None:
        return f"its version tells no number; {'.'.join(map(str, floor))} is the first without {hole}"
    if tuple(map(int, number[1].split("."))) >= floor:
        return ""
    return f"older than {'.'.join(map(str, floor))}: {hole}"


def _installed() -> Mapping[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _isolation() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("isolation", "not here", "decoding apart needs Linux; data.isolate=inline is for files you trust")
        return
    media = Media(tempfile.gettempdir())
    try:
        confined = media.confined()
    except IsolationError as error:
        yield Finding("isolation", "does not work", str(error))
        return
    finally:
        media.close()
    yield Finding("isolation", "works: decoding runs in processes of its own, with deadlines and memory limits")
    told = "none" if confined.no_network else "reachable"
    hint = (
        "" if confined.no_network else "this system allows no network namespaces; a decoder that is taken over has it"
    )
    yield Finding("network of decoders", told, hint)
    told = "libraries, and what lies under the data root" if confined.no_files else "all that this user can read"
    hint = (
        "" if confined.no_files else "this kernel has no Landlock (Linux 5.13); a decoder that is taken over reads them"
    )
    yield Finding("files of decoders", told, hint)
