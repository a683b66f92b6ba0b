"""Find out what a model understands: needles in haystacks, HRVideoBench, and multiple-choice benchmarks by a mapping.

`needle` hides short clips in long videos of a manifest's clips and draws a heat map; `hrvideobench` and `choice` put
the questions of a file. Answers are weighed by likelihood, nothing is generated. Results go to --out as JSON and PNG,
and as a table to the terminal; started again with the same --out, an evaluation goes on where it was. Exit code 1 where
videos could not be shown: their questions count as wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vista_train.commands.files import describe_reading, reading_of
from vista_train.config import Recipe, load_recipe, load_settings
from vista_train.data.reading import MANIFEST
from vista_train.data.sources import ClipSource
from vista_train.evaluation import report
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.heatmap import heat_map
from vista_train.evaluation.hrvideobench import HRVIDEOBENCH
from vista_train.evaluation.mapping import ColumnMapping, known_mappings, mapping_file, read_rows
from vista_train.evaluation.multiple_choice import answer
from vista_train.evaluation.needle import KINDS, NeedleTest, casts
from vista_train.evaluation.scoring import ModelScorer
from vista_train.models.adapters import holds_adapter, load_tuned
from vista_train.models.base import Family
from vista_train.training.checkpoint import published

TASKS = ("needle", "hrvideobench", "choice")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16", "float16")
OTHER_MEDIA = ("data.proxies=null", "data.frame_cache_gib=null", "data.snap_seconds=0")
"""What a recipe says of its own files holds for no others; pictures are exact."""


@dataclass(frozen=True)
class Loaded:
    """A model to be evaluated."""

    told: str
    """Which it is."""
    recipe: Recipe
    family: Family
    model: Any
    identity: str
    """Names its weights, and how it looks at videos."""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", choices=TASKS, help="what to evaluate")
    parser.add_argument(
        "checkpoint", type=Path, help="a folder step-*, a run's output (its newest checkpoint), or a YAML recipe"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change, as in training")
    parser.add_argument("--root", default=".", help="the folder that all paths are relative to")
    parser.add_argument("--out", type=Path, required=True, help="the folder for results")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, not as a table")
    parser.add_argument("--shifts", action="store_true", help="ask each question with its options in every rotation")
    parser.add_argument("--batch", type=int, default=8, help="questions decoded at a time (default: %(default)s)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: a GPU, if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="(default: bfloat16 on a GPU, else float32)")
    needle = parser.add_argument_group("needle")
    needle.add_argument("--manifest", help="clips, better none that were trained on: a manifest, or see --format")
    needle.add_argument("--lengths", default="8,16,32,64", help="of the videos, with commas (default: %(default)s)")
    needle.add_argument(
        "--unit", choices=("seconds", "frames"), default="seconds", help="of --lengths (default: seconds)"
    )
    needle.add_argument("--fps", type=float, help="look at so many frames a second (default: as the recipe does)")
    needle.add_argument("--depths", default="0,0.25,0.5,0.75,1", help="shares before the needle (default: %(default)s)")
    needle.add_argument("--trials", type=int, default=8, help="needles a cell (default: %(default)s)")
    needle.add_argument("--needle", choices=KINDS, default="video", help="a clip, or a picture of it that is held")
    needle.add_argument("--needle-seconds", type=float, default=2.0, help="how long it lasts (default: %(default)s)")
    needle.add_argument("--seed", type=int, default=0, help="decides needles, haystacks and words (default: 0)")
    choice = parser.add_argument_group("hrvideobench and choice")
    choice.add_argument("--file", type=Path, help="the questions: jsonl, json, parquet or csv")
    choice.add_argument("--mapping", help=f"choice: a YAML file, or one of {', '.join(known_mappings())}")
    describe_reading(parser, MANIFEST)


def run(arguments: argparse.Namespace) -> int:
    needed = {"needle": ["manifest"], "hrvideobench": ["file"], "choice": ["file", "mapping"]}[arguments.task]
    for name in needed:
        if getattr(arguments, name) is None:
            raise ValueError(f"{arguments.task} needs --{name}")
    if arguments.task == "needle":
        return _needle(arguments)
    mapping = HRVIDEOBENCH
    if arguments.task == "choice":
        mapping = load_settings(mapping_file(arguments.mapping), ColumnMapping)
    return _choice(arguments, mapping)


def _needle(arguments: argparse.Namespace) -> int:
    lengths, depths = (_numbers(name, getattr(arguments, name)) for name in ("lengths", "depths"))
    if arguments.fps is not None and not arguments.fps > 0:
        raise ValueError(f"--fps is {arguments.fps}; it must be above 0")
    if arguments.unit == "frames":
        if arguments.fps is None:
            raise ValueError("--unit is frames; say by --fps how many of them a second has")
        lengths = tuple(length / arguments.fps for length in lengths)
    test = NeedleTest(
        lengths,
        depths,
        arguments.trials,
        arguments.needle,
        arguments.needle_seconds,
        shifted=arguments.shifts,
    )
    looks: list[str] = []
    if arguments.fps is not None:
        frames = math.ceil(lengths[-1] * arguments.fps)
        looks = ["view.sampling=fps", f"view.fps={arguments.fps}", f"view.frames={frames}"]
    loaded = load(arguments, looks)
    media = loaded.recipe.make_media()
    rng = np.random.Generator(np.random.Philox(key=arguments.seed))
    clips = ClipSource(arguments.manifest, media, loaded.recipe.data.cache, reading=reading_of(arguments))
    made = casts(test, clips.moving(), media, rng)
    answers = _answers(arguments, loaded, Footage(media), "needle")
    found = heat_map(test, made, answers)
    answers.close()
    media.close()
    result = _header(arguments, loaded) | {"seed": arguments.seed, "manifest": arguments.manifest} | found.to_json()
    report.write_json(arguments.out / "needle.json", result)
    report.plot_heat_map(found, arguments.out / "needle.png", loaded.told)
    print(json.dumps(result) if arguments.json else f"{report.heat_table(found)}\n{arguments.out / 'needle.png'}")
    return 1 if found.failed else 0


def _choice(arguments: argparse.Namespace, mapping: ColumnMapping) -> int:
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}; it must be at least 1")
    rows = read_rows(arguments.file)
    loaded = load(arguments)
    media = loaded.recipe.make_media()
    footage = Footage(media, mapping.folder_fps)
    try:
        questions = list(mapping.questions(rows, footage, arguments.limit))
    except ValueError as error:
        raise ValueError(f"{arguments.file}: {error}") from error
    name = re.sub(r"\W+", "_", mapping.name.lower())
    answers = _answers(arguments, loaded, footage, name)
    found = answer(questions, answers, mapping.name, arguments.shifts)
    answers.close()
    media.close()
    result = _header(arguments, loaded) | {"file": str(arguments.file)} | found.to_json()
    report.write_json(arguments.out / f"{name}.json", result)
    report.plot_choices(found, arguments.out / f"{name}.png", loaded.told)
    print(json.dumps(result) if arguments.json else f"{report.choice_table(found)}\n{arguments.out / name}.png")
    return 1 if found.overall.failed else 0


def load(arguments: argparse.Namespace, looks: Sequence[str] = ()) -> Loaded:
    """The model, on its device and in eval mode; `looks` are overrides that the user's own come on top of."""
    overrides = [f"data.root={json.dumps(str(arguments.root))}", *OTHER_MEDIA, *looks, *arguments.overrides]
    folder = _checkpoint_in(arguments.checkpoint)
    recipe = load_recipe(arguments.checkpoint if folder is None else folder / "recipe.yaml", overrides)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    attention, settings = recipe.make_loop().attention, recipe.make_optimizer()
    if folder is None:
        family = recipe.make_family()
        model: Any = family.load(device, attention=attention)
    else:
        if any(lora.quantize for lora in settings.loras.values()):
            raise ValueError(
                f"{folder} was trained with lora.quantize: its adapters fit a 4-bit model, which is not run"
            )
        family = recipe.make_family(None if holds_adapter(folder) else str(folder))
        model = load_tuned(family, settings.loras, settings.full, device, checkpoint=folder, attention=attention)
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    model.to(device=device, dtype=getattr(torch, dtype)).eval()
    told = str(arguments.checkpoint) if folder is None else f"{folder.parent.name}/{folder.name}"
    return Loaded(told, recipe, family, model, _identity(recipe, folder, dtype))


def _checkpoint_in(path: Path) -> Path | None:
    """The checkpoint that a path names: itself, or a run's newest; None for a recipe."""
    if path.is_file():
        return None
    if (path / "recipe.yaml").is_file():
        return path
    done = published(path)
    if not done:
        raise ValueError(f"{path} is no step-* folder, no run's output with a finished one in it, and no recipe")
    return done[-1]


def _identity(recipe: Recipe, folder: Path | None, dtype: str) -> str:
    """A hash of all that decides what a model answers, weights by the size and time of their files."""
    kept: list[Any] = [
        recipe.model_dump(mode="json", include={"family", "view"}),
        dtype,
        str(Path(recipe.data.root).resolve()),
    ]
    base = folder or (Path(recipe.family.path) if recipe.family.path else None)
    if base is not None:
        files = sorted(base.glob("*.safetensors"))
        kept.append(
            [str(base.resolve()), *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)]
        )
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _answers(arguments: argparse.Namespace, loaded: Loaded, footage: Footage, name: str) -> Answers:
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out is {str(arguments.out)!r}; no folder can be made there: {error.strerror}") from error
    scorer = ModelScorer(loaded.family, loaded.model, footage, loaded.recipe.make_loop().budget.max_row_tokens)
    return Answers(scorer, arguments.out / f"{name}.answers.jsonl", loaded.identity, arguments.batch)


def _header(arguments: argparse.Namespace, loaded: Loaded) -> dict[str, Any]:
    """What a result says of where it comes from."""
    parameter = next(loaded.model.parameters())
    return {
        "task": arguments.task,
        "model": str(arguments.checkpoint),
        "checkpoint": loaded.told,
        "identity": loaded.identity,
        "view": dataclasses.asdict(loaded.recipe.make_view()),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "scored_by": "likelihood",
    }


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} is {text!r}; it must be numbers with commas between them") from None
