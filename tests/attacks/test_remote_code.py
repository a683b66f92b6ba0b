"""Checkpoint folders whose files name code: beside them, on the Hub, or in a template. None of it is run or fetched."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from jinja2 import Environment
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from vista_train import train
from vista_train.models import load_family
from vista_train.types import Message, Sample
from vista_train.video.sampling import View

EVIL = """
import os
os.mkdir({marker!r})
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class Config(PretrainedConfig):
    model_type = "evil"
class Model(PreTrainedModel):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
KERNEL = "somebody/evil-attention"
KERNEL_KEYS = (
    "_attn_implementation", "_attn_implementation_internal", "attn_implementation", "_experts_implementation",
    "_experts_implementation_internal", "use_kernels", "kernel_config",
)  # fmt: skip
MAP = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForImageTextToText": "evil.Model"}


def change(folder: Path, name: str, **keys: Any) -> None:
    """Lay keys over a JSON file's."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.fixture
def evil(hub: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint folder with a module that makes the marker, and is named by its configurations."""
    modules = tmp_path / "modules"
    modules.mkdir()
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (hub / "evil.py").write_text(EVIL.format(marker=str(marker)))
    change(hub, "config.json", auto_map=MAP, trust_remote_code=True)
    change(hub, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Tokenizer"]}, trust_remote_code=True)
    return hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whom anybody has tried to reach; nobody is reached."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


def test_a_module_in_the_folder_would_run(evil: Path, marker: Path) -> None:
    change(evil, "config.json", model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        transformers.AutoConfig.from_pretrained(evil, trust_remote_code=False)
    assert not marker.exists()
    transformers.AutoConfig.from_pretrained(evil, trust_remote_code=True)
    assert marker.exists()


def test_a_module_in_the_folder_does_not_run(
    evil: Path, marker: Path, load_hub: Callable[..., Any], no_network: list[Any], tmp_path: Path
) -> None:
    family = load_hub()
    model = family.load()
    assert type(model).__module__.startswith("transformers.models.")
    assert type(family.tokenizer).__module__.startswith("transformers.")
    family.save(model, tmp_path / "saved")
    assert not marker.exists()
    assert not (tmp_path / "saved" / "evil.py").exists()
    assert no_network == []


@pytest.mark.parametrize(
    "reference", ["evil.Config", "somebody/evil--evil.Config", "../outside/evil.Config", "os.system"]
)
def test_a_model_of_a_kind_that_nobody_knows_is_refused(
    evil: Path,
    marker: Path,
    write_recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture,
    no_network: list[Any],
    reference: str,
) -> None:
    change(evil, "config.json", model_type="evil", auto_map={"AutoConfig": reference})
    family = {"name": "llava_onevision", "path": str(evil)}
    recipe = write_recipe(f"family: {json.dumps(family)}\nview: {{width: 70, height: 70}}\n")
    assert train.main([str(recipe)]) == 2
    assert "holds a 'evil', not a 'llava_onevision'" in capsys.readouterr().err
    assert not marker.exists()
    assert no_network == []


@pytest.mark.parametrize("part", ["text_config", "vision_config"])
def test_a_part_of_a_kind_that_nobody_knows_is_refused(
    evil: Path, marker: Path, load_hub: Callable[..., Any], no_network: list[Any], part: str
) -> None:
    inner = json.loads((evil / "config.json").read_text())[part]
    change(evil, "config.json", **{part: inner | {"model_type": "evil", "auto_map": MAP, "trust_remote_code": True}})
    with pytest.raises(ValueError, match=r"config\.json"):
        load_hub()
    assert not marker.exists()
    assert no_network == []


@pytest.mark.parametrize("key", KERNEL_KEYS)
def test_a_kernel_that_a_configuration_names_is_not_fetched(
    hub: Path, load_hub: Callable[..., Any], no_network: list[Any], key: str
) -> None:
    config = json.loads((hub / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part[key] = KERNEL
    (hub / "config.json").write_text(json.dumps(config))
    before = set(sys.modules)
    # It may be refused, too.
    with suppress(ValueError):
        model = load_hub().load()
        for part in (model.config, model.config.text_config, model.config.vision_config):
            assert part._attn_implementation in ("eager", "sdpa", "sdpa_by_sample")
    assert no_network == []
    assert "kernels" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "weights",
    ["../outside/model.safetensors", "/etc/hostname", "pytorch_model.bin", "somebody/evil:model.safetensors"],
)
def test_weights_that_a_configuration_names_elsewhere_are_not_read(
    hub: Path, load_hub: Callable[..., Any], tmp_path: Path, no_network: list[Any], weights: str
) -> None:
    (tmp_path / "outside").mkdir()
    (hub / "model.safetensors").rename(tmp_path / "outside" / "model.safetensors")
    torch.save({}, hub / "pytorch_model.bin")
    change(hub, "config.json", transformers_weights=weights)
    with pytest.raises(ValueError, match=r"cannot be read|config seems to be incorrect|transformers_weights"):
        load_hub().load()
    assert no_network == []


def test_an_index_that_a_configuration_names_leads_nowhere(
    hub: Path, load_hub: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    names = list(load_file(hub / "model.safetensors"))
    (hub / "model.safetensors").rename(tmp_path / "outside" / "model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "../outside/model.safetensors")}
    (hub / "other.safetensors.index.json").write_text(json.dumps(index))
    change(hub, "config.json", transformers_weights="other.safetensors.index.json")
    with pytest.raises(ValueError, match=r"transformers_weights|no file in the folder|cannot be read"):
        load_hub().load()


@pytest.mark.parametrize(
    "name", ["tokenizer_file", "vocab_file", "merges_file", "added_tokens_file", "chat_template_file"]
)
def test_a_file_elsewhere_that_a_tokenizer_names_is_not_read(
    hub: Path, load_hub: Callable[..., Any], canary: Any, kit: SimpleNamespace, name: str
) -> None:
    change(hub, "tokenizer_config.json", **{name: str(canary.text)})
    family = load_hub()
    assert kit.SECRET not in str(family.tokenizer.get_vocab())
    assert not canary.was_opened()


@pytest.mark.parametrize(
    "expression",
    [
        "cycler.__init__.__globals__.os.mkdir({marker!r})",
        "self.__init__.__globals__.__builtins__.__import__('os').mkdir({marker!r})",
        "''.__class__.__mro__[1].__subclasses__()",
        "messages.__class__.__base__.__subclasses__()",
        "raise_exception.__globals__['os'].mkdir({marker!r})",
    ],
)
def test_a_template_reaches_no_python(
    hub: Path, load_hub: Callable[..., Any], marker: Path, canary: Any, expression: str
) -> None:
    text = "{{ " + expression.format(marker=str(marker)) + " }}"
    (hub / "chat_template.jinja").write_text(text)
    with pytest.warns(UserWarning, match="cannot be trained on"):
        family = load_hub()
    # The family's own stands in.
    sample = Sample(None, (Message("user", "?"), Message("assistant", "!")), (), "plain")
    assert family.codec.plan(sample).tokens > 0
    assert not marker.exists()


def test_this_template_would_reach_python(marker: Path) -> None:
    Environment().from_string("{{ cycler.__init__.__globals__.os.mkdir(" + repr(str(marker)) + ") }}").render()
    assert marker.exists()


@pytest.mark.parametrize("path", ["somebody/evil", "https://example.com/model", "hf://somebody/evil", "../outside"])
def test_a_checkpoint_that_is_no_folder_is_not_looked_for_elsewhere(path: str, no_network: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"family\.path"):
        load_family("llava_onevision", {"path": path}, View(frames=4, width=70, height=70))
    assert no_network == []


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "preprocessor_config.json", "generation_config.json", "tokenizer_config.json"),
    ],
)
def test_a_configuration_nested_without_end_is_refused(hub: Path, load_hub: Callable[..., Any], name: str) -> None:
    (hub / name).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ValueError, match=name.replace(".", r"\.") + "|no tokenizer that can be read"):
        load_hub()
