"""Our forward pass is transformers' own on what its own processors make; and what we save is what it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vista_train.models import load_family
from vista_train.types import Message, Row
from vista_train.video.composition import Clip

REPO = Path(__file__).parents[2]
TOLERANCE = 1e-5
KINDS = ("video_llava", "mantis", "llava_onevision", "smolvlm", "internvl", "qwen2_5_vl", "qwen3_vl")
TALK = (
    Message("user", "What is it?"),
    Message("assistant", "A cat."),
    Message("user", "And now?"),
    Message("assistant", "A dog runs."),
)
SHOWN = {
    "video": Clip("video.mp4", 0, 10, 320, 240),
    "picture": Clip("picture.png", 0, 1, 300, 300, 1),
    "words": None,
}
# OneVision's processor cuts a single picture into views; ours shows it whole, as one of several (see below).
WITHOUT = {("llava_onevision", "picture")}
CASES = [(kind, what) for kind in KINDS for what in SHOWN if (kind, what) not in WITHOUT]
pytestmark = pytest.mark.xdist_group("transformers")


def references() -> Path:
    """The folder with torchvision, which only transformers' processors need; skips where there is none."""
    folder = Path(sys.prefix) / "references"
    if not (folder / "torchvision").is_dir():
        pytest.skip(
            f"no torchvision in {folder}; scripts/install.sh puts it there, VISTA_TRAIN_REFERENCES names another"
        )
    return folder


def job_of(rig: Any, what: str, saved: Path, folder: Path) -> dict[str, Any]:
    """What transformers is asked, of the checkpoint that we saved."""
    video, chat = SHOWN[what], rig.family.codec.chat
    encoded = rig.encoded(video)
    times = rig.family.codec.plan(rig.sample(video)).times
    talk = [{"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in TALK]
    if video is not None:
        # Families that know pictures alone are shown one a frame.
        count = len(times) if chat.kind == "image" else 1
        talk[0]["content"][:0] = [{"type": "image" if what == "picture" else chat.kind}] * count
    frames = ""
    if video is not None:
        frames = str(folder / f"{rig.kind}-{what}.safetensors")
        save_file({"frames": encoded.frames_TCHW}, frames)
    return {
        "name": f"{rig.kind}-{what}",
        "folder": str(saved),
        "text": rig.family.tokenizer.apply_chat_template(talk, tokenize=False),
        "frames": frames,
        "times": [float(time) for time in times],
        "duration": 10.0,
        "as_images": what == "picture" or chat.kind == "image",
        "inputs": "",
        "options": {"images_kwargs": {"do_resize": False}} if rig.kind == "mantis" else {},
    }


@pytest.fixture(scope="module")
def theirs(rigs: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Ids and logits of every case, from one process that knows nothing of ours; LongVA's knows its model class."""
    base = tmp_path_factory.mktemp("theirs")
    path = references()
    jobs = []
    for kind in KINDS:
        rig = rigs(kind)
        rig.family.save(rig.model, base / kind)
        jobs += [job_of(rig, what, base / kind, base) for what in SHOWN if (kind, what) in CASES]
    jobs.append(longva_job(rigs("longva"), base))
    (base / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reference.py")), str(base / "jobs.json"), str(base / "out")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(REPO)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(base / "out")


def longva_job(rig: Any, base: Path) -> dict[str, Any]:
    rig.family.save(rig.model, base / "longva")
    encoded = rig.encoded(SHOWN["video"])
    pixels = rig.family.scale(encoded.frames_TCHW, torch.float32)
    save_file({"input_ids": encoded.input_ids, "pixel_values": pixels}, base / "longva.safetensors")
    return {"name": "longva-video", "folder": str(base / "longva"), "inputs": str(base / "longva.safetensors")}


def logits_of(rig: Any, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = rig.encoded(SHOWN[what])
    with torch.no_grad():
        hidden_LD = rig.family.hidden_states(rig.model.eval(), Row.packed([encoded]))
        return encoded.input_ids, rig.family.head(rig.model)(hidden_LD)


@pytest.mark.parametrize(("kind", "what"), [*CASES, ("longva", "video")])
def test_a_saved_model_gives_plain_transformers_the_same_ids_and_logits(
    kind: str, what: str, rigs: Callable[[str], Any], theirs: dict[str, torch.Tensor]
) -> None:
    ids_L, logits_LV = logits_of(rigs(kind), what)
    assert ids_L.tolist() == theirs[f"{kind}-{what}/ids"].tolist()
    assert logits_LV.std() > 0.05
    assert (logits_LV - theirs[f"{kind}-{what}/logits"]).abs().max() <= TOLERANCE


def test_longvas_forward_pass_is_the_one_written_out(rigs: Callable[[str], Any]) -> None:
    rig = rigs("longva")
    ids_L, logits_LV = logits_of(rig, "video")
    model, sample = rig.model, rig.encoded(SHOWN["video"])
    pooled_NPD = pooled(model, rig.family.scale(sample.frames_TCHW, torch.float32))
    assert pooled_NPD.shape == (5, 4, 64)
    embeds_LD = model.get_input_embeddings()(ids_L).clone()
    embeds_LD[ids_L == rig.family.config.image_token_id] = pooled_NPD.flatten(0, 1)
    with torch.no_grad():
        expected = model.lm_head(model.model.language_model(inputs_embeds=embeds_LD[None]).last_hidden_state[0])
    assert (logits_LV - expected).abs().max() <= TOLERANCE


def test_longva_is_llava_given_the_pooled_features(rigs: Callable[[str], Any]) -> None:
    rig = rigs("longva")
    ids_L, logits_LV = logits_of(rig, "video")
    config = {key: value for key, value in rig.family.config.to_dict().items() if key in LlavaConfig().to_dict()}
    llava = LlavaForConditionalGeneration(LlavaConfig(**{**config, "model_type": "llava"})).eval()
    llava.load_state_dict(rig.model.state_dict())
    features = pooled(rig.model, rig.family.scale(rig.encoded(SHOWN["video"]).frames_TCHW, torch.float32))
    outputs = {"image": BaseModelOutputWithPooling(pooler_output=list(features))}
    with torch.no_grad():
        theirs = llava(input_ids=ids_L[None], mm_encoder_outputs=outputs).logits[0]
    assert (logits_LV - theirs).abs().max() <= TOLERANCE


def pooled(model: Any, pixels_T3HW: torch.Tensor) -> torch.Tensor:
    """LongVA's features of frames, from its weights and nothing else of its classes."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    with torch.no_grad():
        features_TPD = tower(pixels_T3HW, output_hidden_states=True).hidden_states[-2][:, 1:]
        first = functional.gelu(functional.linear(features_TPD, projector.linear_1.weight, projector.linear_1.bias))
        second_TPD = functional.linear(first, projector.linear_2.weight, projector.linear_2.bias)
        side = round(second_TPD.shape[1] ** 0.5)
        grid_TDHW = second_TPD.transpose(1, 2).unflatten(2, (side, side))
        return functional.avg_pool2d(grid_TDHW, 2).flatten(2).transpose(1, 2)


def test_a_onevision_picture_is_one_of_several(rigs: Callable[[str], Any]) -> None:
    """Transformers' own features of a picture shown beside another: one view, unpooled, and a newline."""
    rig = rigs("llava_onevision")
    encoded = rig.encoded(SHOWN["picture"])
    ids_L, logits_LV = logits_of(rig, "picture")
    pixels = rig.family.scale(encoded.frames_TCHW, torch.float32)[:, None]
    side = pixels.shape[-1]
    with torch.no_grad():
        # Two pictures are said to be there, and one is given: neither is cut into views.
        seen = rig.model.model.get_image_features(
            pixels, image_sizes=torch.tensor([[side, side]]), batch_num_images=torch.tensor([2])
        )
        theirs = rig.model(input_ids=ids_L[None], mm_encoder_outputs={"image": seen}).logits[0]
    assert (logits_LV - theirs).abs().max() <= TOLERANCE


def test_saved_folders_hold_what_they_came_with(rigs: Callable[[str], Any], tmp_path: Path) -> None:
    for kind in KINDS:
        rig = rigs(kind)
        rig.family.save(rig.model, tmp_path / kind)
        again = load_family(rig.family.name, {"path": str(tmp_path / kind)}, rig.family.view)
        weights, state = rig.model.state_dict(), again.load().state_dict()
        assert all(torch.equal(state[name], weights[name]) for name in weights)
        assert again.codec == rig.family.codec
        assert again.scale == rig.family.scale
        for path in rig.folder.glob("*processor*.json"):
            assert (tmp_path / kind / path.name).read_bytes() == path.read_bytes()
