"""What scripts/bench/gpu.py measures, one phase a process; it is told what by JSON on the command line.

Models have random weights that are made on the device itself; nothing but configuration and tokenizer is written.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vista_train.config import Recipe, parse_recipe
from vista_train.data.collate import PackedCollator
from vista_train.models.attention import describe_attention, packing_kwargs
from vista_train.models.base import FAMILIES, load_family, register_family
from vista_train.models.longva import LongVA
from vista_train.models.memory import decoder_layers
from vista_train.train import train
from vista_train.training.loop import Trainer as PackedTrainer
from vista_train.types import Encoded

SCRIPTS = Path(__file__).parents[1]
RANDOM = "longva_random"
LORA = {"vision": False, "projector": False, "language": {"lora": {"r": 64, "dropout": 0.0}}}
WARM_UP = 2
"""Steps that are left out: kernels are chosen and memory is found in them."""


def random_family() -> None:
    """Register LongVA with random weights; what does not train is held in bf16 on a GPU, as a half engine would."""
    if RANDOM in FAMILIES:
        return

    @register_family(RANDOM)
    class RandomLongVA(LongVA):
        """Weights from nowhere."""

        whole = True
        """Whether all parts train, whose weights are then exact."""

        def weights(self, options: Mapping[str, Any]) -> Any:
            on_gpu = torch.cuda.is_available()
            dtype = torch.bfloat16 if on_gpu and not self.whole else torch.float32
            with torch.device("cuda" if on_gpu else "cpu"):
                return AutoModelForImageTextToText.from_config(
                    copy.deepcopy(self.config), **{**options, "dtype": dtype}
                )


def skeleton(kind: str, folder: Path) -> int:
    """Write all of a checkpoint but its weights; the side of its frames in pixels."""
    made = make_checkpoint()
    with torch.device("meta"):
        built = made.BUILDERS[kind]()
    folder.mkdir(parents=True, exist_ok=True)
    built.model.config.save_pretrained(folder)
    built.tokenizer.save_pretrained(folder)
    return int(built.side)


def recipe_of(asked: Mapping[str, Any], **train_settings: Any) -> Recipe:
    """A run over composed videos in rows of the size that is asked for."""
    random_family()
    FAMILIES[RANDOM].whole = asked["tuning"] == "full"  # type: ignore[attr-defined]
    out = Path(asked["out"])
    side = skeleton(asked["kind"], out / asked["kind"])
    tokens = asked["row_tokens"]
    return parse_recipe(
        {
            "output": str(out / f"run_{asked['phase']}_{tokens}_{time.time_ns()}"),
            "family": {"name": RANDOM, "path": str(out / asked["kind"]), "max_tokens": tokens},
            "view": {"frames": asked["frames"], "width": side, "height": side, "min_pixels": min(14, side // 8)},
            "data": {"root": str(asked["root"]), "cache": str(out / "cache")},
            "augment": {
                "long_video_caption": {"same_source": False, "max_clips": 4},
                "temporal_needle": {},
                "spatio_temporal_needle": {},
                "video_grid": {"rows": 2, "columns": 2},
            },
            "train": {
                "steps": asked["steps"], "batch_samples": asked["batch"], "max_row_tokens": tokens, "lr": 1e-5,
                "workers": asked["workers"], "save_every": 1_000_000, "max_failed_share": 0.5,
                "gradient_checkpointing": True, **(LORA if asked["tuning"] == "lora" else {}), **train_settings,
            },
        }
    )  # fmt: skip


def ours(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Packed rows through the whole loop, data and all."""
    trainer = train(recipe_of(asked))
    lines = [json.loads(line) for line in (trainer.output / "log.jsonl").read_text().splitlines()]
    kept = lines[WARM_UP:] or lines
    shares = [line["mfu"] for line in kept if line["mfu"] is not None]
    dataset, plan = trainer.dataset, trainer.family.codec.compute
    assert dataset is not None
    patches = trainer.family.count(trainer.family.codec.dummy().frames_TCHW)[1]  # type: ignore[attr-defined]
    plans = [dataset.plan(position) for position in range(asked["batch"] * asked["steps"])]
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "attention": describe_attention(trainer.family.text_config(trainer.model)._attn_implementation),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in kept),
        "seconds_per_step": statistics.median(line["seconds"] for line in kept),
        "rows_per_step": statistics.median(line["rows"] for line in kept),
        "data_wait": statistics.median(line["data_wait"] for line in kept),
        "tflops": statistics.median(line["tflops"] for line in kept),
        "mfu": statistics.median(shares) if shares else None,
        "peak_memory_gib": peak_memory(),
        "loss": [lines[0]["loss"], lines[-1]["loss"]],
        "compute": {name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "samples": [(each.tokens, each.labels, each.patches // patches, patches) for each in plans],
    }


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def beside(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The same model and samples as the published recipe drives them: transformers' Trainer, one unpacked sample at a
    time, pixels scaled by the loader, all logits at once, transformers' gradient checkpointing."""
    recipe = recipe_of(asked)
    family = recipe.make_family()
    dataset = recipe.make_dataset(family.codec)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = family.load(device)  # type: ignore[call-arg]
    if asked["tuning"] == "lora":
        from vista_train.models.adapters import LoraSettings, adapt
        from vista_train.training.optimizer import trainable_groups

        adapt(model, family, {"language": LoraSettings(r=64, dropout=0.0)})
        trainable_groups(family.parts(model), recipe.make_optimizer())

    def collate(samples: list[Encoded]) -> dict[str, torch.Tensor]:
        (sample,) = samples
        batch = {"input_ids": sample.input_ids[None], "labels": sample.labels[None]}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        return {**batch, "pixel_values": family.scale(sample.frames_TCHW, torch.float32)}  # type: ignore[attr-defined]

    clock = Clock()
    arguments = TrainingArguments(
        output_dir=str(Path(asked["out"]) / "beside"), max_steps=asked["steps"], per_device_train_batch_size=1,
        gradient_accumulation_steps=asked["batch"], learning_rate=1e-5, bf16=device == "cuda", use_cpu=device == "cpu",
        gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=asked["workers"], train_sampling_strategy="sequential", remove_unused_columns=False,
        save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=dataset, callbacks=[clock])
    trainer.train()
    batch = asked["batch"]
    tokens = [sum(dataset.plan(p).tokens for p in range(s * batch, (s + 1) * batch)) for s in range(asked["steps"])]
    seconds = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    rates = [count / second for count, second in zip(tokens[1:], seconds, strict=True)]
    return {
        "tokens_per_second": statistics.median(rates[WARM_UP - 1 :] or rates),
        "seconds_per_step": statistics.median(seconds[WARM_UP - 1 :] or seconds),
        "peak_memory_gib": peak_memory(),
    }


def fits(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a step of one row with one video of so many frames fits into memory, by adapters."""
    spared: dict[str, Any] = {}
    if asked["spared"]:
        spared = {"gradient_checkpointing": {"language": "offload"}, "tiled_mlp": "auto"}
    recipe = recipe_of({**asked, "row_tokens": 1 << 24, "batch": 1, "steps": 1, "frames": 1}, **spared)
    family = recipe.make_family()
    trainer = PackedTrainer(family, loop=recipe.make_loop(), optimizer=recipe.make_optimizer())
    sample = video_of(family, asked["frames"])
    row = PackedCollator()([sample])
    try:
        began = time.perf_counter()
        trainer.step([row])
        result = {"fits": True, "seconds": time.perf_counter() - began}
    except torch.OutOfMemoryError as error:
        result = {"fits": False, "error": str(error).splitlines()[0]}
    return {**result, "tokens": row.num_tokens, "peak_memory_gib": peak_memory()}


def video_of(family: Any, frames: int) -> Encoded:
    """A sample of one video of noise with so many frames, and a short answer."""
    from vista_train.types import Message, Sample
    from vista_train.video.composition import Clip
    from vista_train.video.sampling import View

    view = family.codec.view
    longer = load_family(family.name, family.settings, View(frames=frames, width=view.width, height=view.height))
    noise = torch.randint(256, (1, 3, view.height, view.width), dtype=torch.uint8)
    frames_TCHW = noise.expand(frames, -1, -1, -1).contiguous()
    words = (Message("user", "What is it?"), Message("assistant", "word " * 64))
    sample = Sample(Clip.from_frames(frames_TCHW, 1), words, (), "made")
    return longer.codec.encode(sample, longer.codec.plan(sample), frames_TCHW)


def rates(asked: Mapping[str, Any]) -> dict[str, Any]:
    """TFLOPs a second of this device alone: products as wide as the decoder's MLP, and its attention over one sample.

    Attention is told forwards, and forwards and backwards, at each of the lengths asked for.
    """
    random_family()
    FAMILIES[RANDOM].whole = False  # type: ignore[attr-defined]
    recipe = recipe_of({**asked, "row_tokens": 1 << 24, "batch": 1, "steps": 1, "frames": 1, "tuning": "lora"})
    family = recipe.make_family()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = family.load(device.type)
    text = family.text_config(model)
    tokens = 8192 if device.type == "cuda" else 256
    left = torch.randn(tokens, text.hidden_size, device=device, dtype=dtype)
    right = torch.randn(text.hidden_size, text.intermediate_size, device=device, dtype=dtype)
    products = 2 * tokens * text.hidden_size * text.intermediate_size / timed(lambda: left @ right)
    layer = decoder_layers(model, family.part_of)[0].get_submodule("self_attn")  # type: ignore[attr-defined]
    lengths = sorted(asked["lengths"])
    attention = {}
    for length in lengths:
        forward, both = attention_seconds(layer, text, length, device, dtype)
        heads = text.num_attention_heads * (text.hidden_size // text.num_attention_heads)
        one = 2 * heads * length**2
        attention[str(length)] = {"forward": one / forward / 1e12, "both": 3 * one / both / 1e12}
    return {"matmul_tflops": products / 1e12, "attention_tflops": attention}


def attention_seconds(
    layer: nn.Module, text: Any, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Seconds of a layer's attention over one sample: forwards, and forwards and backwards."""
    kernel = ALL_ATTENTION_FUNCTIONS[text._attn_implementation]
    width = text.hidden_size // text.num_attention_heads
    shapes = [text.num_attention_heads, text.num_key_value_heads, text.num_key_value_heads]
    tensors = [torch.randn(1, n, length, width, device=device, dtype=dtype, requires_grad=True) for n in shapes]
    told = packing_kwargs([length], device)

    def forward() -> torch.Tensor:
        return kernel(layer, *tensors, None, scaling=width**-0.5, is_causal=True, **told)[0]

    def both() -> None:
        forward().sum().backward()

    with torch.no_grad():
        alone = timed(forward)
    return alone, timed(both)


def timed(run: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of a run, the median of some after one that warms up."""
    found = []
    for _ in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def peak_memory() -> float | None:
    """GiB that the allocator held at most; None without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def make_checkpoint() -> ModuleType:
    """`make_checkpoint.py` as a module; scripts are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", SCRIPTS / "make_checkpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module
    spec.loader.exec_module(module)
    return module


PHASES = {"ours": ours, "beside": beside, "fits": fits, "rates": rates}


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    print(json.dumps(PHASES[told["phase"]](told)), flush=True)
