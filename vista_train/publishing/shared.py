"""What of a run others may see: its recipe and its checkpoint's configurations, without paths, names and secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vista_train.config import Recipe, parse_recipe
from vista_train.data.records import HUB
from vista_train.redact import redacted

LEFT_OUT = {"": ("output", "evaluate"), "data": ("root", "cache", "proxies"), "train": ("wandb",)}
"""Keys by section that say something of the machine and the person, and nothing of what the model was trained on."""
CACHED = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/[^/]+/?$")
"""How the Hub's own cache calls the folder of a checkpoint."""
OF_PATHS = ("base_model_name_or_path", "name_or_path", "_name_or_path")
"""Where configurations of PEFT and transformers say in which folder they were found."""

HOMES = ("/home/", "/root/", "/Users/", "/mnt/", "~/")
"""How a path begins that says something of a person or a machine; other texts may begin with a slash, as tokens do."""


def public_name(path: str | None) -> str | None:
    """What the Hub calls the checkpoint in a folder; None unless the folder lies in the Hub's own cache.

    The last two steps of any other path may be a name on the Hub, or a folder of downloads and a file in it.
    """
    found = CACHED.search(path or "")
    return f"{found['owner']}/{found['name']}" if found else None


def shared_recipe(recipe: Recipe, base: str | None = None) -> Recipe:
    """The recipe as it may be seen, and can still be read: files by their names alone, places and accounts left out.

    `base` is what the Hub calls the checkpoint that it started from.
    """
    data = recipe.model_dump(mode="json", exclude_none=True)
    for section, keys in LEFT_OUT.items():
        for key in keys:
            (data[section] if section else data).pop(key, None)
    family = data["family"]
    if family.get("path"):
        family["path"] = base or file_name(family["path"])
    if family.get("chat_template"):
        family["chat_template"] = file_name(family["chat_template"])
    for manifest in data["data"]["manifests"]:
        # Roles may name it by what it was called.
        manifest["name"] = manifest["name"] or PurePosixPath(manifest["path"]).stem
        if not manifest["path"].startswith(HUB):
            manifest["path"] = file_name(manifest["path"])
        if manifest.get("tars"):
            manifest["tars"] = file_name(manifest["tars"])
        columns = manifest.get("columns", {})
        if "{" in columns.get("video", ""):
            # Folders before the first placeholder are this machine's.
            before, brace, rest = columns["video"].partition("{")
            columns["video"] = before.rpartition("/")[2] + brace + rest
    return parse_recipe(_without_places(data))


def shared_configs(folder: Path, base: str | None = None) -> dict[str, str]:
    """A checkpoint's configurations that would name folders of this machine, by file name, without them."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        # A tokenizer of many megabytes is not read for what it does not hold.
        if not any(f'"{key}"' in text for key in OF_PATHS) and not any(f'"{root}' in text for root in HOMES):
            continue
        data = json.loads(text)
        changed = _without_folders(data, base)
        if changed != data:
            found[path.name] = json.dumps(changed, indent=2, ensure_ascii=False) + "\n"
    return found


def file_name(path: str) -> str:
    """The last step of a path, of a pattern too."""
    return PurePosixPath(path).name or path


def _without_places(data: Any) -> Any:
    """Plain data in which every text that is an absolute path is its last step, and secrets are masked."""
    if isinstance(data, Mapping):
        return {key: _without_places(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_places(value) for value in data]
    if not isinstance(data, str):
        return data
    return file_name(data) if data.startswith(("/", "~")) else redacted(data)


def _without_folders(data: Any, base: str | None) -> Any:
    """A configuration in which OF_PATHS, and other paths below somebody's home, name no folder of this machine."""
    if isinstance(data, list):
        return [_without_folders(value, base) for value in data]
    if isinstance(data, str) and data.startswith(HOMES):
        return file_name(data)
    if not isinstance(data, Mapping):
        return data
    told = {}
    for key, value in data.items():
        if key in OF_PATHS and isinstance(value, str):
            told[key] = (base or public_name(value) or file_name(value)) if value else value
        else:
            told[key] = _without_folders(value, base)
    return told
