"""What `vista-train doctor` makes of a machine: what is chosen and why, what is warned of, what would be faster."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from vista_train import doctor
from vista_train.cli import main
from vista_train.doctor import Advice, Examination, Finding, Gpu
from vista_train.machine import OpenFiles, Space
from vista_train.models import attention
from vista_train.models.attention import choose_attention
from vista_train.training import loss
from vista_train.training.loss import lacks_of
from vista_train.video.decode import AUTO, READERS, check_reader

GIB = 1 << 30
H200 = Gpu("NVIDIA H200", (9, 0), Space(140 * GIB, 139 * GIB), has_bf16=True)
T4 = Gpu("Tesla T4", (7, 5), Space(15 * GIB, 15 * GIB), has_bf16=False)


def lacking(monkeypatch: pytest.MonkeyPatch, kernels: Mapping[str, str], liger: str = "", torch: str = "") -> None:
    """A machine whose GPU lacks these."""
    monkeypatch.setattr(attention, "lacks_of", lambda device, config=None: dict(kernels))
    monkeypatch.setattr(loss, "lacks_of", lambda device: {"liger": liger, "torch": torch})


def test_what_is_chosen_on_a_cpu_and_why() -> None:
    chosen, lost = doctor.choices("cpu")
    assert chosen.subject == "attention on cpu"
    assert chosen.found.startswith("sdpa of torch")
    assert "flash needs a CUDA GPU and flash-attn installed; varlen needs a CUDA GPU" in chosen.found
    assert lost.subject == "loss on cpu"
    assert lost.found.startswith("linear_cross_entropy of torch" if not lacks_of("cpu")["torch"] else "chunked")
    assert lost.found.endswith("(liger needs a CUDA GPU)")
    assert not chosen.warning
    assert not lost.warning


def test_what_is_chosen_on_a_gpu_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, {"flash": "flash-attn installed", "varlen": ""}, liger="liger-kernel installed")
    assert choose_attention("cuda") == "varlen"
    chosen, lost = doctor.choices("cuda")
    assert chosen.found.startswith("varlen of torch")
    assert chosen.found.endswith("(flash needs flash-attn installed)")
    assert lost.found.startswith("chunked")
    assert "liger needs liger-kernel installed; torch needs single precision" in lost.found


def test_the_reader_that_auto_picks() -> None:
    assert check_reader("auto").name == AUTO
    assert AUTO in READERS


def test_nothing_is_advised_that_a_machine_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, {"flash": "a CUDA GPU", "varlen": "a CUDA GPU"}, liger="a CUDA GPU")
    assert list(doctor.advice([])) == []
    # Of the old card, attention in one call asks too much.
    assert [entry.install for entry in doctor.advice([T4])] == ["pip install 'liger-kernel>=0.6.2'"]
    assert [entry.install.split(",")[0] for entry in doctor.advice([H200])] == [
        "pip install 'torch>=2.13'",
        "pip install 'liger-kernel>=0.6.2'",
    ]


@pytest.mark.parametrize("kernels", [{"flash": "", "varlen": "a newer torch"}, {"flash": "flash-attn", "varlen": ""}])
def test_one_kernel_for_packed_rows_is_enough(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, str]) -> None:
    lacking(monkeypatch, kernels)
    assert list(doctor.advice([H200, H200])) == []


def test_an_old_torch_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, {}, liger="a CUDA GPU", torch="torch 2.13 or later")
    assert [entry.install for entry in doctor.advice([])] == ["pip install 'torch>=2.13'"]


def test_shared_memory_of_a_container() -> None:
    docker = doctor.shared_memory_finding(Space(64 << 20, 64 << 20), ranks=1)
    assert docker.found == "64 MiB free of 64 MiB"
    assert "--shm-size" in docker.warning
    assert "a data worker that finds none left dies" in docker.warning
    # Two workers, two rows each, and one in the step, of 262,144 patches of 588 bytes.
    assert doctor.shared_memory_need(1) == 5 * 262_144 * 588
    one = Space(GIB, GIB)
    assert not doctor.shared_memory_finding(one, ranks=1).warning
    assert doctor.shared_memory_finding(one, ranks=8).warning
    # What others hold of it is not to be had.
    assert doctor.shared_memory_finding(Space(8 * GIB, 1 << 20), ranks=1).warning
    assert "need /dev/shm" in doctor.shared_memory_finding(None, ranks=1).warning


def test_memory_and_its_limit() -> None:
    roomy, none = doctor.memory_findings(Space(24 * GIB, 20 * GIB), None)
    assert (roomy.found, roomy.warning, none.found) == ("20.0 GiB free of 24.0 GiB", "", "none")
    host, tight = doctor.memory_findings(Space(24 * GIB, 20 * GIB), Space(4 * GIB, 3 * GIB))
    assert not host.warning
    assert tight.found == "3.0 GiB free of 4.0 GiB (cgroup)"
    assert "4.0 GiB (data.limits.max_memory_mib)" in tight.warning
    unknown, _ = doctor.memory_findings(None, None)
    assert not unknown.warning


@pytest.mark.parametrize(
    ("soft", "hard", "is_low"),
    [(1024, 524_288, False), (256, 524_288, True), (1024, 1024, True), (1 << 60, 1 << 60, False)],
)
def test_open_files(soft: int, hard: int, is_low: bool) -> None:
    assert bool(doctor.files_finding(OpenFiles(soft, hard)).warning) == is_low


def test_disk_of_the_cache() -> None:
    assert not doctor.disk_finding("/cache", Space(100 * GIB, 2 * GIB)).warning
    full = doctor.disk_finding("/cache", Space(100 * GIB, GIB))
    assert full.found == "/cache, 1.0 GiB free of 100.0 GiB"
    assert "VISTA_TRAIN_CACHE" in full.warning


def test_gpus_with_their_memory() -> None:
    assert [entry.found for entry in doctor.gpu_findings([])] == ["none"]
    first, second = doctor.gpu_findings([H200, T4])
    assert first.found == "NVIDIA H200, capability 9.0, 139.0 GiB free of 140.0 GiB, trains in bf16"
    assert (second.subject, second.found.split(", ")[-1]) == ("GPU 1", "trains in fp32: it has no bf16")


def test_what_is_faster_is_no_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = Examination((Finding("cores", "2"),), (Advice("pip install x", "it is quicker"),))
    monkeypatch.setattr("vista_train.commands.doctor.examine", lambda: found)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "cores  2\n\nto be faster: pip install x: it is quicker\n"
    bad = Examination((*found.findings, Finding("cache", "/c", "full")), ())
    monkeypatch.setattr("vista_train.commands.doctor.examine", lambda: bad)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "warning: cache /c: full"


def test_one_json_object_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"findings", "warnings", "advice"}
    assert code == (1 if told["warnings"] else 0)
    assert told["warnings"] == [entry for entry in told["findings"] if entry["warning"]]
    subjects = [entry["subject"] for entry in told["findings"]]
    assert len(subjects) == len(set(subjects))
    expected = {
        "data.reader auto",
        "attention on cpu",
        "loss on cpu",
        "memory",
        "memory limit",
        "shared memory",
        "open files",
    }
    assert expected <= set(subjects)
    reader = next(entry["found"] for entry in told["findings"] if entry["subject"] == "data.reader auto")
    assert reader.startswith("pyav: exact")
