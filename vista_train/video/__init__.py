"""Videos as expressions of clips, and how they become frames."""

from vista_train.video.composition import QA, Clip, Concat, Grid, Overlay, Video, video_from_json
from vista_train.video.geometry import Box, Span
from vista_train.video.sampling import View

__all__ = ["QA", "Box", "Clip", "Concat", "Grid", "Overlay", "Span", "Video", "View", "video_from_json"]
