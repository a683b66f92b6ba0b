"""Checkpoint folders of every family: what does not belong is refused, and nothing in them is run or fetched."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vista_train.models import hub, load_family
from vista_train.models.hub import PixelScale, read_tokenizer
from vista_train.models.smolvlm import spoken
from vista_train.video.composition import Clip

SHOWN = (Clip("video.mp4", 0, 10, 320, 240), Clip("picture.png", 0, 1, 300, 300, 1), None)


@pytest.fixture
def folder(rig: Any, tmp_path: Path) -> Path:
    """A copy of the checkpoint to be spoilt."""
    return Path(shutil.copytree(rig.folder, tmp_path / "checkpoint"))


def again(rig: Any, folder: Path, **settings: Any) -> Any:
    return load_family(rig.family.name, {"path": str(folder), **settings}, rig.family.view)


def test_a_lost_tensor_is_told(rig: Any, folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if "mlp" in name and "vision" not in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, folder / "model.safetensors")
    ending = re.escape(".".join(lost.split(".")[-4:]))
    with pytest.raises(ValueError, match=f"do not fit the model: missing: .*{ending}"):
        again(rig, folder).load()


def test_a_checkpoint_without_settings_to_generate_by_is_read(rig: Any, folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    weights, found = rig.model.state_dict(), again(rig, folder).load().state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("config.json", "[]", "must hold a JSON object, not a list"),
        ("config.json", "{{{", "is no JSON"),
        ("preprocessor_config.json", '{"image_mean": [0, 0, 0], "image_std": [0, 1, 1]}', "deviations above 0"),
        ("preprocessor_config.json", '{"image_mean": [0, 0], "image_std": [1, 1, 1]}', "three numbers each"),
        ("model.safetensors", "garbage", "cannot be read"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../b.safetensors"}}', "is no file in the folder"),
        ("model.safetensors.index.json", '{"weight_map": []}', "is no file in the folder"),
        ("generation_config.json", "[]", "must hold a JSON object, not a list"),
        ("tokenizer.json", "{}", "holds no tokenizer that can be read"),
    ],
)
def test_broken_files_are_told_in_a_sentence(rig: Any, folder: Path, name: str, text: str, words: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        again(rig, folder).load()


def test_folders_without_weights_or_tokenizer_are_told(rig: Any, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights in .* cannot be read"):
        again(rig, folder).load()
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer that can be read|has no token '"):
        again(rig, folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.9, "top_p": 0.6, "max_length": 64},
        {"do_sample": False, "temperature": 0.01},
        {"pad_token_id": -1, "length_penalty": 1.2},
    ],
)
def test_what_a_checkpoint_generates_by_is_kept_as_it_is(rig: Any, folder: Path, settings: dict[str, Any]) -> None:
    """Also what transformers reads and would not write."""
    (folder / "generation_config.json").write_text(json.dumps(settings))
    family = again(rig, folder)
    family.save(family.load(), folder / "again")
    assert json.loads((folder / "again" / "generation_config.json").read_text()) == settings


def test_processor_files_outlive_the_folder_they_came_from(rig: Any, folder: Path, tmp_path: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}')
    family = again(rig, folder)
    model = family.load()
    shutil.rmtree(folder)
    family.save(model, tmp_path / "saved")
    assert again(rig, tmp_path / "saved").scale == PixelScale((0.1, 0.2, 0.3), (1, 1, 1))


def test_tokens_that_a_tokenizer_lacks_or_has_elsewhere_are_told(rig: Any, folder: Path) -> None:
    if rig.kind == "longva":
        pytest.skip("LongVA's tokenizer is given its media token")
    config = json.loads((folder / "config.json").read_text())
    key = next(key for key in ("image_token_id", "image_token_index") if key in config)
    (folder / "config.json").write_text(json.dumps({**config, key: 3}))
    with pytest.raises(ValueError, match=r"says image_token_id 3; '.*' is \d+ in the tokenizer"):
        again(rig, folder)
    (folder / "config.json").write_text(json.dumps(config))
    token = rig.family.codec.chat.picture.replace("<|vision_start|>", "").replace("<|vision_end|>", "")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8").replace(token, "<other>")
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"has no token '{re.escape(token)}'"):
        again(rig, folder)


def ending(rig: Any) -> str:
    """What ends the last answer alone."""
    return rig.family.codec.chat.end


def test_a_template_that_ends_not_every_answer_gives_way_to_the_familys(rig: Any, folder: Path) -> None:
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}" + ending(rig)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.warns(UserWarning, match="cannot be trained on"):
        family = again(rig, folder)
    assert family.tokenizer.chat_template == type(family).chat_template
    with pytest.raises(ValueError, match=r"family\.chat_template: the chat template closes turn 1"):
        again(rig, folder, chat_template=str(folder / "chat_template.jinja"))


def test_weights_lie_in_shards(rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SHARD_SIZE", "100KB")
    rig.family.save(rig.model, tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in tmp_path.iterdir()
    }
    weights, found = rig.model.state_dict(), again(rig, tmp_path).load().state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_kernel_that_a_checkpoint_names_is_not_fetched(rig: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["attn_implementation"] = part["_attn_implementation"] = "somebody/kernel"
    (folder / "config.json").write_text(json.dumps(config))
    model = again(rig, folder).load()
    config = model.config
    assert (config._attn_implementation, config.vision_config._attn_implementation) == ("sdpa", "sdpa")
    assert config.get_text_config()._attn_implementation == "sdpa_by_sample"


def test_another_familys_checkpoint_is_refused(rig: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ValueError, match=f"holds a 'gpt2', not a .*'{config['model_type']}'"):
        again(rig, folder)


def test_a_folder_must_be_named_and_be_there(rig: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"family\.path is missing; it must be the folder of a .* checkpoint"):
        load_family(rig.family.name, {}, rig.family.view)
    with pytest.raises(ValueError, match=r"family\.path is 'nowhere'; it must be a folder with a config\.json"):
        again(rig, Path("nowhere"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter; `vista-train merge`"):
        again(rig, folder)
    with pytest.raises(ValueError, match=r"family\.max_tokens is 0"):
        again(rig, folder, max_tokens=0)


def test_a_template_of_ones_own(rig: Any, folder: Path) -> None:
    end = rig.family.codec.chat.end
    template = "{% for m in messages %}{{ m['role'] + '>' + m['content'] + '" + end + "' }}{% endfor %}"
    (folder / "mine.jinja").write_text(template)
    family = again(rig, folder, chat_template=str(folder / "mine.jinja"))
    sample = rig.sample(None)
    plan = family.codec.plan(sample)
    encoded = family.codec.encode(sample, plan, torch.zeros((0, 3, 0, 0), dtype=torch.uint8))
    said = family.tokenizer.decode(encoded.input_ids)
    assert said == f"user>What is it?{end}assistant>A cat.{end}user>And now?{end}assistant>A dog runs.{end}"
    with pytest.raises(ValueError, match=r"family\.chat_template is 'no\.jinja'"):
        again(rig, folder, chat_template="no.jinja")


def test_a_checkpoint_without_a_template_has_the_familys(rig: Any, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    family = again(rig, folder)
    assert family.tokenizer.chat_template == type(family).chat_template
    for clip in SHOWN:
        sample = rig.sample(clip)
        plan = family.codec.plan(sample)
        out = family.codec.encode(sample, plan, rig.frames(clip, len(plan.times)))
        assert (len(out.input_ids), out.num_labels) == (plan.tokens, plan.labels)
        assert "What is it?" in family.tokenizer.decode(out.input_ids)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 'theirs' }}"}))
    assert read_tokenizer(folder, rig.family.config, None, "default").chat_template == "{{ 'theirs' }}"


def test_pixels_are_scaled_as_the_checkpoint_says(rig: Any, folder: Path) -> None:
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    scale = again(rig, folder).scale
    assert scale == PixelScale((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    pixels = scale(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), torch.float32)
    assert pixels.flatten().tolist() == pytest.approx([1.8, 3.2, 5.6])
    assert scale(torch.zeros((1, 3, 1, 1), dtype=torch.uint8), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "one"), (13, "thirteen"), (20, "twenty"), (64, "sixty-four"), (100, "one hundred"),
     (101, "one hundred and one"), (256, "two hundred and fifty-six"), (1000, "one thousand"),
     (1024, "one thousand and twenty-four"),
     (2345, "two thousand, three hundred and forty-five")],
)  # fmt: skip
def test_numbers_are_spoken(number: int, words: str) -> None:
    assert spoken(number) == words


@pytest.mark.parametrize("kind", ["smolvlm", "internvl"])
def test_a_marker_that_is_no_token_is_none_of_ours_to_miss(kind: str, rigs: Any, tmp_path: Path) -> None:
    """These templates write <video> for what comes in its place before anything is tokenized."""
    rig = rigs(kind)
    folder = Path(shutil.copytree(rig.folder, tmp_path / "checkpoint"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text(encoding="utf-8").replace("<video>", "<other>")
        (folder / name).write_text(text, encoding="utf-8")
    family = again(rig, folder)
    sample = rig.sample(SHOWN[0])
    assert family.codec.plan(sample).tokens == rig.family.codec.plan(sample).tokens
