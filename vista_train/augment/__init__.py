"""The augmentations: clips in, a composed video with question, answer and evidence out."""

from vista_train.augment.base import REGISTRY, Augment, CannotComposeError, Cast, Params, Role, check_seen
from vista_train.augment.plain import Plain
from vista_train.augment.spatial import SpatialNeedle, SpatioTemporalNeedle, VideoGrid
from vista_train.augment.temporal import EventRelationship, LongVideoCaption, TemporalNeedle, TwoNeedle

__all__ = [
    "REGISTRY",
    "Augment",
    "CannotComposeError",
    "Cast",
    "EventRelationship",
    "LongVideoCaption",
    "Params",
    "Plain",
    "Role",
    "SpatialNeedle",
    "SpatioTemporalNeedle",
    "TemporalNeedle",
    "TwoNeedle",
    "VideoGrid",
    "check_seen",
]
