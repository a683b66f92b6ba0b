"""Public video loaders at the same work: frames of every source, scaled, then put together. The worker of compose.py.

    python scripts/bench/opponents.py --list

Run by any interpreter: nothing of this package is imported, and what it lacks is left out. `compose.py --opponents`
names an interpreter with more of them (`pip install torch==2.13.0 torchcodec==0.13.0 decord av transformers
qwen-vl-utils llamafactory ms-swift megatron-energon`, the last four with `--no-deps` and what their imports then ask
for). It reads one JSON request a line and answers with the CPU seconds, of all its threads, that it has taken:

    {"loader": NAME, "frames": T, "width": W, "height": H, "parts": [{"path", "indices", "frames", "box"}, ...]}

`indices` are the wanted frames of a file, `frames` those of the result that they go to, `box` is left, top, width and
height on it. Loaders that choose frames themselves are asked for as many, spread over the file. Each scales as it can
by itself, and is helped with what it cannot. All run as their makers ship them, but on one thread where one can say so.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType, SimpleNamespace
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "TORCHCODEC_NUM_THREADS": "1", "FORCE_QWENVL_VIDEO_READER": "decord"}
os.environ.update({name: value for name, value in ONE_THREAD.items() if name not in os.environ})

import numpy as np  # noqa: E402
import torch  # noqa: E402

Load = Callable[[str, Sequence[int], int, int], Any]
"""Path, indices, width, height -> frames: PIL images, an array [N, H, W, 3] or a tensor [N, 3, H, W], of any size."""


def main() -> None:
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    loaders, missing = available()
    print(json.dumps({"loaders": list(loaders), "missing": missing}), file=answers)
    if "--list" in sys.argv:
        return
    for line in sys.stdin:
        print(json.dumps(answer(loaders, json.loads(line))), file=answers)


def answer(loaders: dict[str, Load], request: dict[str, Any]) -> dict[str, Any]:
    """What a request took, or why it failed: whatever is wrong with a loader must not end the others' run."""
    since, wall = time.process_time(), time.perf_counter()
    try:
        made_THWC = compose(loaders[request["loader"]], request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {
        "cpu": time.process_time() - since,
        "wall": time.perf_counter() - wall,
        "mean": float(made_THWC[:, ::8, ::8].mean()),
    }


def compose(load: Load, request: dict[str, Any]) -> np.ndarray:
    """The frames [T, H, W, 3]: every part loaded whole, then pasted."""
    made_THWC = np.zeros((request["frames"], request["height"], request["width"], 3), np.uint8)
    for part in request["parts"]:
        left, top, width, height = part["box"]
        frames_NHWC = scaled(load(part["path"], part["indices"], width, height), width, height)
        for at, frame in enumerate(part["frames"]):
            # Some give fewer than asked for, of a file that is short.
            frame_HWC = frames_NHWC[min(at, len(frames_NHWC) - 1)]
            made_THWC[frame, top : top + height, left : left + width] = frame_HWC
    return made_THWC


def scaled(frames: Any, width: int, height: int) -> np.ndarray:
    """Frames [N, height, width, 3], by the quickest good scaling at hand where they are not that large yet."""
    if isinstance(frames, list):
        resized = [frame if frame.size == (width, height) else frame.resize((width, height)) for frame in frames]
        return np.stack([np.asarray(frame) for frame in resized])
    if isinstance(frames, np.ndarray):
        frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if frames.shape[-2:] != (height, width):
        mode = {"size": (height, width), "mode": "bilinear", "antialias": True}
        frames = torch.cat([torch.nn.functional.interpolate(one[None], **mode) for one in frames])
    return frames.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def available() -> tuple[dict[str, Load], dict[str, str]]:
    """The loaders that this interpreter has, and why not the others."""
    prepare()
    loaders: dict[str, Load] = {}
    missing: dict[str, str] = {}
    for make in (pyav, decord, torchcodec, transformers, qwen_vl_utils, llamafactory, ms_swift, energon):
        try:
            loaders |= make()
        except Exception as error:
            missing[make.__name__] = f"{type(error).__name__}: {error}"[:200]
    return loaders, missing


def prepare() -> None:
    """Let torchvision be imported beside a torch without CUDA, and torchaudio be named by who never calls it."""
    with suppress(ImportError):
        import torchaudio  # noqa: F401

        return
    audio = ModuleType("torchaudio")
    audio.__spec__ = SimpleNamespace(name="torchaudio", loader=None, origin=None, submodule_search_locations=None)  # type: ignore[assignment]
    sys.modules["torchaudio"] = audio
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        # It holds the operators as long as it lives.
        audio.torchvision_operators = library  # type: ignore[attr-defined]


def pyav() -> dict[str, Load]:
    """PyAV from the start to the last wanted frame, scaling those alone."""
    import av

    def load(path: str, indices: Sequence[int], width: int, height: int) -> np.ndarray:
        wanted, last, frames = set(indices), max(indices), {}
        with av.open(path) as container:
            container.streams.video[0].thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames[number] = frame.reformat(width, height, format="rgb24").to_ndarray()
                if number >= last:
                    break
        return np.stack([frames[min(index, max(frames))] for index in indices])

    return {"PyAV in order": load}


def decord() -> dict[str, Load]:
    """decord, which scales while it decodes."""
    from decord import VideoReader

    def load(path: str, indices: Sequence[int], width: int, height: int) -> np.ndarray:
        reader = VideoReader(path, width=width, height=height, num_threads=1)
        return reader.get_batch([min(index, len(reader) - 1) for index in indices]).asnumpy()

    return {"decord": load}


def torchcodec() -> dict[str, Load]:
    """torchcodec by itself, which scales while it decodes, with and without its own pass over the packets."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    def loader(mode: str) -> Load:
        def load(path: str, indices: Sequence[int], width: int, height: int) -> torch.Tensor:
            options: dict[str, Any] = {"num_ffmpeg_threads": 1, "seek_mode": mode}
            decoder = VideoDecoder(path, transforms=[Resize((height, width))], **options)
            last = (decoder.metadata.num_frames or 1) - 1
            return decoder.get_frames_at([min(index, last) for index in indices]).data

        return load

    return {"torchcodec exact": loader("exact"), "torchcodec approximate": loader("approximate")}


def transformers() -> dict[str, Load]:
    """`load_video` with each of its backends; frames come at full size."""
    from transformers import utils
    from transformers.video_utils import load_video

    def loader(backend: str) -> Load:
        def load(path: str, indices: Sequence[int], width: int, height: int) -> Any:
            def chosen(metadata: Any, **_: Any) -> np.ndarray:
                return np.minimum(np.array(indices), metadata.total_num_frames - 1)

            return load_video(path, backend=backend, sample_indices_fn=chosen)[0]

        return load

    there = {
        "pyav": utils.is_av_available(), "decord": utils.is_decord_available(),
        "torchcodec": utils.is_torchcodec_available(),
    }  # fmt: skip
    return {f"transformers {name}": loader(name) for name, is_there in there.items() if is_there}


def qwen_vl_utils() -> dict[str, Load]:
    """`fetch_video` of each backend, asked for an even number of frames at our size; it rounds sizes to 28 pixels."""
    from qwen_vl_utils import vision_process

    def loader(backend: str) -> Load:
        def load(path: str, indices: Sequence[int], width: int, height: int) -> Any:
            vision_process.FORCE_QWENVL_VIDEO_READER = backend
            vision_process.get_video_reader_backend.cache_clear()
            size = {"resized_height": max(28, height), "resized_width": max(28, width)}
            num = max(2, len(indices) // 2 * 2)
            return vision_process.fetch_video({"video": path, "nframes": num, **size}).clamp(0, 255)

        return load

    names = [name for name in ("decord", "torchcodec") if name in vision_process.VIDEO_READER_BACKENDS]
    there = {"decord": vision_process.is_decord_available, "torchcodec": vision_process.is_torchcodec_available}
    return {f"qwen-vl-utils {name}": loader(name) for name in names if there[name]()}


def llamafactory() -> dict[str, Load]:
    """The video part of its plugin for Qwen2-VL."""
    from llamafactory.data.mm_plugin import Qwen2VLPlugin

    plugin = Qwen2VLPlugin(image_token="<image>", video_token="<video>", audio_token=None)

    def load(path: str, indices: Sequence[int], width: int, height: int) -> Any:
        pixels = {"image_max_pixels": max(28 * 28, width * height), "image_min_pixels": 28 * 28}
        found = plugin._regularize_videos([path], video_fps=1000.0, video_maxlen=len(indices), **pixels)
        return found["videos"][0]

    return {"LLaMA-Factory": load}


def ms_swift() -> dict[str, Load]:
    """Three of its loaders; frames come at full size."""
    from swift.template import vision_utils

    def internvl(path: str, indices: Sequence[int], width: int, height: int) -> Any:
        return vision_utils.load_video_internvl(path, num_segments=len(indices))

    def minicpmv(path: str, indices: Sequence[int], width: int, height: int) -> Any:
        return vision_utils.load_video_minicpmv_mplug_owl3(path, len(indices))

    def llava(path: str, indices: Sequence[int], width: int, height: int) -> Any:
        os.environ["NUM_FRAMES"] = str(len(indices))
        return vision_utils.load_video_llava(path)

    return {"ms-swift internvl": internvl, "ms-swift minicpmv": minicpmv, "ms-swift llava": llava}


def energon() -> dict[str, Load]:
    """Its decoder of single frames, which scales while it decodes."""
    from io import BytesIO
    from pathlib import Path

    from megatron.energon.av import AVDecoder, get_single_frames_uniform

    def load(path: str, indices: Sequence[int], width: int, height: int) -> torch.Tensor:
        decoder = AVDecoder(BytesIO(Path(path).read_bytes()))
        return get_single_frames_uniform(decoder, len(indices), video_out_frame_size=(height, width))

    return {"energon": load}


if __name__ == "__main__":
    main()
