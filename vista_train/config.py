"""Recipe: everything a run is made of, as strict frozen models built from the rooms' own dataclasses.

A recipe is YAML: one file, the `base:` file it builds on (which may have one too), and `key=value` overrides. An
unknown key is an error that names the nearest right one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError, create_model

from vista_train.augment import REGISTRY
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.held_out import HeldOut
from vista_train.data.reading import Reading
from vista_train.data.records import HUB
from vista_train.data.rows import RowBudget
from vista_train.data.sidecars import cache_folder
from vista_train.data.sources import ClipSource
from vista_train.evaluation.during import NeedleLook, PromptLook, apart
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.needle import AllClips, NeedleTest, casts
from vista_train.evaluation.prompts import Prompt
from vista_train.models.adapters import LoraSettings
from vista_train.models.base import PARTS, Codec, Family, family, load_family
from vista_train.plain_yaml import dumped, merged, override_key, read
from vista_train.sections import Mix, Parts, Strict, build, explained, field_help, model_of
from vista_train.training.optimizer import OptimizerSettings
from vista_train.training.settings import LoopSettings
from vista_train.training.watch import Watch, WatchSettings
from vista_train.types import Failure, Message
from vista_train.video.decode import Limits
from vista_train.video.frames import FrameCache
from vista_train.video.media import Media
from vista_train.video.sampling import View

Settings = TypeVar("Settings")

LimitsSection = model_of("LimitsSection", Limits)


class ManifestEntry(model_of("ReadingSection", Reading)):  # type: ignore[misc]
    """One manifest: a file of clips, or a published file, a folder, or a data set on the Hub."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    path: str
    """The file, relative to `data.root` (or absolute); `*.parquet` or a folder of such files; `hub:owner/name`."""
    name: str = ""
    """What roles call it; default, the file's name without its ending."""
    weight: float = Field(default=1.0, ge=0)
    """How often an anchor clip is drawn from it, against the other manifests."""

    def open(self, media: Media, cache: str | None) -> ClipSource:
        """Its clips; opens (and on first use, indexes) it."""
        path = self.path if self.path.startswith(HUB) else media.root / self.path
        return ClipSource(path, media, cache, reading=build(Reading, self))


class DataSection(Strict):
    """Where clips come from."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    root: str = "."
    """The folder that every path in the manifests is relative to; itself relative to where the run is started."""
    manifests: tuple[ManifestEntry, ...] = Field(default=(ManifestEntry(path="clips.jsonl"),), min_length=1)
    """The manifests."""
    epoch_samples: int | None = Field(default=None, ge=1)
    """Samples in an epoch; default, the number of clips."""
    reader: str = "auto"
    """The decoder: auto, pyav, decord or torchcodec."""
    isolate: Literal["process", "inline"] = "process"
    """`process` decodes in processes that can be killed, so that a file that hangs or crashes costs one sample;
    `inline` in the data workers themselves, for files that you trust."""
    limits: LimitsSection = LimitsSection()  # type: ignore[valid-type]
    """What a file is refused for."""
    allow_symlinks: bool = False
    """Follow symbolic links under `root`, wherever they lead."""
    allow_absolute: bool = False
    """Let manifests name files by absolute paths, wherever they lie."""
    cache: str | None = None
    """Where indexes and probed headers are kept; default, $VISTA_TRAIN_CACHE or ~/.cache/vista_train."""
    snap_seconds: float = Field(default=0.0, ge=0)
    """A keyframe that begins at most so long before or after a wanted time may stand in for the frame that is shown
    then, within its clip: many times quicker where groups of pictures are long, and not exact. 0 is exact."""
    frame_cache_gib: float | None = Field(default=None, gt=0)
    """Keep decoded pictures in `cache`, up to so many GiB of this machine's disk: for data that is seen many times."""
    proxies: str | None = None
    """A folder that `vista-train proxies` has filled: pictures come from there where they are large enough."""


class PromptSection(Strict):
    """A prompt that is put to the model at every evaluation."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    text: str = Field(min_length=1)
    """What the user says."""
    video: str | None = None
    """The video that it is about, relative to `data.root`."""


class EvaluateSection(model_of("WatchSection", WatchSettings)):  # type: ignore[misc]
    """What is looked at while the model trains."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    manifests: tuple[ManifestEntry, ...] = ()
    """Held-out clips, in manifests of the names that `augment` knows; default, what `data.manifests` hold out."""
    needle: model_of("NeedleSection", NeedleTest) | None = None  # type: ignore[valid-type]
    """A needle heat map of held-out clips, drawn at every evaluation; default, none."""
    prompts: tuple[PromptSection, ...] = ()
    """Prompts that are answered and written down at every evaluation."""
    max_new_tokens: int = Field(default=32, ge=1)
    """The most tokens of an answer; each takes a forward pass over the whole prompt."""


WEIGHT = (float, Field(1.0, ge=0, description="How often it is drawn, against the other augmentations; 0 is never."))
SOURCES: tuple[Any, Any] = (
    dict[str, tuple[str, ...]],
    Field({}, description="The manifests that each role draws from, by role; default, all of them."),
)
ViewSection = model_of("ViewSection", View)
TrainSection = model_of("TrainSection", LoopSettings, RowBudget, OptimizerSettings, without=("budget",), base=Parts)


class Recipe(Strict):
    """A whole run. `recipe_model` adds the sections whose keys depend on what is registered."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    output: str = "out/run"
    """The folder of checkpoints, log and ledger."""
    seed: int = Field(0, ge=0, lt=1 << 40)
    """Decides every draw of the data."""
    family: Any
    """The model family by `name`, and its settings."""
    view: ViewSection = ViewSection()  # type: ignore[valid-type]
    """How the model looks at a video."""
    data: DataSection = DataSection()
    """Where clips come from."""
    augment: Any
    """The augmentations to draw from, by name; default, evenly all but those that a recipe must name."""
    train: TrainSection = TrainSection()  # type: ignore[valid-type]
    """How to train."""
    evaluate: EvaluateSection | None = None
    """What is looked at while the model trains; default, nothing."""

    def make_view(self) -> View:
        """How the model looks at a video."""
        return build(View, self.view)

    def make_settings(self) -> Any:
        """The settings of the family."""
        return build(family(self.family.name).settings_type, self.family)

    def make_family(self, path: str | None = None) -> Family:
        """The family with its settings; `path` puts a checkpoint's weights in place of the recipe's.

        A sample's cost is that of what `train` trains.
        """
        settings = self.make_settings()
        if path:
            # A checkpoint of a run has the chat template that the run had.
            settings = dataclasses.replace(settings, path=path, chat_template=None)
        chosen = load_family(self.family.name, settings, self.make_view())
        language, vision = self.make_optimizer().passes
        codec: Any = chosen.codec
        compute = dataclasses.replace(codec.compute, language_passes=language, vision_passes=vision)
        chosen.codec = dataclasses.replace(codec, compute=compute)
        return chosen

    def make_loop(self) -> LoopSettings:
        """How long to train, and how large rows are."""
        return build(LoopSettings, self.train, budget=build(RowBudget, self.train))

    def make_optimizer(self) -> OptimizerSettings:
        """What trains, and how fast."""
        return build(OptimizerSettings, self.train)

    def make_mix(self) -> tuple[Ingredient, ...]:
        """The augmentations with their weights and sources; those the recipe does not name are not in it."""
        chosen = {name: section for name, section in self.augment if section is not None}
        # By name: which module was imported first must not decide what is drawn.
        return tuple(
            Ingredient(build(REGISTRY[name], section), section.weight, section.sources)
            for name, section in sorted(chosen.items())
        )

    def make_media(self) -> Media:
        """The files under the recipe's root, and how they may be opened."""
        data = self.data
        cache, size = cache_folder(data.cache), data.frame_cache_gib
        return Media(
            data.root,
            data.reader,
            data.isolate,
            self.make_limits(),
            data.allow_symlinks,
            data.allow_absolute,
            cache=cache,
            proxies=data.proxies,
            snap_seconds=data.snap_seconds,
            frames=None if size is None else FrameCache(cache, int(size * 2**30)),
        )

    def make_limits(self) -> Limits:
        """What a file is refused for."""
        limits: Limits = build(Limits, self.data.limits)
        return limits

    def make_dataset(self, codec: Codec, known_failures: Iterable[Failure] = ()) -> VistaDataset:
        """The dataset over the recipe's manifests; opens (and on first use, indexes) them."""
        entries, media = named("data.manifests", self.data.manifests), self.make_media()
        sources = {name: entry.open(media, self.data.cache) for name, entry in entries.items()}
        return VistaDataset(
            sources,
            self.make_mix(),
            codec,
            media,
            weights={name: entry.weight for name, entry in entries.items()},
            seed=self.seed,
            epoch_samples=self.data.epoch_samples,
            known_failures=known_failures,
        )

    def make_watch(self, family: Family) -> Watch | None:
        """What is looked at while the model trains; opens (and on first use, indexes) the held-out manifests."""
        asked = self.evaluate
        if asked is None:
            return None
        settings: WatchSettings = build(WatchSettings, asked)
        # Their own: training's planner uses the other tokenizer in a thread, and quarantine counts its positions.
        family, media = apart(family), self.make_media()
        entries = named("evaluate.manifests", asked.manifests or self._held_out_entries())
        if not entries and (settings.samples or asked.needle):
            raise ValueError(
                "evaluate needs held-out clips: name them in evaluate.manifests, or hold a part of data.manifests out "
                "(held_out: 0.02)"
            )
        sources = {name: entry.open(media, self.data.cache) for name, entry in entries.items()}
        held_out = None
        if settings.samples:
            try:
                held_out = HeldOut(sources, self.make_mix(), family.codec, media, settings.samples, seed=self.seed)
            except ValueError as error:
                raise ValueError(f"evaluate, of the held-out clips: {error}") from error
        return Watch(settings, held_out, self._looks(asked, family, AllClips(list(sources.values())), Footage(media)))

    def _looks(self, asked: EvaluateSection, family: Family, clips: AllClips, footage: Footage) -> list[Any]:
        most, looks = self.make_loop().budget.max_row_tokens, list[Any]()
        if asked.needle is not None:
            test: NeedleTest = build(NeedleTest, asked.needle)
            rng = np.random.Generator(np.random.Philox(key=self.seed))
            looks.append(NeedleLook(test, casts(test, clips, footage.media, rng), family, footage, most))
        if asked.prompts:
            prompts = [
                Prompt(str(number), footage.clip(entry.video) if entry.video else None, (Message("user", entry.text),))
                for number, entry in enumerate(asked.prompts)
            ]
            looks.append(PromptLook(prompts, asked.max_new_tokens, family, footage, most))
        return looks

    def _held_out_entries(self) -> tuple[ManifestEntry, ...]:
        """What the recipe's manifests hold out."""
        return tuple(
            entry.model_copy(update={"part": "held_out"})
            for entry in self.data.manifests
            if entry.held_out and entry.part == "train"
        )

    def check_continues(self, before: Recipe, folder: Path) -> None:
        """`ValueError` if the model is not the one that the checkpoint in `folder` was made of by recipe `before`."""
        for key, value in before.family:
            asked = getattr(self.family, key, None)
            if asked != value:
                raise ValueError(
                    f"family.{key} is {asked!r}, but {folder} was trained with {value!r}; choose another output"
                )
        now, then = self.make_optimizer(), before.make_optimizer()
        for part in PARTS:
            if bool(now.rate(part)) != bool(then.rate(part)):
                raise ValueError(
                    f"train.{part} is {'trained' if now.rate(part) else 'frozen'}, but {folder} was written with it "
                    f"{'trained' if then.rate(part) else 'frozen'}; choose another output"
                )
            asked, value = _shape_told(now.loras.get(part)), _shape_told(then.loras.get(part))
            if asked != value:
                raise ValueError(
                    f"train.{part}.lora is {asked}, but {folder} was trained with {value}; choose another output"
                )

    def to_yaml(self) -> str:
        """The resolved recipe: every key with its value, as it can be loaded again."""
        return dumped(self.model_dump(mode="json", exclude_none=True))


def named(key: str, entries: Sequence[ManifestEntry]) -> dict[str, ManifestEntry]:
    """Manifests by the names that roles call them; `ValueError` where two have the same."""
    by_name = {entry.name or Path(entry.path).stem: entry for entry in entries}
    if len(by_name) < len(entries):
        raise ValueError(f"{key}: two manifests have the same name; give each a `name` of its own")
    return by_name


def recipe_model(family_name: str = "tiny") -> type[Recipe]:
    """The Recipe with the settings of one family, and of every augmentation that is registered by now."""
    sections = {
        name: model_of(f"{kind.__name__}Section", kind, weight=WEIGHT, sources=SOURCES)
        for name, kind in REGISTRY.items()
    }
    mix = create_model(
        "AugmentSection",
        __base__=Mix,
        __doc__="The augmentations, by name.",
        **{name: (kind | None, Field(None, description=kind.__doc__)) for name, kind in sections.items()},  # type: ignore[call-overload]
    )
    by_itself = [
        name
        for name, kind in sections.items()
        if REGISTRY[name].by_default and not any(entry.is_required() for entry in kind.model_fields.values())
    ]
    name_field = (str, Field("tiny", description="Name of the family."))
    chosen = model_of("FamilySection", family(family_name).settings_type, name=name_field)
    help_of = field_help(Recipe)
    return create_model(
        "Recipe",
        __base__=Recipe,
        __doc__="A whole run.",
        family=(chosen, Field(chosen.model_validate({"name": family_name}), description=help_of["family"])),
        augment=(mix, Field(mix(**{name: {} for name in by_itself}), description=help_of["augment"])),
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, its `base:`s and `key=value` overrides; `ValueError` names the key, the value, and the way out."""
    data = _with_bases(Path(path))
    for override in overrides:
        override_key(data, override)
    return parse_recipe(data, str(path))


def load_settings(path: str | Path, kind: type[Settings]) -> Settings:
    """A dataclass from a YAML file of its own, read as strictly as a recipe; `ValueError`."""
    data, model = read(Path(path)), model_of(kind.__name__, kind)
    try:
        settings: Settings = build(kind, model.model_validate(data))
    except ValidationError as error:
        raise ValueError(f"{path}: {explained(error, model)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return settings


def parse_recipe(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe from plain data."""
    chosen = data.get("family", {})
    name = chosen.get("name", "tiny") if isinstance(chosen, Mapping) else "tiny"
    try:
        family(str(name))
    except ValueError as error:
        raise ValueError(f"{where}: family.name: {error}") from None
    model = recipe_model(str(name))
    try:
        recipe = model.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{where}: {explained(error, model)}") from None
    try:
        # The rooms check their own settings when they are built.
        recipe.make_settings(), recipe.make_view(), recipe.make_loop(), recipe.make_optimizer(), recipe.make_mix()
        recipe.make_limits(), [build(Reading, entry) for entry in recipe.data.manifests]
        _check_evaluate(recipe)
        most, room = recipe.family.max_tokens, recipe.make_loop().budget.max_row_tokens
        if most > room:
            raise ValueError(f"family.max_tokens is {most}, train.max_row_tokens {room}; a sample must fit into a row")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return recipe


def _check_evaluate(recipe: Recipe) -> None:
    asked = recipe.evaluate
    if asked is None:
        return
    build(WatchSettings, asked), asked.needle and build(NeedleTest, asked.needle)
    trained = [(entry.path, build(Reading, entry)) for entry in recipe.data.manifests]
    for entry in asked.manifests:
        if (entry.path, build(Reading, entry)) in trained:
            raise ValueError(
                f"evaluate.manifests: {entry.path} is trained on as it stands; hold a part of it out in both, and take "
                f"it here (held_out: 0.02, part: held_out)"
            )


def schema(family_name: str = "tiny") -> dict[str, Any]:
    """The JSON schema of a recipe with the settings of one family."""
    return recipe_model(family_name).model_json_schema()


def _shape_told(lora: LoraSettings | None) -> str:
    return "none" if lora is None else ", ".join(f"{key} {value}" for key, value in lora.shape.items())


def _with_bases(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """A recipe's data, laid over that of the recipe it builds on; `above` are those that build on it."""
    if path.resolve() in above:
        raise ValueError(f"{path}: base: a recipe cannot build on itself")
    data = read(path)
    name = data.pop("base", None)
    if name is None:
        return data
    base = path.parent / str(name)
    if not base.is_file():
        raise ValueError(f"{path}: base is {name!r}; there is no {base}, and a base is looked for beside its recipe")
    return merged(_with_bases(base, (*above, path.resolve())), data)
