"""YAML as plain data, read strictly, laid over other data, and written; no other module reads or writes any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vista_train.sections import shown

MAX_RECIPE_BYTES = 1 << 20
MAX_RECIPE_VALUES = 100_000
"""... and so many values, each alias counted as all that it stands for: sections are copied, and bases merged."""


def dumped(data: Mapping[str, Any]) -> str:
    """Data as YAML, its keys in their order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def read(path: Path) -> dict[str, Any]:
    """A file's mapping of keys to values; `ValueError` where it is none."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such recipe")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ValueError(f"{path}: a recipe is at most {MAX_RECIPE_BYTES} bytes long")
    try:
        data = parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a recipe is a mapping of keys to values, not a {type(data).__name__}")
    return data


def parsed(text: str) -> Any:
    """YAML as plain data; `ValueError` in one line, also where a section names a key twice."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_doubles(root, set())
        if _num_values(root, {}) > MAX_RECIPE_VALUES:
            raise ValueError(f"more than {MAX_RECIPE_VALUES} values, its aliases unfolded")
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{error.problem}{place}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _refuse_doubles(node: yaml.Node | None, seen: set[int]) -> None:
    """YAML keeps the last of two values of a key and says nothing. Aliased nodes are in `seen`, and looked at once."""
    if node is None or isinstance(node, yaml.ScalarNode) or id(node) in seen:
        return
    seen.add(id(node))
    inside = node.value
    if isinstance(node, yaml.MappingNode):
        known: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in known:
                raise ValueError(f"{key.value} stands twice in one section (line {key.start_mark.line + 1})")
            known.add(str(key.value))
        inside = [value for _, value in node.value]
    for entry in inside:
        _refuse_doubles(entry, seen)


def _num_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values there are in a node, aliases unfolded; one that holds itself has too many."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_RECIPE_VALUES + 1
        inside = [value for _, value in node.value] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_num_values(entry, known) for entry in inside)
    return known[id(node)]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings key by key, everything else replaced."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def override_key(data: dict[str, Any], override: str) -> None:
    """Put one `a.b.c=value` into the data; the value is read as YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: write it as key=value, such as train.steps=100")
    try:
        value = parsed(text)
    except ValueError as error:
        raise ValueError(f"override {override!r}: the value is not YAML: {error}") from None
    *path, last = key.split(".")
    place: Any = data
    for step in path:
        if isinstance(place, list):
            place = place[_index(place, step, key)]
        else:
            if place.get(step) is None:
                place[step] = {}
            place = place[step]
        if not isinstance(place, (dict, list)):
            raise ValueError(f"override {override!r}: {step} is {shown(place)}, not a section with keys of its own")
    place[_index(place, last, key) if isinstance(place, list) else last] = value


def _index(entries: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(entries):
        raise ValueError(f"override {key!r}: {step!r} is not the number of an entry; there are {len(entries)}, from 0")
    return int(step)
