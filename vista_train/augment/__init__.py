"""The augmentations: clips in, a composed video with question, answer and evidence out."""

from vista_train.augment.absent import AbsentNeedle
from vista_train.augment.base import REGISTRY, Augment, CannotComposeError, Cast, Params, Role, check_seen
from vista_train.augment.blended import FadedNeedle, SoftNeedle
from vista_train.augment.counting import CountNeedle
from vista_train.augment.localisation import NeedlePlace, NeedleTime
from vista_train.augment.mosaic import Mosaic
from vista_train.augment.ordering import NeedleOrder
from vista_train.augment.plain import Plain
from vista_train.augment.similar import SimilarNeedle
from vista_train.augment.spatial import SpatialNeedle, SpatioTemporalNeedle, VideoGrid
from vista_train.augment.splice import SpliceCaption, SplicePlace
from vista_train.augment.temporal import EventRelationship, LongVideoCaption, TemporalNeedle, TwoNeedle

__all__ = [
    "REGISTRY",
    "AbsentNeedle",
    "Augment",
    "CannotComposeError",
    "Cast",
    "CountNeedle",
    "EventRelationship",
    "FadedNeedle",
    "LongVideoCaption",
    "Mosaic",
    "NeedleOrder",
    "NeedlePlace",
    "NeedleTime",
    "Params",
    "Plain",
    "Role",
    "SimilarNeedle",
    "SoftNeedle",
    "SpatialNeedle",
    "SpatioTemporalNeedle",
    "SpliceCaption",
    "SplicePlace",
    "TemporalNeedle",
    "TwoNeedle",
    "VideoGrid",
    "check_seen",
]
