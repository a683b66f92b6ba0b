"""Pickles where tensors, states and weights are looked for: none is ever loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vista_train import train
from vista_train.cli import main as vista_train
from vista_train.training import checkpoint

FILES = (
    "training/optimizer-00000.safetensors", "training/random-00000.safetensors", "training/state.json", "recipe.yaml",
    "model.safetensors", "config.json",
)  # fmt: skip


@pytest.fixture(params=["plain", "zip"])
def payload(request: pytest.FixtureRequest, pickled: bytes, marker: Path, kit: Any, tmp_path: Path) -> bytes:
    """A pickle as it is, and as torch.save writes it; both are known to work."""
    if request.param == "plain":
        return pickled
    torch.save({"weight": kit.Bomb(marker)}, tmp_path / "payload.bin")
    torch.load(tmp_path / "payload.bin", weights_only=False)
    assert marker.exists()
    marker.rmdir()
    return (tmp_path / "payload.bin").read_bytes()


@pytest.mark.parametrize("file", FILES)
def test_a_pickle_in_a_checkpoint_is_not_resumed_from(
    resumable: SimpleNamespace,
    payload: bytes,
    marker: Path,
    capsys: pytest.CaptureFixture,
    file: str,
) -> None:
    if not (resumable.checkpoint / file).is_file():
        pytest.skip(f"this family writes no {file}")
    (resumable.checkpoint / file).write_bytes(payload)
    try:
        assert train.main([str(resumable.recipe)]) == 2
    finally:
        assert not marker.exists()
    said = capsys.readouterr().err
    assert Path(file).name in said or "weights in" in said
    assert "Traceback" not in said


def test_pickles_beside_a_checkpoint_are_passed_over(resumable: SimpleNamespace, payload: bytes, marker: Path) -> None:
    """Files that other trainers load are none of ours."""
    for name in ("pytorch_model.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt", "training/optimizer.bin"):
        (resumable.checkpoint / name).write_bytes(payload)
    assert train.main([str(resumable.recipe)]) == 0
    assert checkpoint.read_state(checkpoint.published(resumable.output)[-1]).step == 2
    assert not marker.exists()


def test_a_checkpoint_of_nothing_but_a_pickle_is_refused(
    resumable: SimpleNamespace, payload: bytes, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (resumable.checkpoint / "model.safetensors").unlink()
    (resumable.checkpoint / "pytorch_model.bin").write_bytes(payload)
    assert train.main([str(resumable.recipe)]) == 2
    assert vista_train(["merge", str(resumable.checkpoint), str(tmp_path / "merged")]) == 2
    assert "safetensors" in capsys.readouterr().err or not marker.exists()
    assert not marker.exists()
    assert not (tmp_path / "merged" / "model.safetensors").exists()


@pytest.mark.parametrize("file", ["optimizer-00000.safetensors", "model.safetensors"])
def test_a_pickle_is_not_merged(
    resumable: SimpleNamespace,
    payload: bytes,
    marker: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    file: str,
) -> None:
    next(resumable.checkpoint.rglob(file)).write_bytes(payload)
    try:
        assert vista_train(["merge", str(resumable.checkpoint), str(tmp_path / "merged")]) == 2
    finally:
        assert not marker.exists()
    assert capsys.readouterr().err.splitlines()[-1].split("\r")[-1].startswith("vista_train: ")


@pytest.mark.parametrize(
    "state",
    [
        *("{}", '{"next_position": 1, "step": 1, "step": 2}'),
        *("[]", '"state"', "null", "\0", "[" * 100_000, ""),
    ],
)
def test_a_state_that_is_none_is_refused(resumable: SimpleNamespace, capsys: pytest.CaptureFixture, state: str) -> None:
    (resumable.checkpoint / "training" / "state.json").write_text(state)
    assert train.main([str(resumable.recipe)]) == 2
    assert str(resumable.checkpoint) in capsys.readouterr().err


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 200 << 20),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 69) + b'{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999]}}'[:69],
    ],
)
def test_weights_whose_header_lies_are_refused(hub: Path, load_hub: Callable[..., Any], header: bytes) -> None:
    (hub / "model.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"the weights in .* cannot be read"):
        load_hub().load()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "pytorch_model-00001-of-00001.bin"])
def test_a_pickle_from_the_hub_is_not_loaded(
    hub: Path, load_hub: Callable[..., Any], payload: bytes, marker: Path, name: str
) -> None:
    """In the place of safetensors, and as the only weights there are."""
    (hub / "model.safetensors").unlink()
    (hub / name).write_bytes(payload)
    if "-of-" in name:
        index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
        (hub / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"the weights in .* cannot be read"):
        load_hub().load()
    assert not marker.exists()


@pytest.mark.parametrize(
    "place",
    [
        "pytorch_model.bin",
        "../outside/secret.bin",
        "/etc/hostname",
        "sub/model.safetensors",
    ],
)
def test_an_index_of_pickles_or_files_elsewhere_is_refused(
    hub: Path, load_hub: Callable[..., Any], payload: bytes, marker: Path, place: str
) -> None:
    (hub / "model.safetensors").unlink()
    (hub / "pytorch_model.bin").write_bytes(payload)
    index = {"metadata": {}, "weight_map": {"lm_head.weight": place}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"no file in the folder|cannot be read"):
        load_hub().load()
    assert not marker.exists()


def test_an_adapter_that_is_a_pickle_is_refused(
    hub: Path, load_hub: Callable[..., Any], payload: bytes, marker: Path
) -> None:
    (hub / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "somebody/evil"}')
    (hub / "adapter_model.bin").write_bytes(payload)
    with pytest.raises(ValueError, match="holds an adapter"):
        load_hub()
    assert not marker.exists()
