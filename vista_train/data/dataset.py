"""VistaDataset: position -> Sample -> Encoded. The position decides everything; a lost sample is replaced whole."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from vista_train.augment import Augment, CannotComposeError, Role, check_seen
from vista_train.augment.questions import normal
from vista_train.data.casting import Anchor, Later, check_shown, pool, window
from vista_train.data.draws import draw_rng, permuted
from vista_train.data.sources import ClipSource
from vista_train.types import Encoded, Failure, Plan, Sample
from vista_train.video.composition import Clip
from vista_train.video.decode import MediaError, Wanted
from vista_train.video.media import Media
from vista_train.video.render import predicted_for, render_view, wishes
from vista_train.video.sampling import View

NUM_ATTEMPTS = 8
"""Samples a position may try before its slot stays empty."""
NUM_TRIES = 32
"""Casts an attempt may try until one can be composed and seen."""
TRIES_PER_ANCHOR = 4
"""Casts that keep the anchor and change the others; an anchor that none of them suits is passed over."""
DRAWS_PER_TRY = 1 << 10
"""Draw numbers set aside for one cast: the source, its clip, a number for each other role, the parameters."""
NUM_REDRAWS = 64
"""Draws of a role's clip until it is neither the anchor's file nor its caption again."""
NO_PLAN = Plan(times=(), tokens=0, patches=0, labels=0, cost=0.0)


class Encoder(Protocol):
    """What the dataset needs of a family's codec (models/base.py, Codec)."""

    view: View

    def plan(self, sample: Sample) -> Plan: ...

    def encode(self, sample: Sample, plan: Plan, frames_TCHW: torch.Tensor, position: int = 0) -> Encoded: ...


@dataclass(frozen=True)
class Ingredient:
    """One augmentation of the mix, how often it is drawn, and which sources each of its roles draws from."""

    augment: Augment
    weight: float = 1.0
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def names(self, role: Role, every: Sequence[str]) -> tuple[str, ...]:
        """The sources of a role: its own, or all; distractors come from where the needle comes from."""
        if role.name in self.sources:
            return tuple(self.sources[role.name])
        if role.name == "distractor":
            return tuple(self.sources.get("needle", self.sources.get(self.augment.roles[0].name, tuple(every))))
        return tuple(every)


@dataclass(frozen=True)
class Composed:
    """A sample, and its exact plan."""

    sample: Sample
    plan: Plan
    origins: Mapping[str, str] = field(default_factory=dict)
    """The source that each of its files was drawn from, by path."""


class VistaDataset(Dataset):
    """Composed training samples by position, 0 to infinity; `len` is the number of positions in an epoch.

    Over an epoch, every clip of a single source is the anchor once, but for those that nothing can be made of as the
    position's augmentation would have it (a haystack shorter than every needle tried): another clip then stands in.

    Args:
        sources: clips by the name of their manifest.
        weights: how often each source is drawn for an augmentation's first role; missing ones count 1.
        mix: the augmentations. One whose roles cannot be filled from its sources is a `ValueError` here.
        codec: a family's codec (or anything with its `view`, `plan` and `encode`).
        media: the files that clips name; a plain path is the folder that they are relative to.
        epoch_samples: positions in an epoch; default, the number of clips.
        known_failures: attempts that are taken as lost without trying, to replay a run.
    """

    def __init__(
        self,
        sources: Mapping[str, ClipSource],
        mix: Sequence[Ingredient],
        codec: Encoder,
        media: Media | str | Path,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        epoch_samples: int | None = None,
        known_failures: Iterable[Failure] = (),
    ) -> None:
        self.sources = dict(sources)
        self.mix = tuple(ingredient for ingredient in mix if ingredient.weight > 0)
        self.codec = codec
        self.media = media if isinstance(media, Media) else Media(media)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in self.sources}
        self.seed = seed
        self.epoch_samples = epoch_samples or sum(len(source) for source in self.sources.values())
        self.known_failures = {(failure.position, failure.attempt): failure for failure in known_failures}
        self._check()

    def __len__(self) -> int:
        return self.epoch_samples

    def __iter__(self) -> Iterator[Encoded]:
        """One epoch in order; without this, positions being endless, a loop over the dataset would be too."""
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> Encoded:
        """The encoded sample at a position, or its replacement; one without tokens if every attempt was lost.

        A replacement is a whole other sample (pixels and words) that plans at no more tokens and patches, so that
        the row it sits in keeps to its budget.
        """
        return self._encoded(position, self.media)

    def __getitems__(self, positions: Sequence[int]) -> list[Encoded]:
        """`[p]` for several positions, as loaders ask of a batch: what more than one of them shows of a file is decoded
        once for all."""
        media = self._sharing(positions)
        samples = [self._encoded(position, media) for position in positions]
        if media is not self.media:
            samples[0] = replace(samples[0], drawn=Counter(samples[0].drawn) + media.drawn)
        return samples

    def _sharing(self, positions: Sequence[int]) -> Media:
        """The media, what several samples want of one file at hand, as they are first planned."""
        asked: dict[str, list[list[Wanted]]] = defaultdict(list)
        clips: dict[str, Clip] = {}
        for position in positions if len(positions) > 1 else ():
            # What is known to fail is not tried.
            composed = None if (position, 0) in self.known_failures else self._compose(position, 0, [])
            if composed is not None and composed.sample.video is not None:
                video = composed.sample.video
                clips |= {clip.path: clip for clip in video.clips()}
                for path, wanted in wishes(video, composed.plan.times, self.codec.view, self.media).items():
                    asked[path].append(wanted)
        first = self.media.at(min(positions, default=0))
        shared = {
            path: list(chain(*wanted)) for path, wanted in asked.items() if len(wanted) > 1 and not first.refuses(path)
        }
        if not shared:
            return self.media
        predicted = {path: predicted_for(clips[path], wanted) for path, wanted in shared.items()}
        return self.media.holding(shared, predicted)

    def _encoded(self, position: int, media: Media) -> Encoded:
        failures: list[Failure] = []
        budget: Plan | None = None
        for attempt in range(NUM_ATTEMPTS):
            composed = self._compose(position, attempt, failures)
            if composed is None:
                continue
            budget = budget or composed.plan
            if composed.plan.tokens > budget.tokens or composed.plan.patches > budget.patches:
                continue
            if (position, attempt) in self.known_failures:
                failures.append(self.known_failures[position, attempt])
                continue
            try:
                return self._encode(composed, position, attempt, tuple(failures), media.at(position))
            except MediaError as error:
                reason = f"{type(error).__name__}: {error.reason}"
                failures.append(Failure(position, attempt, error.path, reason, composed.origins.get(error.path, "")))
        return _lost(position, tuple(failures))

    def sample(self, position: int, attempt: int | None = None) -> Sample:
        """The sample planned for a position, without pixels; `attempt` asks for a replacement of it instead."""
        return self.planned(position, attempt).sample

    def planned(self, position: int, attempt: int | None = None) -> Composed:
        """The first attempt at a position that can be composed, or the one asked for; `CannotComposeError` if none."""
        if attempt is not None:
            return self._compose_or_raise(position, attempt)
        failures: list[Failure] = []
        for attempt in range(NUM_ATTEMPTS):
            composed = self._compose(position, attempt, failures)
            if composed is not None:
                return composed
        raise CannotComposeError(f"position {position}: {failures[-1].reason}")

    def plan(self, position: int) -> Plan:
        """What a position will cost at most, from metadata alone; nothing if it cannot be composed."""
        try:
            return self.planned(position).plan
        except CannotComposeError:
            return NO_PLAN

    def digest(self) -> str:
        """A hash of everything that decides which sample a position is."""
        facts = {
            "seed": self.seed,
            "epoch_samples": self.epoch_samples,
            "sources": [[name, self.weights[name], source.digest] for name, source in self.sources.items()],
            "mix": [
                [item.weight, repr(item.augment), {role: list(names) for role, names in item.sources.items()}]
                for item in self.mix
            ],
            "codec": repr(self.codec),
        }
        if self.media.snap_seconds:
            facts["snap_seconds"] = str(self.media.snap_seconds)
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _encode(
        self, composed: Composed, position: int, attempt: int, failures: tuple[Failure, ...], media: Media
    ) -> Encoded:
        sample, plan = composed.sample, composed.plan
        frames_TCHW = torch.zeros((0, 3, 0, 0), dtype=torch.uint8)
        if sample.video is not None:
            frames_TCHW = render_view(sample.video, plan.times, self.codec.view, media)
        encoded = self.codec.encode(sample, plan, frames_TCHW, position)
        return replace(encoded, attempt=attempt, failures=failures, drawn=media.drawn)

    def _compose(self, position: int, attempt: int, failures: list[Failure]) -> Composed | None:
        try:
            return self._compose_or_raise(position, attempt)
        except CannotComposeError as error:
            failures.append(Failure(position, attempt, self._drawn(position, attempt).augment.name, str(error)))
            return None

    def _drawn(self, position: int, attempt: int) -> Ingredient:
        """The augmentation of an attempt at a position, drawn by weight."""
        if position < 0:
            raise ValueError(f"position is {position}; positions count from 0")
        epoch, index = divmod(position, self.epoch_samples)
        pick = draw_rng(self.seed, epoch, index, 0, attempt)
        return self.mix[_weighted(pick, [item.weight for item in self.mix])]

    def _compose_or_raise(self, position: int, attempt: int) -> Composed:
        ingredient = self._drawn(position, attempt)
        epoch, index = divmod(position, self.epoch_samples)
        reason = ""
        for number in range(NUM_TRIES):
            if number % TRIES_PER_ANCHOR == 0:
                anchor = self._anchor(ingredient, epoch, index, attempt, number)
            try:
                return self._try(ingredient, anchor, epoch, index, attempt, number)
            except CannotComposeError as error:
                reason = str(error)
        raise CannotComposeError(f"{ingredient.augment.name}: none of {NUM_TRIES} casts can be composed; {reason}")

    def _anchor(self, ingredient: Ingredient, epoch: int, index: int, attempt: int, number: int) -> Anchor:
        """The anchor of cast `number` and of those that follow it. Its draws come first: the source and the clip."""
        role = ingredient.augment.roles[0]
        names = self._names(ingredient, role)
        which = draw_rng(self.seed, epoch, index, 1 + number * DRAWS_PER_TRY, attempt)
        name = names[_weighted(which, [self.weights[name] for name in names])]
        source = pool(role, self.sources[name])
        cycle, place = divmod(index, len(source))
        key = draw_rng(self.seed, epoch, cycle, 2 + number * DRAWS_PER_TRY, attempt)
        row = permuted(place, len(source), key)
        return Anchor(source[row], source, row, name)

    def _names(self, ingredient: Ingredient, role: Role) -> tuple[str, ...]:
        """The sources of a role that have a clip which can play it."""
        names = ingredient.names(role, tuple(self.sources))
        return tuple(name for name in names if len(pool(role, self.sources[name])))

    def _try(
        self, ingredient: Ingredient, anchor: Anchor, epoch: int, index: int, attempt: int, number: int
    ) -> Composed:
        """Compose one cast. Draws count on from its anchor's: other roles, parameters."""

        def rng(draw: int) -> np.random.Generator:
            return draw_rng(self.seed, epoch, index, 1 + number * DRAWS_PER_TRY + draw, attempt)

        augment, roles = ingredient.augment, ingredient.augment.roles
        origins: dict[str, str] = {anchor.clip.path: anchor.name}
        cast: dict[str, Sequence[Clip]] = {roles[0].name: self._anchored(ingredient, anchor, origins, partial(rng, 2))}
        # Words alone come last: a clip of a file that is shown would be a second right answer.
        for order, role in sorted(enumerate(roles[1:]), key=lambda entry: entry[1].relation == "caption_only"):
            names = self._names(ingredient, role)
            shown = {clip.path for clips in cast.values() for clip in clips}
            taken = shown if role.relation == "caption_only" else {anchor.clip.path}
            draw = partial(self._others, role, 0, names, origins, anchor.clip, taken, partial(rng, 3 + order))
            cast[role.name] = draw() if role.min_count else Later(draw)
        sample = augment(rng(DRAWS_PER_TRY - 2), cast, self.codec.view)
        try:
            plan = self.codec.plan(sample)
        except ValueError as error:
            raise CannotComposeError(f"{augment.name}: {error}") from error
        if sample.video is not None and len(plan.times) < self.codec.view.count_of(sample.video):
            # The augmentation has looked at all times; these are fewer.
            check_seen(sample, self.codec.view, plan.times)
        return Composed(sample, plan, origins)

    def _anchored(
        self,
        ingredient: Ingredient,
        anchor: Anchor,
        origins: dict[str, str],
        make_rng: Callable[[], np.random.Generator],
    ) -> tuple[Clip, ...]:
        """The clips of the first role: the anchor, and those that belong with it."""
        role = ingredient.augment.roles[0]
        if role.relation == "same_source_consecutive":
            run = window(role, anchor.source, anchor.row)
            origins.update((clip.path, anchor.name) for clip in run)
            return run
        names = self._names(ingredient, role)
        return (anchor.clip, *self._others(role, 1, names, origins, anchor.clip, {anchor.clip.path}, make_rng))

    def _others(
        self,
        role: Role,
        have: int,
        names: Sequence[str],
        origins: dict[str, str],
        anchor: Clip,
        taken: Set[str],
        make_rng: Callable[[], np.random.Generator],
    ) -> tuple[Clip, ...]:
        """Clips for a role that has `have`: uniformly, with replacement, no taken file, not the anchor's words.

        `origins` learns which source each file is from."""
        if have >= role.count:
            return ()
        rng = make_rng()
        pools = [pool(role, self.sources[name]) for name in names]
        ends = list(itertools.accumulate(map(len, pools)))
        words, clips = normal(anchor.caption), list[Clip]()
        while have + len(clips) < role.count:
            for _ in range(NUM_REDRAWS):
                number = int(rng.integers(ends[-1]))
                at = bisect_right(ends, number)
                clip = pools[at][number - ends[at] + len(pools[at])]
                if clip.path not in taken and normal(clip.caption) != words:
                    clips.append(clip)
                    origins[clip.path] = names[at]
                    break
            else:
                if have + len(clips) >= role.min_count:
                    break
                raise CannotComposeError(
                    f"no clip beside {anchor.path} can play {role.name!r}: it must be another file with other words"
                )
        return tuple(clips)

    def _check(self) -> None:
        """Every augmentation of the mix can be made at least once, or `ValueError` names it, its roles and why."""
        if not self.mix:
            raise ValueError("augment: no augmentation has a weight above 0")
        refused: dict[str, str] = {}
        for ingredient in self.mix:
            self._check_sources(ingredient)
            why = self._refusal(ingredient)
            if why:
                refused[ingredient.augment.name] = why
        if refused:
            able = [item.augment.name for item in self.mix if item.augment.name not in refused]
            rest = (
                f"; or draw from the others alone, augment: {{{', '.join(f'{n}: {{}}' for n in able)}}}" if able else ""
            )
            raise ValueError(f"{next(iter(refused.values()))}{rest}")
        takers = [(item, role) for item in self.mix for role in item.augment.roles if role.stills]
        shown = {name for item, role in takers for name in self._names(item, role)}
        for name in self.sources:
            if self.weights[name] and name not in shown:
                check_shown(name, self.sources[name])

    def _check_sources(self, ingredient: Ingredient) -> None:
        key, roles = f"augment.{ingredient.augment.name}.sources", ingredient.augment.roles
        unknown = sorted(set(ingredient.sources) - {role.name for role in roles})
        if unknown:
            known = ", ".join(role.name for role in roles)
            raise ValueError(f"{key}.{unknown[0]}: there is no such role; known: {known}")
        for role in roles:
            names = ingredient.names(role, tuple(self.sources))
            unknown = sorted(set(names) - set(self.sources))
            if unknown or not names:
                wrong = f"no manifest is named {unknown[0]!r}" if unknown else "no manifest is given"
                raise ValueError(f"{key}.{role.name}: {wrong}; known: {', '.join(self.sources)}")
            if not self._names(ingredient, role):
                raise ValueError(f"{key}.{role.name}: {', '.join(names)} hold no videos, but pictures and words alone")
        names = self._names(ingredient, roles[0])
        if not any(self.weights[name] for name in names):
            raise ValueError(
                f"data.manifests: {', '.join(names)} must have a weight above 0, since the {roles[0].name} "
                f"of {ingredient.augment.name} is drawn by it"
            )

    def _refusal(self, ingredient: Ingredient) -> str:
        """Why no sample of an augmentation can be made, and what could be done; "" where one can."""
        reason, way_out = "", ""
        for index in range(min(self.epoch_samples, 64)):
            for number in (0, 1, TRIES_PER_ANCHOR, TRIES_PER_ANCHOR + 1):
                anchor = self._anchor(ingredient, 0, index, 0, number - number % TRIES_PER_ANCHOR)
                try:
                    self._try(ingredient, anchor, 0, index, 0, number)
                except CannotComposeError as error:
                    reason, way_out = str(error), f"; {error.way_out}" if error.way_out else ""
                else:
                    return ""
        filled = {role.name: list(ingredient.names(role, tuple(self.sources))) for role in ingredient.augment.roles}
        roles = ", ".join(f"{role} from {'+'.join(names)}" for role, names in filled.items())
        return f"augment.{ingredient.augment.name}: no sample can be made ({roles}): {reason}{way_out}"


def _weighted(rng: np.random.Generator, weights: Sequence[float]) -> int:
    edges = list(itertools.accumulate(weights))
    return bisect_right(edges, rng.random() * edges[-1])


def _lost(position: int, failures: tuple[Failure, ...]) -> Encoded:
    """A slot that stays empty: no tokens, no targets, only what went wrong."""
    empty = torch.zeros(0, dtype=torch.int64)
    return Encoded(position, "lost", empty, empty, torch.zeros((0, 3, 0, 0), dtype=torch.uint8), 0, failures)
