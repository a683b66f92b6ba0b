"""Casting: the clips that augmentations are given, and what of a source there is for a role."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vista_train.augment import Role
from vista_train.data.moving import Clips
from vista_train.data.sources import ClipSource
from vista_train.video.composition import Clip


class Anchor(NamedTuple):
    """The clip that a cast is built around, and where it comes from."""

    clip: Clip
    source: Clips
    row: int
    name: str


class Later(Sequence[Clip]):
    """Clips that are drawn when they are first looked at: most samples never look at their distractors."""

    def __init__(self, draw: Callable[[], Sequence[Clip]]) -> None:
        self._draw = draw
        self._drawn: Sequence[Clip] | None = None

    def _clips(self) -> Sequence[Clip]:
        if self._drawn is None:
            self._drawn = self._draw()
        return self._drawn

    def __len__(self) -> int:
        return len(self._clips())

    def __getitem__(self, index: Any) -> Any:
        return self._clips()[index]


def pool(role: Role, source: ClipSource) -> Clips:
    """The clips of a source that can play a role: all of them, or those that last some time."""
    return source if role.stills else source.moving()


def check_shown(name: str, source: ClipSource) -> None:
    """Of a source that is shown by no augmentation but such as need videos: `ValueError` where it has none of these, a
    warning where it has more."""
    num_stills = len(source) - len(source.moving())
    if not num_stills:
        return
    told = (
        "which no augmentation of the mix shows; plain does: give it a weight, and this manifest among the sources of "
        "its clip"
    )
    if num_stills == len(source):
        raise ValueError(f"data.manifests: {name} holds pictures and words alone, {told}")
    some = f"{num_stills} of {len(source)} clips of {name} are pictures or words"
    warnings.warn(f"data.manifests: {some}, {told}", stacklevel=2)


def window(role: Role, source: Clips, row: int) -> tuple[Clip, ...]:
    """Consecutive clips around a row, in order: onwards from it until they last long enough, then from before it."""
    run = list(source.run(row, role.max_gap_seconds))
    first = last = run.index(row)
    seconds = source[row].duration
    while last - first + 1 < role.count and (last - first + 1 < role.min_count or seconds <= role.min_seconds):
        if last + 1 < len(run):
            last += 1
            seconds += source[run[last]].duration
        elif first > 0:
            first -= 1
            seconds += source[run[first]].duration
        else:
            break
    return tuple(source[number] for number in run[first : last + 1])
