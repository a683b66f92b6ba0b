"""Pictures at another size, for those that no decoder scales."""

from __future__ import annotations

import numpy as np
import torch


def resized(picture_HWC: np.ndarray, width: int, height: int) -> np.ndarray:
    """picture_HWC uint8 at height x width pixels, bilinear with antialiasing."""
    if picture_HWC.shape[:2] == (height, width):
        return np.ascontiguousarray(picture_HWC)
    picture_1CHW = torch.from_numpy(np.ascontiguousarray(picture_HWC)).permute(2, 0, 1)[None]
    scaled_1CHW = torch.nn.functional.interpolate(picture_1CHW, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled_1CHW[0].permute(1, 2, 0).numpy())
