"""Pictures at another size, for those that no decoder scales."""

from __future__ import annotations

import numpy as np
import torch


def resized(picture_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """picture_HWC uint8 at height x width pixels, bilinear with antialiasing."""
    return resized_alike(picture_HWC[None], width, height)[0]


def resized_alike(pictures_NHWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """pictures_NHWC uint8 at height x width pixels, bilinear with antialiasing."""
    if pictures_NHWC.shape[1:3] == (height, width):
        return np.ascontiguousarray(pictures_NHWC)
    pictures_NCHW = torch.from_numpy(np.ascontiguousarray(pictures_NHWC)).permute(0, 3, 1, 2)
    scaled_NCHW = torch.nn.functional.interpolate(pictures_NCHW, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled_NCHW.permute(0, 2, 3, 1).numpy())
