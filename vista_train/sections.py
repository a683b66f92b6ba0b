"""Sections of a recipe: strict frozen models made of dataclasses, and their faults told for people."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import reprlib
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

WANTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "tuple": "a list",
    "dict": "a section with keys of its own",
    "model": "a section with keys of its own",
    "dataclass": "a section with keys of its own",
}
"""What must stand in a recipe, by the first word of pydantic's name for the fault."""


class Strict(BaseModel):
    """Frozen, and deaf to nothing: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _defaults_if_bare(cls, data: Any) -> Any:
        """A section's name with nothing behind it, which YAML reads as null, is the section with its defaults."""
        return {} if data is None else data


class Mix(Strict):
    """Sections that count when they are named: bare ones too."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {key: value or {} for key, value in data.items()} if isinstance(data, Mapping) else data


class Parts(Strict):
    """Parts of a model, each of which may be a section with an optional one inside."""

    @model_validator(mode="before")
    @classmethod
    def _no_bare_lora(cls, data: Any) -> Any:
        """`lora` with nothing behind it may mean its defaults, or none: too dear to guess."""
        for key, value in data.items() if isinstance(data, Mapping) else ():
            if isinstance(value, Mapping) and value.get("lora", 0) is None:
                raise ValueError(f"{key}.lora has nothing behind it; write {{}} for its defaults, or leave it out")
        return data


def field_help(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass; none for a class whose source is nowhere to be read."""
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return {}
    (body,) = ast.parse(textwrap.dedent(source)).body
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
        if entry.name in without:
            continue
        said: dict[str, Any] = {"description": help_of.get(entry.name)}
        if entry.default is not dataclasses.MISSING:
            said["default"] = entry.default
        elif entry.default_factory is not dataclasses.MISSING:
            said["default_factory"] = entry.default_factory
        fields[entry.name] = (hints[entry.name], Field(**said))
    return fields


def model_of(
    title: str, /, *kinds: type, without: Iterable[str] = (), base: type[Strict] = Strict, **more: Any
) -> type[Strict]:
    """A strict model with the fields of the dataclasses, and `more`."""
    fields: dict[str, Any] = {}
    for kind in kinds:
        fields |= fields_of(kind, without)
    doc = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0] for kind in kinds)
    return create_model(title, __base__=base, __doc__=doc, **(fields | more))


def build(kind: type, settings: BaseModel, **more: Any) -> Any:
    """The dataclass from the model's fields of the same names."""
    names = {entry.name for entry in dataclasses.fields(kind)} - set(more)
    return kind(**{name: getattr(settings, name) for name in names}, **more)


def explained(error: ValidationError, model: type[BaseModel]) -> str:
    """Every fault of a recipe as `key is value; it must be ...`, unknown keys with the nearest right one."""
    faults: dict[tuple[int | str, ...], list[Any]] = {}
    for fault in error.errors():
        faults.setdefault(_place(fault["loc"], model), []).append(fault)
    # An entry that is wrong inside counts as missing in its list as well: telling it once is enough.
    inner = [at for at in faults if not any(other != at and other[: len(at)] == at for other in faults)]
    return "; ".join(_told(place, faults[place], model) for place in inner)


def _told(place: tuple[int | str, ...], faults: Sequence[Any], model: type[BaseModel]) -> str:
    key, first = ".".join(map(str, place)), faults[0]
    for fault in faults:
        if fault["type"] == "value_error":
            # A dataclass inside a section says which of its own keys is wrong.
            return f"{key}.{fault['ctx']['error']}"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(model, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        if len(place) == 1:
            # A key at the top that a section has is more likely that one than a name that looks like it.
            near = [f"{name}.{place[0]}" for name in known if place[0] in _known_keys(model, (name,))] or near
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}")
    if first["type"] == "missing":
        return f"{key} is missing"
    wanted = [WANTED.get(fault["type"].split("_")[0]) or fault["msg"] for fault in faults]
    right = ", or ".join(text.removeprefix("Input should be ") for text in wanted)
    # Few faults of pydantic's speak of something else than the value.
    return f"{key}: {right}" if right[0].isupper() else f"{key} is {shown(first['input'])}; it must be {right}"


def shown(value: Any) -> str:
    """A value in a message; what is inside it may be beyond measure, and is left out."""
    kinds: dict[type, str] = {dict: "a section", list: "a list", tuple: "a list"}
    return kinds.get(type(value)) or reprlib.repr(value)


def _place(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[int | str, ...]:
    """Where in a recipe a fault is. A value of several types has a fault for each, whose name pydantic puts behind."""
    kind: Any = model
    place: list[int | str] = []
    for step in loc:
        is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if is_union and step in [entry.__name__ for entry in typing.get_args(kind)]:
            continue
        place.append(step)
        kind = kind if isinstance(step, int) else _keys(kind).get(step)
    return tuple(place)


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys that are allowed in the section at `path`."""
    kind: Any = model
    for step in path:
        kind = kind if isinstance(step, int) else _keys(kind).get(str(step))
    return list(_keys(kind))


def _keys(kind: Any) -> dict[str, Any]:
    """The keys of a section and the types of their values; none where it is no section."""
    found: dict[str, Any] = {}
    for entry in (kind, *typing.get_args(kind)):
        if isinstance(entry, type) and issubclass(entry, BaseModel):
            found |= {name: field.annotation for name, field in entry.model_fields.items()}
        elif isinstance(entry, type) and dataclasses.is_dataclass(entry):
            hints = typing.get_type_hints(entry)
            found |= {field.name: hints[field.name] for field in dataclasses.fields(entry)}
    return found
