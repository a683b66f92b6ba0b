"""The tiny family: its codec's plan is exact, its packed rows are its samples, and its arithmetic is LongVA's."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoTokenizer

from vista_train.models.base import PARTS, family, load_family
from vista_train.models.hub import CLIP_SCALE
from vista_train.models.pooled_llava import LongVAForConditionalGeneration
from vista_train.models.tiny import Tiny, TinySettings
from vista_train.training.loss import summed_cross_entropy
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

VIEW = View(frames=4, width=56, height=56)
SMALL = TinySettings(vision_width=32, vision_layers=3, language_width=32, language_layers=2, max_tokens=400)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny(SMALL, VIEW)


@pytest.fixture
def model(tiny: Tiny) -> LongVAForConditionalGeneration:
    """Weights ten times the usual, so that what flows through attention matters in the result."""
    model = tiny.load()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(10)
    return model


def sample_of(answer: str = "A cat.", question: str = "What is shown?", seconds: int = 10) -> Sample:
    clip = Clip("a.mp4", Fraction(0), Fraction(seconds), 320, 240)
    return Sample(clip, (Message("user", question), Message("assistant", answer)), (), "test")


def encoded(tiny: Tiny, sample: Sample, seed: int = 0) -> Encoded:
    plan = tiny.codec.plan(sample)
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (len(plan.times), 3, 56, 56), generator=generator, dtype=torch.uint8)
    return tiny.codec.encode(sample, plan, frames, position=seed)


def words_only(tiny: Tiny, text: str) -> Encoded:
    ids = torch.tensor(tiny.codec.tokenizer.encode(text))
    labels = torch.cat([torch.tensor([-100]), ids[1:]])
    return Encoded(0, "words", ids, labels, torch.zeros(0, 3, 56, 56, dtype=torch.uint8))


def packed(samples: list[Encoded]) -> Row:
    return Row.packed(samples)


def loss_of(tiny: Tiny, model: LongVAForConditionalGeneration, row: Row) -> torch.Tensor:
    return summed_cross_entropy(tiny.hidden_states(model, row), row.labels_1L[0], tiny.head(model), chunk=8)


def trainable(tiny: Tiny, model: LongVAForConditionalGeneration) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for part in tiny.parts(model).values() for name, parameter in part}


def mixed(tiny: Tiny) -> list[Encoded]:
    return [
        encoded(tiny, sample_of(), 1),
        words_only(tiny, "<|im_start|>user\nno video here<|im_end|>"),
        encoded(tiny, sample_of("It is a dog running.", "And now?", 50), 2),
        words_only(tiny, "x"),
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_packed_is_unpacked(
    tiny: Tiny, model: LongVAForConditionalGeneration, training: bool, checkpointed: bool
) -> None:
    model.train(training)
    if checkpointed:
        model.activation_checkpointing_enable()
    samples = mixed(tiny)
    together_LD = tiny.hidden_states(model, packed(samples))
    apart_LD = torch.cat([tiny.hidden_states(model, packed([sample])) for sample in samples])
    assert together_LD.shape == (sum(len(sample.input_ids) for sample in samples), 32)
    assert (together_LD - apart_LD).norm() <= 1e-5 * apart_LD.norm()


def test_packing_is_seen_through_bounds_or_under_a_dense_mask_through_positions(
    tiny: Tiny, model: LongVAForConditionalGeneration
) -> None:
    row = packed(mixed(tiny))
    right_LD = tiny.hidden_states(model, row)
    as_one_LD = tiny.hidden_states(model, replace(row, lengths=(row.num_tokens,)))
    assert (right_LD - as_one_LD).norm() > 1e-2 * right_LD.norm()
    model.config.text_config._attn_implementation = "sdpa"
    assert (right_LD - tiny.hidden_states(model, row)).norm() <= 1e-5 * right_LD.norm()
    running_LD = tiny.hidden_states(model, replace(row, positions_1L=torch.arange(row.num_tokens)[None]))
    assert (right_LD - running_LD).norm() > 1e-2 * right_LD.norm()


@pytest.mark.parametrize("frozen", [(), ("vision",), ("vision", "projector")])
def test_gradients_do_not_depend_on_checkpointing_or_packing(
    tiny: Tiny, model: LongVAForConditionalGeneration, frozen: tuple[str, ...]
) -> None:
    model.train()
    for part, parameters in tiny.parts(model).items():
        for _, parameter in parameters:
            parameter.requires_grad_(part not in frozen)
    samples = mixed(tiny)
    wanted = {name: parameter for name, parameter in trainable(tiny, model).items() if parameter.requires_grad}

    def gradients(rows: list[Row]) -> list[torch.Tensor]:
        return torch.autograd.grad(sum(loss_of(tiny, model, row) for row in rows), list(wanted.values()))

    plain = gradients([packed(samples)])
    apart = gradients([packed([sample]) for sample in samples])
    model.activation_checkpointing_enable()
    checkpointed = gradients([packed(samples)])
    # A key's bias shifts all scores of a query alike: its gradient is zero but for rounding, so all share one scale.
    scale = max(grad.abs().max() for grad in plain)
    for one, other, third in zip(plain, apart, checkpointed, strict=True):
        assert (one - other).abs().max() <= 1e-5 * scale
        assert (one - third).abs().max() <= 1e-5 * scale
    assert all(grad.abs().max() > 0 for grad in plain)
    assert len(wanted) == sum(parameter.requires_grad for parameter in model.parameters())


def test_every_sample_sees_its_own_pixels(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    one, other = encoded(tiny, sample_of(), 1), encoded(tiny, sample_of(), 2)
    row = packed([one, other])
    changed = (row.frames[0], 255 - row.frames[1])
    before_LD, after_LD = (tiny.hidden_states(model, replace(row, frames=f)) for f in (row.frames, changed))
    first = row.lengths[0]
    assert (before_LD[:first] - after_LD[:first]).abs().max() <= 1e-5
    assert (before_LD[-1] - after_LD[-1]).norm() > 1e-2 * before_LD[-1].norm()


@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize("texts", [(), ("no video, no loss",)])
def test_a_row_without_labels_gives_every_part_a_zero_gradient(
    tiny: Tiny, model: LongVAForConditionalGeneration, texts: tuple[str, ...], checkpointed: bool
) -> None:
    model.train()
    if checkpointed:
        model.activation_checkpointing_enable()
    row = packed([words_only(tiny, text) for text in texts])
    row = replace(row, labels_1L=torch.full_like(row.labels_1L, -100))
    hidden_LD = tiny.hidden_states(model, row)
    assert hidden_LD.shape == (row.num_tokens, 32)
    loss = summed_cross_entropy(hidden_LD, row.labels_1L[0], tiny.head(model))
    assert loss.item() == 0
    loss.backward()
    for name, parameter in trainable(tiny, model).items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() == 0, name


def test_a_row_of_words_trains_the_decoder_and_still_reaches_the_vision_tower(
    tiny: Tiny, model: LongVAForConditionalGeneration
) -> None:
    loss_of(tiny, model, packed([words_only(tiny, "only words")])).backward()
    for part, parameters in tiny.parts(model).items():
        most = max(parameter.grad.abs().max().item() for _, parameter in parameters)
        assert (most > 0) == (part == "language")


def test_the_forward_pass_is_longvas(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    sample = encoded(tiny, sample_of(), 5)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_SCALE.mean, CLIP_SCALE.std))
    pixels = (sample.frames_TCHW / 255 - mean) / std
    features = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    features = functional.linear(features, projector.linear_1.weight, projector.linear_1.bias)
    features = functional.linear(functional.gelu(features), projector.linear_2.weight, projector.linear_2.bias)
    pooled = functional.avg_pool2d(features.transpose(1, 2).reshape(-1, 32, 4, 4), 2).flatten(2).transpose(1, 2)
    embeds = model.get_input_embeddings()(sample.input_ids).clone()
    embeds[sample.input_ids == tiny.config.image_token_id] = pooled.reshape(-1, 32)
    expected_LD = model.model.language_model(inputs_embeds=embeds[None], use_cache=False).last_hidden_state[0]
    assert pooled.shape == (4, 4, 32)
    assert (tiny.hidden_states(model, packed([sample])) - expected_LD).abs().max() <= 1e-5


def test_parts_are_all_parameters_that_can_learn(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    parts = {part: dict(parameters) for part, parameters in tiny.parts(model).items()}
    assert tuple(parts) == PARTS
    assert set(parts["projector"]) == {
        f"model.multi_modal_projector.linear_{index}.{kind}" for index in (1, 2) for kind in ("weight", "bias")
    }
    assert "lm_head.weight" in parts["language"]
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set().union(*parts.values()) == learning
    frozen = {name for name, _ in model.named_parameters()} - learning
    assert len(frozen) == 18
    assert {name.split(".")[2] for name in frozen} == {"encoder", "post_layernorm"}
    assert all(name.startswith("model.vision_tower.") and "layers.0" not in name for name in frozen)


@pytest.mark.parametrize("answer", ["", "A cat.", "<video><|im_end|>", "日本語 🧪 " * 20])
@pytest.mark.parametrize("seconds", [1, 10])
def test_planned_is_encoded(tiny: Tiny, answer: str, seconds: int) -> None:
    sample = sample_of(answer, seconds=seconds)
    plan = tiny.codec.plan(sample)
    out = encoded(tiny, sample)
    assert len(plan.times) == 4
    assert plan.tokens == len(out.input_ids) == len(out.labels)
    assert plan.labels == out.num_labels == len(answer.encode()) + 1
    assert plan.patches == 4 * 16
    assert (out.input_ids == tiny.config.image_token_id).sum() == 4 * 4
    learnt = out.labels[out.labels != -100]
    assert tiny.codec.tokenizer.decode(learnt, clean_up_tokenization_spaces=False) == answer + "<|im_end|>"
    assert (out.position, out.kind, out.frames_TCHW.shape) == (0, "test", (4, 3, 56, 56))


def test_cost_is_the_designs_formula(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    plan = tiny.codec.plan(sample_of())
    decoder = sum(parameter.numel() for parameter in model.model.language_model.layers.parameters())
    vision = sum(
        parameter.numel()
        for part in (model.model.vision_tower, model.model.multi_modal_projector)
        for parameter in part.parameters()
        # What lies behind the layer that is used is not counted.
        if parameter.requires_grad
    )
    expected = 3 * (2 * decoder * plan.tokens + 2 * 2 * 32 * plan.tokens**2 + 2 * 260 * 32 * plan.labels)
    expected += 3 * 4 * (2 * vision * 16 + 4 * 3 * 32 * 16**2)
    assert plan.cost == expected


def test_frames_are_dropped_and_never_tokens(tiny: Tiny) -> None:
    full = tiny.codec.plan(sample_of())
    words = full.tokens - 4 * 4
    for most, frames in ((words + 16, 4), (words + 15, 3), (words + 8, 2), (words + 4, 1)):
        codec = replace(tiny.codec, max_tokens=most)
        plan = codec.plan(sample_of())
        assert len(plan.times) == frames
        assert plan.tokens == words + 4 * frames <= most
        assert plan.times == VIEW.times(Fraction(10), Fraction(300), frames)
        assert plan.labels == full.labels
    with pytest.raises(ValueError, match=f"text of {words} tokens leaves no room for one frame of 4 tokens"):
        replace(tiny.codec, max_tokens=words + 3).plan(sample_of())


def test_frames_and_words_that_do_not_belong_to_the_plan_are_refused(tiny: Tiny) -> None:
    plan = tiny.codec.plan(sample_of())
    frames = torch.zeros(4, 3, 56, 56, dtype=torch.uint8)
    for wrong in (frames[:3], frames[..., :55], frames.float()):
        with pytest.raises(ValueError, match=r"the plan needs torch.uint8 \[4, 3, 56, 56\]"):
            tiny.codec.encode(sample_of(), plan, wrong)
    with pytest.raises(ValueError, match="it was made for another sample"):
        tiny.codec.encode(sample_of("A dog?!"), plan, frames)


def test_the_codec_travels_to_workers(tiny: Tiny) -> None:
    copied = pickle.loads(pickle.dumps(tiny.codec))
    assert copied == tiny.codec
    assert copied.plan(sample_of("hé <video>")) == tiny.codec.plan(sample_of("hé <video>"))
    assert len(pickle.dumps(tiny.codec)) < 20_000


def test_weights_come_from_the_seed_alone(tiny: Tiny) -> None:
    state = torch.get_rng_state()
    one, same = tiny.load().state_dict(), Tiny(SMALL, VIEW).load().state_dict()
    other = Tiny(replace(SMALL, seed=1), VIEW).load().state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_a_saved_model_is_read_back_by_transformers_and_by_the_family(
    tiny: Tiny, model: LongVAForConditionalGeneration, tmp_path: Path
) -> None:
    weights = model.state_dict()
    tiny.save(model, tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(weights)
    read, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert isinstance(read, LongVAForConditionalGeneration)
    again = Tiny(TinySettings(path=str(tmp_path), max_tokens=400), VIEW)
    loaded = again.load()
    for state in (read.state_dict(), loaded.state_dict()):
        assert all(torch.equal(state[name], weights[name]) for name in weights)
    assert again.codec == tiny.codec
    assert set(trainable(again, loaded)) == set(trainable(tiny, model))
    assert (read.config.get_text_config().use_cache, read.generation_config.use_cache) == (True, True)
    assert (loaded.config.use_cache, loaded.config.get_text_config().use_cache) == (False, False)
    text = "<|im_start|>user\nhé <video><|im_end|>"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode(text) == tiny.codec.tokenizer.encode(text)
    assert tokenizer.chat_template == tiny.codec.tokenizer.chat_template
    with pytest.raises(ValueError, match="the checkpoint needs 56x56"):
        Tiny(TinySettings(path=str(tmp_path)), replace(VIEW, width=112, height=112))


def test_a_gathered_state_is_saved_in_place_of_the_models(
    tiny: Tiny, model: LongVAForConditionalGeneration, tmp_path: Path
) -> None:
    state = {name: weight + 1 for name, weight in model.state_dict().items()}
    tiny.save(model, tmp_path, state)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], state[name]) for name in state)


def test_weights_that_do_not_fit_are_an_error(
    tiny: Tiny, model: LongVAForConditionalGeneration, tmp_path: Path
) -> None:
    state = {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    tiny.save(model, tmp_path, state)
    with pytest.raises(ValueError, match=r"do not fit the model: missing: lm_head\.weight"):
        Tiny(TinySettings(path=str(tmp_path)), VIEW).load()


def test_plain_transformers_refuses_a_saved_model(
    tiny: Tiny, model: LongVAForConditionalGeneration, tmp_path: Path
) -> None:
    tiny.save(model, tmp_path)
    program = f"from transformers import AutoModel; AutoModel.from_pretrained({str(tmp_path)!r})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "vista_longva" in result.stderr


def test_generate_works_on_a_saved_model(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    sample = encoded(tiny, sample_of(), 1)
    pixels = torch.zeros(4, 3, 56, 56)
    out = model.generate(sample.input_ids[None], pixel_values=pixels, max_new_tokens=3, do_sample=False)
    assert out.shape[1] > len(sample.input_ids)


def test_half_precision_computes(tiny: Tiny, model: LongVAForConditionalGeneration) -> None:
    row = packed(mixed(tiny))
    exact_LD = tiny.hidden_states(model, row)
    rounded_LD = tiny.hidden_states(model.bfloat16(), row)
    assert rounded_LD.dtype == torch.bfloat16
    assert (rounded_LD - exact_LD).norm() <= 0.2 * exact_LD.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_layers": 1}, "tiny.vision_layers is 1; it must be at least 2"),
        ({"dropout": 1.0}, "tiny.dropout is 1.0"),
        ({"vision_width": 30}, "tiny.vision_width is 30; 4 heads must divide it"),
        ({"language_width": 36}, "tiny.language_width is 36"),
        ({"language_kv_heads": 3}, "tiny.language_kv_heads is 3"),
        ({"max_tokens": 0}, "tiny.max_tokens is 0"),
        ({"path": "nowhere"}, "family.path is 'nowhere'"),
        ({"languge_width": 8}, "no setting 'languge_width'; did you mean 'language_width'"),
    ],
)
def test_settings_are_checked(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load_family("tiny", change, VIEW)


def test_the_canvas_is_checked() -> None:
    for width, height in ((112, 56), (70, 70)):
        with pytest.raises(ValueError, match=f"{width}x{height}; tiny needs a square, .* 2 \\* tiny.patch = 28"):
            Tiny(SMALL, replace(VIEW, width=width, height=height))


def test_families_are_found_by_name() -> None:
    assert family("tiny") is Tiny
    assert Tiny.name == "tiny"
    assert isinstance(load_family("tiny", SMALL, VIEW), Tiny)
    for name in ("tinny", "chat", "base"):
        with pytest.raises(ValueError, match=f"unknown family '{name}'"):
            family(name)
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        family("tinny")
    with pytest.raises(ValueError, match="takes TinySettings, not View"):
        load_family("tiny", VIEW, VIEW)


def test_the_default_model_is_small() -> None:
    tiny = Tiny(TinySettings(), View(frames=8, width=112, height=112))
    num = sum(parameter.numel() for parameter in trainable(tiny, tiny.load()).values())
    assert 1_000_000 < num < 3_000_000
    assert (tiny.codec.layout.tokens_per_tile, tiny.codec.layout.patches_per_tile) == (16, 64)


def test_nothing_in_a_checkpoints_folder_is_run_or_fetched(tmp_path: Path) -> None:
    made = load_family("tiny", {}, View(width=112, height=112))
    made.save(made.load(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["attn_implementation"] = config["_attn_implementation"] = "somebody/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    read_again = load_family("tiny", {"path": str(tmp_path)}, View(width=112, height=112))
    loaded = read_again.load().config
    assert (loaded._attn_implementation, loaded.vision_config._attn_implementation) == ("sdpa", "sdpa")
    assert loaded.text_config._attn_implementation == "sdpa_by_sample"
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter; `vista-train merge`"):
        load_family("tiny", {"path": str(tmp_path)}, View(width=112, height=112))


def test_a_tokenizer_that_brings_code_is_refused(tmp_path: Path) -> None:
    made = load_family("tiny", {}, View(width=112, height=112))
    made.save(made.load(), tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    with contextlib.suppress(ValueError):
        load_family("tiny", {"path": str(tmp_path)}, View(width=112, height=112))
    assert not (tmp_path / "ran").exists()
