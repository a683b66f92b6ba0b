"""Videos to measure with: moving textures, encoded once and kept, and files of any length joined from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

SCENE_SECONDS = 60


def encoded(folder: Path, width: int, height: int, fps: int, seconds: int, gop: int = 250) -> Path:
    """An H.264 file of moving texture, x264's defaults but for the group of pictures; made once, then kept."""
    path = folder / f"texture_{width}x{height}_{fps}fps_{seconds}s_gop{gop}.mp4"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    print(f"making {path} ...", flush=True)
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "medium", "crf": "23", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        for planes in moving_texture(seconds * fps, width, height, fps):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    unfinished.rename(path)
    return path


def looped(piece: Path, times: int, name: str) -> Path:
    """A file beside `piece` that shows it so many times; made once, then kept. The name's ending says which kind."""
    path = piece.with_name(name)
    if not path.exists():
        join([piece] * times, path)
    return path


def join(paths: Sequence[Path], joined: Path) -> None:
    """Files of one encoder and one size put one behind the other, packet by packet."""
    unfinished = joined.with_suffix(".part")
    kind = "matroska" if joined.suffix == ".mkv" else "mp4"
    with av.open(str(unfinished), "w", format=kind) as output:
        stream, offset = None, 0
        for path in paths:
            with av.open(str(path)) as part:
                video = part.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                for packet in part.demux(video):
                    if packet.size:
                        if offset:
                            packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                        packet.stream = stream
                        output.mux(packet)
                offset += video.duration or 0
    unfinished.rename(joined)


def moving_texture(num: int, width: int, height: int, fps: int) -> Iterator[np.ndarray]:
    """Yield `num` pictures (yuv420p, uint8 [height * 3/2, width]): a panned backdrop, drifting discs, sensor noise."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (16, height * 3 // 2, width)).astype(np.int16)
    size = min(160, height // 3)
    for frame in range(num):
        scene, seconds = frame // (SCENE_SECONDS * fps), frame / fps
        if frame % (SCENE_SECONDS * fps) == 0:
            backdrop = [_texture(rng, 2 * height, 2 * width, 90), *(_texture(rng, height, width, 25) for _ in "uv")]
            discs = [(_texture(rng, size, size, 110), *rng.uniform(0.1, 0.9, 4)) for _ in range(5)]
        left = int(width * (0.5 + 0.45 * np.sin(0.11 * seconds + scene)))
        top = int(height * (0.5 + 0.45 * np.cos(0.07 * seconds + scene)))
        luma = backdrop[0][top : top + height, left : left + width].copy()
        for disc, x, y, speed, phase in discs:
            _paste_disc(luma, disc, x + 0.3 * np.sin(speed * seconds), y + 0.3 * np.cos(speed * seconds + 6 * phase))
        chroma = [
            plane[top // 2 : top // 2 + height // 2, left // 2 : left // 2 + width // 2] for plane in backdrop[1:]
        ]
        flat = np.concatenate([luma.ravel(), *(plane.ravel() for plane in chroma)]).reshape(-1, width)
        yield np.clip(flat + noise[rng.integers(16)], 16, 235).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int, contrast: float) -> np.ndarray:
    """Noise [height, width], int16 around 128, with as much of it at every scale as natural pictures have (1/f)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / np.maximum(frequency, 1 / width) ** 1.2
    picture = np.fft.irfft2(spectrum, (height, width))
    return (128 + contrast / 2 * picture / picture.std()).clip(16, 235).astype(np.int16)


def _paste_disc(luma: np.ndarray, disc: np.ndarray, x: float, y: float) -> None:
    size = disc.shape[0]
    height, width = luma.shape
    left, top = int(np.clip(x, 0, 1) * (width - size)), int(np.clip(y, 0, 1) * (height - size))
    rows, columns = np.ogrid[:size, :size]
    inside = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 2) ** 2
    np.copyto(luma[top : top + size, left : left + size], disc, where=inside)
