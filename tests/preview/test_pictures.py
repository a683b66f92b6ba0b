"""Pictures in a page: which frames are shown, and that they stay within their bytes whatever they show."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from vista_train.preview.pictures import LONGEST_SIDE, MOST_BYTES, MOST_FRAMES, chosen, embedded


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def noise(count: int, height: int, width: int) -> torch.Tensor:
    """Frames that no encoder can make small."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(MOST_FRAMES, 112, 112), (8, 600, 500), (1, 40, 3000)])
def test_pictures_stay_within_their_bytes(shape):
    uris = embedded(noise(*shape))
    assert len(uris) == shape[0]
    assert sum(len(base64.b64decode(uri.partition(",")[2])) for uri in uris) <= MOST_BYTES
    sizes = {opened(uri).size for uri in uris}
    assert len(sizes) == 1
    assert max(*sizes.pop()) <= LONGEST_SIDE
    # What the README and the module promise of a hundred samples.
    assert 100 * MOST_BYTES * 4 / 3 < 27e6


def test_fewer_bytes_are_smaller_pictures_of_the_same():
    frames_TCHW = torch.zeros((2, 3, 64, 32), dtype=torch.uint8)
    frames_TCHW[:, 0, :32], frames_TCHW[1, 2, 32:] = 255, 255
    large, small = embedded(frames_TCHW), embedded(frames_TCHW, most_bytes=130)
    assert [opened(uri).size for uri in large] == [(32, 64)] * 2
    assert opened(small[0]).size[1] < 64
    for uris in (large, small):
        pixels = [np.asarray(opened(uri).convert("RGB")).astype(int) for uri in uris]
        assert [np.abs(p[len(p) // 4, p.shape[1] // 2] - (255, 0, 0)).max() < 25 for p in pixels] == [True, True]
        assert np.abs(pixels[1][-len(pixels[1]) // 4, pixels[1].shape[1] // 2] - (0, 0, 255)).max() < 25


def test_no_frames_are_no_pictures():
    assert embedded(torch.zeros((0, 3, 0, 0), dtype=torch.uint8)) == []


def test_few_frames_are_all_shown():
    assert chosen([False, True, False], 3) == [0, 1, 2]
    assert chosen([], 3) == []


def test_of_many_frames_those_with_evidence_have_half_the_room():
    seen = [40 <= index < 80 for index in range(400)]
    picked = chosen(seen, 48)
    assert picked == sorted(set(picked))
    assert len(picked) == 48
    assert sum(seen[index] for index in picked) == 24
    # A single frame that shows it is always there; if nearly all do, they fill what is left.
    assert 123 in chosen([index == 123 for index in range(400)], 48)
    assert len(chosen([index > 3 for index in range(400)], 48)) == 48
    assert chosen([True] * 8, 4) == [1, 3, 5, 7]
