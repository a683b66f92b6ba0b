"""What the system says of a machine, read from files as Linux and containers write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vista_train import machine
from vista_train.machine import Space, host_memory, memory_limit, size_told

GIB = 1 << 30


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_memory_of_the_host(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(
        "MemTotal:       24684484 kB\nMemFree:        100 kB\nMemAvailable:   12345678 kB\nHugePages_Total: 0\n"
    )
    assert host_memory(meminfo) == Space(24684484 * 1024, 12345678 * 1024)
    meminfo.write_text("MemTotal: 24684484 kB\n")
    assert host_memory(meminfo) is None
    assert host_memory(tmp_path / "none") is None
    real = host_memory()
    assert real is not None
    assert 0 < real.free <= real.total


def test_limit_of_a_container_under_version_2(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    write(tmp_path / "fs", memory__max=4 * GIB, memory__current=3 * GIB, memory__stat=f"anon 1\ninactive_file {GIB}")
    # What was read into the cache of files can be had again.
    assert memory_limit(tmp_path / "fs", own) == Space(4 * GIB, 2 * GIB)
    write(tmp_path / "fs", memory__max="max")
    assert memory_limit(tmp_path / "fs", own) is None


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/user.slice/job_7/step\n")
    write(tmp_path / "fs" / "user.slice", memory__max=8 * GIB, memory__current=7 * GIB)
    write(tmp_path / "fs" / "user.slice" / "job_7", memory__max=2 * GIB, memory__current=0)
    write(tmp_path / "fs" / "user.slice" / "job_7" / "step", memory__max="max", memory__current=0)
    assert memory_limit(tmp_path / "fs", own) == Space(8 * GIB, GIB)


@pytest.mark.parametrize("name", ["/docker/abc", "/"])
def test_limit_of_a_container_under_version_1(tmp_path: Path, name: str) -> None:
    """The host's name for the group is not what is mounted inside."""
    own = tmp_path / "cgroup"
    own.write_text(f"9:cpu,cpuacct:{name}\n4:memory:{name}\n0::{name}\n")
    folder = tmp_path / "fs" / "memory"
    stat = f"inactive_file 7\ntotal_inactive_file {GIB}"
    write(folder, memory__limit_in_bytes=6 * GIB, memory__usage_in_bytes=2 * GIB, memory__stat=stat)
    assert memory_limit(tmp_path / "fs", own) == Space(6 * GIB, 5 * GIB)
    write(folder, memory__limit_in_bytes=9223372036854771712)
    assert memory_limit(tmp_path / "fs", own) is None


def test_no_cgroups_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path, tmp_path / "cgroup") is None


def test_disks_and_files(tmp_path: Path) -> None:
    assert machine.shared_memory(tmp_path / "none") is None
    assert machine.shared_memory(tmp_path) == machine.disk(tmp_path)
    assert machine.disk(tmp_path).total > 0
    limits = machine.open_files()
    assert 0 < limits.soft <= limits.hard


@pytest.mark.parametrize(
    ("size", "told"), [(64 << 20, "64 MiB"), (GIB, "1.0 GiB"), (3 * GIB // 2, "1.5 GiB"), (0, "0 MiB")]
)
def test_sizes_for_people(size: int, told: str) -> None:
    assert size_told(size) == told
