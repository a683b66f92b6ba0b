"""What an augmentation is: roles to fill with clips, a draw that is the only randomness, and a pure apply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from vista_train.types import Sample
from vista_train.video.composition import Clip
from vista_train.video.kinds import is_picture, is_still
from vista_train.video.sampling import View

Cast: TypeAlias = Mapping[str, Sequence[Clip]]
"""The clips that play each role, by the role's name."""
Params: TypeAlias = Mapping[str, Any]
"""What `draw` chose: numbers only, never words or pixels."""


ONE_FILM = (
    "clips follow one another where their rows have the same `source`, and a `source_start` each; same_source: false "
    "joins any"
)


class CannotComposeError(ValueError):
    """These clips cannot be made into this kind of sample; other clips may. `way_out` says what could be changed where
    none can."""

    def __init__(self, reason: str, way_out: str = "") -> None:
        super().__init__(reason)
        self.way_out = way_out


@dataclass(frozen=True)
class Role:
    """A part that clips play in a composition."""

    name: str
    count: int = 1
    """Clips wanted."""
    relation: Literal["any", "same_source_consecutive", "caption_only"] = "any"
    """Any clips; consecutive clips of one source video, in order; or clips whose words alone are used."""
    min_count: int = 1
    """Fewer than this cannot be composed."""
    min_seconds: float = 0.0
    """Consecutive clips are taken until they last longer than this together."""
    max_gap_seconds: float = 0.0
    """The longest gap between consecutive clips of one source video."""
    stills: bool = False
    """Whether pictures, and words without anything to see, can play it: clips that last no time."""


class Augment:
    """A frozen dataclass that composes a Sample. Defining a subclass registers it under its snake_case name, for
    recipes to know; `class Mine(Augment, in_recipes=False)` is for code alone."""

    name: ClassVar[str]
    by_default: ClassVar[bool] = True
    """Whether a recipe that names no augmentations draws it."""
    roles: tuple[Role, ...] = ()
    """The first role is the anchor: over an epoch, every clip that can plays it once."""

    def __init_subclass__(cls, in_recipes: bool = True, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if in_recipes:
            REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        check_settings(self)

    def draw(self, rng: np.random.Generator, clips: Cast, view: View) -> Params:
        """Choose the parameters from metadata and the view; `CannotComposeError` where nothing fits."""
        raise TypeError(f"{type(self).__name__} must define draw(rng, clips, view)")

    def apply(self, clips: Cast, params: Params) -> Sample:
        """Compose; pure: the same clips and parameters give the same sample."""
        raise TypeError(f"{type(self).__name__} must define apply(clips, params)")

    def __call__(self, rng: np.random.Generator, clips: Cast, view: View) -> Sample:
        """Draw and apply, and refuse a sample whose evidence the view would not show."""
        for role in self.roles:
            if role.relation != "caption_only" and len(clips.get(role.name, ())) < role.min_count:
                raise CannotComposeError(
                    f"{self.name} needs {role.min_count} clips as {role.name!r}, not {len(clips.get(role.name, ()))}",
                    ONE_FILM if role.relation == "same_source_consecutive" else "",
                )
            # Clips whose words alone are used may be drawn only when they are looked at.
            for clip in () if role.stills or role.relation == "caption_only" else clips.get(role.name, ()):
                if is_still(clip.path):
                    raise CannotComposeError(f"{self.name} needs a video as {role.name!r}, which {clip.path} is not")
        sample = self.apply(clips, self.draw(rng, clips, view))
        if sample.video is not None:
            check_seen(sample, view, view.sampled(sample.video.duration, sample.video.frame_measure))
        return sample


REGISTRY: dict[str, type[Augment]] = {}


def check_settings(augment: Augment) -> None:
    """`ValueError` for a setting that cannot be meant, by the unit in its name."""
    for name, value in vars(augment).items():
        key = f"augment.{augment.name}.{name}"
        if name in ("multiple_choice", "inverse") and not 0 <= value <= 1:
            raise ValueError(f"{key} is {value}; a share lies in 0..1")
        may_be_nothing = name in ("min_seconds", "max_gap_seconds")
        if name.endswith("_seconds") and (value < 0 or (value == 0 and not may_be_nothing)):
            raise ValueError(f"{key} is {value}; it must be above 0 seconds")
        if name.endswith("_scale") and not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"{key} is {list(value)}; it must be two shares of the frame, in order, in 0..1")
        if name in ("max_clips", "max_needles") and value < 2:
            raise ValueError(f"{key} is {value}; at least 2 clips are joined")
        if name == "max_copies" and value < 1:
            raise ValueError(f"{key} is {value}; it must be at least 1")


def check_seen(sample: Sample, view: View, times: Sequence[Any]) -> None:
    """`CannotComposeError` unless every piece of evidence is on enough of the sampled frames, and large enough."""
    if isinstance(sample.video, Clip) and is_picture(sample.video.path):
        # It has one frame, which is always sampled.
        view = replace(view, min_visible=1)
    for evidence in sample.evidence:
        video = sample.shown
        frames = view.count_of(video)
        if not view.shows(times, video.size, evidence.span, evidence.box, frames):
            area = view.pixels(video.size, evidence.box, frames)
            start, end = float(evidence.span.start), float(evidence.span.end)
            raise CannotComposeError(
                f"{sample.kind}: what is asked about, {start:.2f}-{end:.2f} s of "
                f"{float(video.duration):.2f} s at {area.width}x{area.height} px, is not on "
                f"{view.min_visible} of {len(times)} frames at {view.min_pixels} px or more",
                "choose a larger view, more frames, or a lower view.min_pixels",
            )
