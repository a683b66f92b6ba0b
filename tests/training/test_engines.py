"""DDP = ZeRO-1 = ZeRO-2 = ZeRO-3 = FSDP2 = one process, on loss and gradient norm; each takes up what others left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.engine_ranks import ADAPTED, UNLABELLED, cut_back, trajectory
from tests.training.launching import REPO, command, environment, launch
from vista_train.config import parse_recipe
from vista_train.merge import merge
from vista_train.train import train
from vista_train.training import checkpoint
from vista_train.training.pieces import MASTER, Pieces

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("launches")]
SCRIPT = Path(__file__).with_name("engine_ranks.py")
TOLERANCE = 1e-5
ENGINES = {
    "cpu_2": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "zero3_hpz": "ZeRO-3",
    "fsdp2": "FSDP2",
}
CASES = [pytest.param(name, marks=pytest.mark.slow) if name in ("zero1", "zero3_hpz") else name for name in ENGINES]
"""Two that differ little from those beside them are left to the long tests."""
ROUNDED = ("zero3_bf16", "fsdp2_bf16")
NOT_HERE = pytest.param(
    "zero3_offload", marks=pytest.mark.skip("DeepSpeed compiles its CPU optimizer for minutes; run it by hand")
)


def recipe_data(world: Path, folder: Path, output: str, **train: Any) -> dict[str, Any]:
    return {
        "output": str(folder / output),
        "seed": 3,
        "family": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2, "seed": 1,
                   "max_tokens": 800},
        "view": {"frames": 4, "width": 56, "height": 56, "min_pixels": 7},
        "data": {"root": str(world), "cache": str(folder / "cache")},
        "augment": {"temporal_needle": {}, "video_grid": {"rows": 2, "columns": 2}},
        "train": {"steps": 4, "batch_samples": 6, "max_row_tokens": 800, "workers": 0, "save_every": 2, "lr": 1e-3,
                  "clip_norm": 0.5, **train},
    }  # fmt: skip


@dataclass(frozen=True)
class Launches:
    """The folder of one process's run, and what each engine's launch gave."""

    world: Path
    folder: Path

    def of(self, engine: str) -> dict[str, Any]:
        """The cases of an engine, launched when they are first asked for."""
        out, begun = self.folder / f"{engine}.json", self.folder / f"{engine}.begun"
        if not out.exists():
            # What failed once is told once: a second launch would trip over what the first has left.
            assert not begun.exists(), f"the launch of {engine} has failed before"
            begun.touch()
            runs = [self.recipe(engine), {**self.recipe(f"{engine}_again"), "cut_from": [str(self.folder / engine), 2]},
                    {**self.recipe(f"one_then_{engine}"), "cut_from": [str(self.folder / "one"), 2]}]  # fmt: skip
            adapted = {**self.recipe(f"{engine}_lora"), "seed": 4}
            adapted["train"] |= {"language": {"lora": {"r": 4, "dropout": 0.0}}, "vision": False}
            runs.append(adapted)
            if engine in ROUNDED:
                still = {**self.recipe(f"{engine}_still"), "cut_from": [str(self.folder / "one"), 2]}
                still["train"] |= {"lr": 1e-12, "weight_decay": 0.0}
                runs.append(still)
            asked = self.folder / f"{engine}_asked.json"
            asked.write_text(json.dumps({"cases": engine not in ROUNDED, "recipes": runs, "out": str(out)}))
            on_cpu = {"ACCELERATE_USE_CPU": "1"} if engine == "cpu_2" else {}
            options = ["--mixed_precision", "bf16" if engine in ROUNDED else "no"]
            launch(command(SCRIPT, asked, config=self.config(engine), options=options), environment(**on_cpu))
        return json.loads(out.read_text())

    def config(self, engine: str) -> str:
        """The accelerate YAML of an engine, made for two processes."""
        if engine != "zero3_hpz":
            return f"ds_configs/{engine.removesuffix('_bf16')}.yaml"
        settings = json.loads((REPO / "ds_configs" / "zero3_hpz.json").read_text())
        settings["zero_optimization"]["zero_hpz_partition_size"] = 2
        (self.folder / "hpz.json").write_text(json.dumps(settings))
        yaml = (REPO / "ds_configs" / "zero3_hpz.yaml").read_text()
        (self.folder / "hpz.yaml").write_text(yaml.replace("ds_configs/zero3_hpz.json", str(self.folder / "hpz.json")))
        return str(self.folder / "hpz.yaml")

    def recipe(self, output: str) -> dict[str, Any]:
        return recipe_data(self.world, self.folder, output)

    def log(self, output: str) -> list[tuple[float, float]]:
        lines = (self.folder / output / "log.jsonl").read_text().splitlines()
        return [(entry["loss"], entry["grad_norm"]) for entry in map(json.loads, lines)]

    def weights(self, output: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / output / "step-000004" / "model.safetensors")


@pytest.fixture(scope="module")
def launches(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Launches:
    made = Launches(world, tmp_path_factory.mktemp("engines"))
    train(parse_recipe(made.recipe("one")))
    return made


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return {
        "micro_1": trajectory(1),
        "micro_3": trajectory(3),
        "frozen": trajectory(1, vision=False),
        "lora": trajectory(1, vision=False, language=ADAPTED),
    }


PLAIN = {"spared": "micro_1", "spared_lora": "lora"}
"""What is spared in these cases changes nothing: their steps are those of another."""


def assert_close(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for (loss, norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
        assert norm == pytest.approx(expected_norm, rel=TOLERANCE)


@pytest.mark.parametrize("case", ["micro_1", "micro_3", "frozen", "lora", "spared", "spared_lora"])
@pytest.mark.parametrize("engine", [*CASES, NOT_HERE])
def test_every_engine_takes_the_step_that_one_process_takes(
    launches: Launches, alone: dict[str, Any], engine: str, case: str
) -> None:
    found = launches.of(engine)[case]
    assert found["engine"] == ENGINES[engine]
    assert_close(found["steps"], alone[PLAIN.get(case, case)]["steps"])
    # Clipping was at work, and the step without labels did nothing.
    assert min(norm for _, norm in found["steps"] if norm) > 1.0
    assert found["steps"][UNLABELLED] == [0.0, 0.0]


@pytest.mark.parametrize("engine", CASES)
def test_every_engine_resumes_bit_by_bit(launches: Launches, engine: str) -> None:
    launches.of(engine)
    assert launches.log(f"{engine}_again") == launches.log(engine)
    first, again = launches.weights(engine), launches.weights(f"{engine}_again")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert_close(launches.log(engine), launches.log("one"))


@pytest.mark.parametrize("engine", CASES)
def test_every_engine_goes_on_from_another_and_another_from_it(launches: Launches, engine: str) -> None:
    """In a world of another size, too: one process's run goes on in two, and theirs in one."""
    launches.of(engine)
    assert_close(launches.log(f"one_then_{engine}"), launches.log("one"))
    cut_back(launches.folder / engine, launches.folder / f"{engine}_then_one", 2)
    train(parse_recipe(launches.recipe(f"{engine}_then_one")))
    assert_close(launches.log(f"{engine}_then_one"), launches.log("one"))
    states = [
        checkpoint.read_state(launches.folder / name / "step-000004").world_size
        for name in (engine, f"{engine}_then_one", f"one_then_{engine}")
    ]
    assert states == [2, 1, 2]


@pytest.mark.parametrize("engine", CASES)
def test_every_engine_s_adapters_go_on_in_one_process(launches: Launches, engine: str) -> None:
    launches.of(engine)
    recipes = json.loads((launches.folder / f"{engine}_asked.json").read_text())["recipes"]
    recipe = next(entry for entry in recipes if entry["output"].endswith("_lora"))
    cut_back(launches.folder / f"{engine}_lora", launches.folder / f"{engine}_lora_then_one", 2)
    train(parse_recipe({**recipe, "output": str(launches.folder / f"{engine}_lora_then_one")}))
    assert_close(launches.log(f"{engine}_lora_then_one"), launches.log(f"{engine}_lora"))


@pytest.mark.parametrize("engine", [ROUNDED[0], pytest.param(ROUNDED[1], marks=pytest.mark.slow)])
def test_in_bf16_losses_are_summed_in_fp32_and_runs_resumed_bit_by_bit(launches: Launches, engine: str) -> None:
    launches.of(engine)
    assert launches.log(f"{engine}_again") == launches.log(engine)
    (loss, norm), (exact_loss, exact_norm) = launches.log(engine)[0], launches.log("one")[0]
    # A sum of some 700 rounded to bf16 would be off by up to 2.
    assert loss == pytest.approx(exact_loss, rel=1e-4)
    assert norm == pytest.approx(exact_norm, rel=1e-2)


def test_exact_weights_that_others_saved_are_not_rounded(launches: Launches) -> None:
    """The model computes in bf16, but what is updated is what one process had in fp32; here, by nothing."""
    launches.of("zero3_bf16")
    before = load_file(launches.folder / "one" / "step-000002" / "model.safetensors")
    exact = Pieces(launches.folder / "zero3_bf16_still" / "step-000004" / "training")
    for name in exact.names():
        weight = exact.find(MASTER, name, 0, before[name].numel())
        torch.testing.assert_close(weight, before[name].flatten(), rtol=0, atol=1e-8)


def test_rounded_weights_are_exported_exactly(launches: Launches) -> None:
    launches.of("zero3_bf16")
    folder = launches.folder / "zero3_bf16" / "step-000004"
    exact = Pieces(folder / "training")
    rounded = launches.weights("zero3_bf16")
    merge(folder, launches.folder / "exported", dtype="float32")
    exported = load_file(launches.folder / "exported" / "model.safetensors")
    assert {tensor.dtype for tensor in rounded.values()} == {torch.bfloat16}
    assert len(exact.names()) > 40
    for name in exact.names():
        weight = exact.find(MASTER, name, 0, exported[name].numel())
        assert torch.equal(exported[name].flatten(), weight)
        assert torch.equal(rounded[name].flatten(), weight.bfloat16())


@pytest.mark.parametrize("engine", CASES)
def test_every_rank_writes_its_share_and_no_more(launches: Launches, engine: str) -> None:
    launches.of(engine)
    files = sorted((launches.folder / engine / "step-000004" / "training").glob("optimizer-*"))
    sizes = [sum(tensor.numel() for tensor in load_file(path).values()) for path in files]
    assert len(sizes) == 2
    assert sum(sizes) == 2 * sum(tensor.numel() for tensor in trained_tensors(launches, engine))
    assert max(sizes) < 0.52 * sum(sizes)


def trained_tensors(launches: Launches, engine: str) -> list[torch.Tensor]:
    """All weights but those that no gradient reaches: what lies behind the second last vision layer."""
    behind = ("vision_tower.post_layernorm", "vision_tower.encoder.layers.2")
    return [tensor for name, tensor in launches.weights(engine).items() if not any(part in name for part in behind)]
