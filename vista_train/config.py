"""Recipe: everything a run is made of, as strict frozen models built from the rooms' own dataclasses.

A recipe is YAML: one file, at most one `base:` file it builds on, and `key=value` overrides. An unknown key is an
error that names the nearest right one. No other module reads YAML.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from vista_train.augment import REGISTRY
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.rows import RowBudget
from vista_train.data.sources import ClipSource
from vista_train.models.base import Codec, Family, family, load_family
from vista_train.training.loop import LoopSettings
from vista_train.training.optimizer import OptimizerSettings
from vista_train.types import Failure
from vista_train.video.sampling import View

MAX_RECIPE_BYTES = 1 << 20


class Strict(BaseModel):
    """Frozen, and deaf to nothing: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def field_help(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for entry, after in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name) and is_text:
            found[entry.target.id] = inspect.cleandoc(str(after.value.value))  # type: ignore[attr-defined]
    return found


def fields_of(kind: type, without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass as pydantic takes them: type, default and help."""
    hints, help_of = typing.get_type_hints(kind), field_help(kind)
    fields: dict[str, Any] = {}
    for entry in dataclasses.fields(kind):
        if entry.name not in without:
            fields[entry.name] = (hints[entry.name], Field(default=entry.default, description=help_of.get(entry.name)))
    return fields


def model_of(title: str, /, *kinds: type, without: Iterable[str] = (), **more: Any) -> type[Strict]:
    """A strict model with the fields of the dataclasses, and `more`."""
    fields: dict[str, Any] = {}
    for kind in kinds:
        fields |= fields_of(kind, without)
    doc = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0] for kind in kinds)
    return create_model(title, __base__=Strict, __doc__=doc, **(fields | more))


def build(kind: type, settings: BaseModel, **more: Any) -> Any:
    """The dataclass from the model's fields of the same names."""
    names = {entry.name for entry in dataclasses.fields(kind)} - set(more)
    return kind(**{name: getattr(settings, name) for name in names}, **more)


class ManifestEntry(Strict):
    """One manifest: a JSONL file of clips."""

    path: str
    """The JSONL file, relative to `data.root` (or absolute)."""
    name: str = ""
    """What roles call it; default, the file's name without its ending."""
    weight: float = Field(1.0, ge=0)
    """How often an anchor clip is drawn from it, against the other manifests."""


class DataSection(Strict):
    """Where clips come from."""

    root: str = "."
    """The folder that every path in the manifests is relative to."""
    manifests: tuple[ManifestEntry, ...] = Field((ManifestEntry(path="clips.jsonl"),), min_length=1)
    """The manifests."""
    epoch_samples: int | None = Field(None, ge=1)
    """Samples in an epoch; default, the number of clips."""
    reader: str = "auto"
    """The decoder: auto, pyav, decord or torchcodec."""
    cache: str | None = None
    """Where indexes and probed headers are kept; default, $VISTA_TRAIN_CACHE or ~/.cache/vista_train."""


WEIGHT = (float, Field(1.0, ge=0, description="How often it is drawn, against the other augmentations; 0 is never."))
SOURCES = (
    dict[str, tuple[str, ...]],
    Field({}, description="The manifests that each role draws from, by role; default, all of them."),
)
ViewSection = model_of("ViewSection", View)
TrainSection = model_of("TrainSection", LoopSettings, RowBudget, OptimizerSettings, without=("budget",))


class Recipe(Strict):
    """A whole run. `recipe_model` adds the sections whose keys depend on what is registered."""

    output: str = "out/run"
    """The folder of checkpoints, log and ledger."""
    seed: int = Field(0, ge=0)
    """Decides every draw of the data."""
    family: Any
    """The model family by `name`, and its settings."""
    view: ViewSection = ViewSection()  # type: ignore[valid-type]
    """How the model looks at a video."""
    data: DataSection = DataSection()
    """Where clips come from."""
    augment: Any
    """The augmentations to draw from, by name; default, all of them evenly."""
    train: TrainSection = TrainSection()  # type: ignore[valid-type]
    """How to train."""

    def make_view(self) -> View:
        """How the model looks at a video."""
        return build(View, self.view)

    def make_family(self, path: str | None = None) -> Family:
        """The family with its settings; `path` puts a checkpoint's weights in place of the recipe's."""
        kind = family(self.family.name)
        settings = build(kind.settings_type, self.family)
        return load_family(kind.name, dataclasses.replace(settings, path=path) if path else settings, self.make_view())

    def make_loop(self) -> LoopSettings:
        """How long to train, and how large rows are."""
        return build(LoopSettings, self.train, budget=build(RowBudget, self.train))

    def make_optimizer(self) -> OptimizerSettings:
        """What trains, and how fast."""
        return build(OptimizerSettings, self.train)

    def make_mix(self) -> tuple[Ingredient, ...]:
        """The augmentations with their weights and sources; those the recipe does not name are not in it."""
        chosen = {name: section for name, section in self.augment if section is not None}
        return tuple(
            Ingredient(build(REGISTRY[name], section), section.weight, section.sources)
            for name, section in chosen.items()
        )

    def make_dataset(self, codec: Codec, known_failures: Iterable[Failure] = ()) -> VistaDataset:
        """The dataset over the recipe's manifests; opens (and on first use, indexes) them."""
        entries = {entry.name or Path(entry.path).stem: entry for entry in self.data.manifests}
        if len(entries) < len(self.data.manifests):
            raise ValueError("data.manifests: two manifests have the same name; give each a `name` of its own")
        root = Path(self.data.root)
        sources = {name: ClipSource(root / entry.path, root, self.data.cache) for name, entry in entries.items()}
        return VistaDataset(
            sources,
            self.make_mix(),
            codec,
            root,
            weights={name: entry.weight for name, entry in entries.items()},
            seed=self.seed,
            epoch_samples=self.data.epoch_samples,
            reader=self.data.reader,
            known_failures=known_failures,
        )

    def to_yaml(self) -> str:
        """The resolved recipe: every key with its value, as it can be loaded again."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def recipe_model(family_name: str = "tiny") -> type[Recipe]:
    """The Recipe with the settings of one family, and of every augmentation that is registered by now."""
    sections = {
        name: model_of(f"{kind.__name__}Section", kind, weight=WEIGHT, sources=SOURCES)
        for name, kind in REGISTRY.items()
    }
    mix = create_model(
        "AugmentSection",
        __base__=Strict,
        **{name: (kind | None, Field(None, description=kind.__doc__)) for name, kind in sections.items()},  # type: ignore[call-overload]
    )
    chosen = model_of(
        "FamilySection", family(family_name).settings_type, name=(str, Field("tiny", description="Name of the family."))
    )
    return create_model(
        "Recipe",
        __base__=Recipe,
        family=(chosen, chosen(name=family_name)),
        augment=(mix, mix(**{name: {} for name in sections})),
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, its `base:` and `key=value` overrides; `ValueError` names the key, the value, and the way out."""
    data = _read(Path(path))
    if "base" in data:
        base = Path(path).parent / str(data.pop("base"))
        below = _read(base)
        if "base" in below:
            raise ValueError(f"{base}: base: a recipe that others build on cannot have a base itself")
        data = _merged(below, data)
    for override in overrides:
        _override(data, override)
    return parse_recipe(data, str(path))


def parse_recipe(data: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """The recipe from plain data."""
    chosen = data.get("family", {})
    name = chosen.get("name", "tiny") if isinstance(chosen, Mapping) else "tiny"
    model = recipe_model(str(name))
    try:
        recipe = model.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{where}: {_explained(error, model)}") from None
    # The rooms check their own settings when they are built.
    recipe.make_view(), recipe.make_loop(), recipe.make_optimizer(), recipe.make_mix()
    return recipe


def schema() -> dict[str, Any]:
    """The JSON schema of a recipe."""
    return recipe_model().model_json_schema()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such recipe")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ValueError(f"{path}: a recipe is at most {MAX_RECIPE_BYTES} bytes long")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values, not a {type(data).__name__}")
    return data


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings key by key, everything else replaced."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _override(data: dict[str, Any], override: str) -> None:
    """Put one `a.b.c=value` into the data; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: write it as key=value, such as train.steps=100")
    *path, last = key.split(".")
    place: Any = data
    for step in path:
        if isinstance(place, list):
            place = place[_index(place, step, key)]
            continue
        if place.get(step) is None:
            place[step] = {}
        place = place[step]
        if not isinstance(place, (dict, list)):
            raise ValueError(f"override {override!r}: {step} is {place!r}, not a section with keys of its own")
    place[_index(place, last, key) if isinstance(place, list) else last] = yaml.safe_load(text)


def _index(entries: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(entries):
        raise ValueError(f"override {key!r}: {step!r} is not the number of an entry; there are {len(entries)}, from 0")
    return int(step)


def _explained(error: ValidationError, model: type[BaseModel]) -> str:
    """Every fault of a recipe as `key: what is wrong`, unknown keys with the nearest right one."""
    faults = []
    for fault in error.errors():
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            *path, last = fault["loc"]
            known = _known_keys(model, path)
            near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            faults.append(f"{key}: unknown key; {advice}")
        else:
            faults.append(f"{key}: {fault['msg']} (it is {fault['input']!r:.80})")
    return "; ".join(faults)


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys that are allowed in the section at `path`."""
    kind: Any = model
    for step in path:
        if isinstance(step, int):
            continue
        inside = kind.model_fields[step].annotation
        models = [inside, *typing.get_args(inside)]
        kind = next(entry for entry in models if isinstance(entry, type) and issubclass(entry, BaseModel))
    return list(kind.model_fields)
