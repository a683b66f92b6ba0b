"""Checkpoint folders as the Hub lays them out: read offline, every tensor accounted for, and written whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

OFFLINE = {"trust_remote_code": False, "local_files_only": True}
"""Nothing in a checkpoint's folder is run, and nothing it names is fetched."""
PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
TEMPLATE_FILES = ("chat_template.json", "processor_config.json")
"""Where a processor keeps a chat template that the tokenizer does not."""
GENERATION_FILE = "generation_config.json"
ADAPTER_FILE = "adapter_config.json"
SHARD_SIZE = "5GB"
FAULTS = {"missing_keys": "missing", "unexpected_keys": "left over", "mismatched_keys": "of another shape"}
"""What transformers calls what is wrong with a checkpoint's tensors, in words."""


@dataclass(frozen=True)
class HubSettings:
    """A checkpoint of the family, and how long its samples may be."""

    path: str | None = None
    """The folder of the checkpoint, as the Hub lays it out; what is in it is read, never run."""
    max_tokens: int = 16_384
    """Tokens per sample, at most; frames are dropped until a sample fits."""
    chat_template: str | None = None
    """A file with a chat template (jinja), in place of the checkpoint's own."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"family.max_tokens is {self.max_tokens}; it must be at least 1")


@dataclass(frozen=True)
class PixelScale:
    """How bytes become what a vision tower takes: each channel in 0..1, less its mean, over its deviation."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if len(numbers) != 6 or not all(isinstance(number, (int, float)) for number in numbers) or min(self.std) <= 0:
            raise ValueError(
                f"image_mean is {list(self.mean)}, image_std {list(self.std)}; they must be three numbers each, and "
                f"deviations above 0"
            )

    def __call__(self, frames_TCHW: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """uint8 frames scaled on their own device, rounded to `dtype` only at the end."""
        mean, std = (
            frames_TCHW.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std)
        )
        return ((frames_TCHW.float() / 255 - mean) / std).to(dtype)


CLIP_SCALE = PixelScale((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF_SCALE = PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET_SCALE = PixelScale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def checkpoint_folder(path: str | None, name: str) -> Path:
    """The folder that a recipe names; `ValueError` says how to get one."""
    if path is None:
        raise ValueError(
            f"family.path is missing; it must be the folder of a {name} checkpoint, such as `hf download` makes"
        )
    folder = Path(path)
    if (folder / ADAPTER_FILE).exists():
        raise ValueError(f"family.path {path!r} holds an adapter; `vista-train merge` makes a whole checkpoint of it")
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"family.path is {path!r}; it must be a folder with a config.json, such as `hf download` makes"
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; empty where the file is not there."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(data).__name__}")
    return data


def read_config(folder: Path, config_types: Sequence[type[PreTrainedConfig]]) -> PreTrainedConfig:
    """The configuration of a checkpoint of one of these types."""
    found = str(read_json(folder / "config.json").get("model_type"))
    known = [kind.model_type for kind in config_types]
    if found not in known:
        raise ValueError(f"family.path {str(folder)!r} holds a {found!r}, not a {' or '.join(map(repr, known))}")
    if read_json(folder / "config.json").get("transformers_weights") is not None:
        raise ValueError(f"{folder / 'config.json'} has transformers_weights; weights are read from model*.safetensors")
    try:
        config = AutoConfig.from_pretrained(folder, **OFFLINE)
    except (OSError, ValueError, TypeError, RecursionError, StrictDataclassError) as error:
        raise ValueError(f"{folder / 'config.json'} cannot be read: {_line(error)}") from error
    choose_kernels(config, "eager")
    return config


def choose_kernels(config: PreTrainedConfig, kernel: str) -> None:
    """Set the attention of a model and its parts: a checkpoint may name a kernel to fetch and run."""
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        part._attn_implementation = kernel


def read_tokenizer(
    folder: Path, config: PreTrainedConfig, template_file: str | None, default_template: str
) -> PreTrainedTokenizerBase:
    """The tokenizer with the chat template that a file names, else its own, else the processor's, else the default."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **OFFLINE)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"family.path {str(folder)!r} holds no tokenizer that can be read: {_line(error)}") from error
    if template_file is not None:
        if not Path(template_file).is_file():
            raise ValueError(f"family.chat_template is {template_file!r}; it must be a file")
        tokenizer.chat_template = Path(template_file).read_text(encoding="utf-8")
    elif not tokenizer.chat_template:
        theirs = [read_json(folder / name).get("chat_template") for name in TEMPLATE_FILES]
        tokenizer.chat_template = next(filter(None, theirs), default_template)
    return tokenizer


def read_scale(folder: Path, default: PixelScale) -> PixelScale:
    """Means and deviations of the checkpoint's own preprocessing; the family's where it names none."""
    for name in PROCESSOR_FILES:
        said = read_json(folder / name)
        inside = said.get("image_processor") or said.get("video_processor")
        said = inside if isinstance(inside, dict) else said
        mean, std = said.get("image_mean"), said.get("image_std")
        if isinstance(mean, list) and isinstance(std, list):
            try:
                return PixelScale(tuple(mean), tuple(std))
            except ValueError as error:
                raise ValueError(f"{folder / name}: {error}") from error
    return default


def load_weights(
    model_type: type[PreTrainedModel],
    folder: Path,
    config: PreTrainedConfig,
    options: Mapping[str, Any],
    key_mapping: Mapping[str, str] | None = None,
) -> PreTrainedModel:
    """The model with its weights. `ValueError` names every tensor that is missing, left over or of another shape."""
    # What it generates by is the checkpoint's own file, which is kept as it is: transformers would refuse to save much
    # that it reads.
    options = {**options, "generation_config": GenerationConfig.from_model_config(config)}
    files = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    for name in files.values() if isinstance(files, dict) else [files]:
        # What does not end so would be given to torch.load, whatever `use_safetensors` says.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{folder / 'model.safetensors.index.json'} names {name!r}, which is no file in the folder, or no "
                f"safetensors"
            )
    try:
        model, report = model_type.from_pretrained(
            folder,
            config=copy.deepcopy(config),
            key_mapping=key_mapping,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **OFFLINE,
            **options,
        )
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"the weights in {str(folder)!r} cannot be read ({_line(error)}); download them again"
        ) from error
    faults = {key: sorted(map(_fault, names)) for key, names in report.items() if names}
    if faults:
        told = "; ".join(f"{FAULTS.get(key, key)}: {some(names)}" for key, names in faults.items())
        raise ValueError(f"the weights in {str(folder)!r} do not fit the model: {told}")
    return model


def _fault(name: Any) -> str:
    """A tensor's name; for one of another shape, which it has and which the model needs."""
    if isinstance(name, tuple):
        return f"{name[0]} ({list(name[1])}, not {list(name[2])})"
    return str(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def read_kept(folder: Path) -> dict[str, bytes]:
    """How a checkpoint prepares frames and generates: files that nothing here changes, and every save writes again."""
    present = [name for name in (*PROCESSOR_FILES, GENERATION_FILE) if (folder / name).is_file()]
    for name in present:
        read_json(folder / name)
    return {name: (folder / name).read_bytes() for name in present}


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    kept: Mapping[str, bytes],
    state: Mapping[str, torch.Tensor] | None,
    native: bool,
) -> None:
    """Write a whole checkpoint: sharded safetensors, configs, tokenizer, and the files that are kept.

    `native` keeps the model's own names for its tensors; else they are written as on the Hub.
    """
    weights = None if state is None else dict(state)
    model.save_pretrained(folder, state_dict=weights, save_original_format=not native, max_shard_size=SHARD_SIZE)
    config = copy.deepcopy(model.config)
    config.use_cache = config.get_text_config().use_cache = True
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_kept(kept, folder)


def write_kept(kept: Mapping[str, bytes], folder: Path) -> None:
    """Write what `read_kept` read."""
    for name, content in kept.items():
        (folder / name).write_bytes(content)
