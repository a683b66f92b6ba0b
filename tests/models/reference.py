"""Run in a process of its own: what transformers makes of a conversation with its own processors and forward pass.

    python reference.py jobs.json out.safetensors

Its processors for video need torchvision, which the library does without: it lies in a folder of its own, beside the
virtual environment's packages (`scripts/install.sh`), that only this program has on its path.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

FPS = 100
"""Frames a second of the video that frames are said to come from: times are multiples of its inverse."""


def import_torchvision() -> None:
    """Import torchvision also beside a torch without CUDA, which lacks two operators that it wants to describe."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        import_torchvision.library = library  # the operators live as long as this object


def answer(job: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Ids and logits [L, V] of one conversation."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if job["inputs"]:
        import vista_train.models  # noqa: F401

        model = AutoModelForImageTextToText.from_pretrained(job["folder"])
        tensors = load_file(job["inputs"])
        return told(model, {**tensors, "input_ids": tensors["input_ids"][None]})
    processor = AutoProcessor.from_pretrained(job["folder"])
    model = AutoModelForImageTextToText.from_pretrained(job["folder"], dtype=torch.float32, attn_implementation="sdpa")
    media: dict[str, Any] = {}
    if job["frames"]:
        frames_TCHW = load_file(job["frames"])["frames"]
        if job["as_images"]:
            media["images"] = [[Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames_TCHW]]
        else:
            media["videos"] = [frames_TCHW]
            media["videos_kwargs"] = {"do_sample_frames": False, **video_kwargs(job)}
    inputs = processor(text=[job["text"]], return_tensors="pt", **media, **job["options"])
    return told(model, inputs)


def told(model: Any, inputs: Any) -> dict[str, torch.Tensor]:
    """Ids and logits of what a model was given."""
    with torch.no_grad():
        logits_1LV = model.eval()(**inputs).logits
    return {"ids": inputs["input_ids"][0].contiguous(), "logits": logits_1LV[0].contiguous()}


def video_kwargs(job: dict[str, Any]) -> dict[str, Any]:
    """When the frames were sampled, in the words of each processor."""
    metadata = {
        "total_num_frames": round(job["duration"] * FPS),
        "fps": FPS,
        "duration": job["duration"],
        "frames_indices": [round(time * FPS) for time in job["times"]],
    }
    return {"video_metadata": [metadata]}


def main(jobs: str, out: str) -> None:
    """Answer every job of a JSON list, by its name."""
    warnings.simplefilter("ignore")
    import_torchvision()
    from transformers.utils import logging

    logging.set_verbosity_error()
    tensors = {}
    for job in json.loads(Path(jobs).read_text()):
        tensors |= {f"{job['name']}/{key}": value for key, value in answer(job).items()}
    save_file(tensors, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
