"""A model's card: how it was trained, what came of it, how to load it, what is not known; nothing else of the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vista_train.config import Recipe
from vista_train.data.records import HUB
from vista_train.models.base import PARTS, family
from vista_train.models.hub_family import HubFamily
from vista_train.publishing.repository import MARKER
from vista_train.publishing.shared import file_name, public_name

TAGS = ("vista_train", "video", "long-video", "high-resolution-video")
MEASURES = {"choice": "multiple choice", "exact": "exact match"}
"""What needles are asked by (evaluation/heatmap.py)."""


@dataclass(frozen=True)
class Trained:
    """All that a card is made of."""

    name: str
    """Of the repository, `owner/name`."""
    recipe: Recipe
    step: int | None = None
    """After which step the weights were written, if that is known."""
    log: Sequence[Mapping[str, Any]] = ()
    """The lines of log.jsonl up to that step."""
    held_out: Sequence[Mapping[str, Any]] = ()
    """The lines of evaluations.jsonl up to that step."""
    base_model: str | None = None
    """What the Hub calls the checkpoint that the run began with; default, what its path says."""
    model_type: str = ""
    """Of the weights, or of those that the adapters stand beside, as their config.json has it."""
    is_adapter: bool = False
    layout: str = "hub"
    """`published`: that of the code the model was published with."""
    has_processor: bool = False
    """Whether the files of a processor of transformers lie beside the weights."""
    results: Sequence[Mapping[str, Any]] = ()
    """What `vista-train evaluate` wrote."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str | None:
        """What the Hub calls the checkpoint that the run began with."""
        return self.base_model or public_name(self.recipe.family.path)


def card(trained: Trained) -> str:
    """The text of a README.md with its YAML front matter. Of paths only file names are told."""
    sections = {
        "How it was trained": [*_table(("", ""), _training(trained)), "", *_mix(trained.recipe)],
        "What the run took": _figures(trained),
        "Evaluation": [*_held_out(trained.held_out), *_evaluation(trained.results)],
        "How to load it": _loading(trained),
        "Versions": [", ".join(f"{name} {version}" for name, version in trained.versions.items()) or "Not recorded."],
        "What is not known": [f"* {line}" for line in _unknown(trained)],
    }
    lines = [*_front_matter(trained), MARKER, "", f"# {trained.name.split('/')[-1]}", "", _about(trained)]
    for title, told in sections.items():
        lines += ["", f"## {title}", "", *told]
    return "\n".join(lines) + "\n"


def _front_matter(trained: Trained) -> list[str]:
    """Metadata as the Hub reads it. Its values are JSON, which is YAML."""
    has_loras = bool(trained.recipe.make_optimizer().loras)
    library = "peft" if trained.is_adapter else "transformers" if _class_of(trained)[1] else "vista_train"
    data: dict[str, Any] = {"library_name": library, "pipeline_tag": "video-text-to-text"}
    if trained.base:
        data["base_model"] = trained.base
        data["base_model_relation"] = "adapter" if trained.is_adapter else "finetune"
    names = [entry.path.removeprefix(HUB) for entry in trained.recipe.data.manifests if entry.path.startswith(HUB)]
    if names:
        data["datasets"] = names
    data["tags"] = [*TAGS, *(["lora"] if has_loras else [])]
    return ["---", *(f"{key}: {json.dumps(value)}" for key, value in data.items()), "---"]


def _about(trained: Trained) -> str:
    what = "Adapters (PEFT) for" if trained.is_adapter else "Weights of"
    return (
        f"{what} a model of the family `{trained.recipe.family.name}`, trained by `vista_train` on long and "
        f"high-resolution videos that were composed of short captioned clips while it trained (the augmentations of "
        f"VISTA, arXiv 2412.00927, and others). `recipe.yaml` beside this card holds every "
        f"setting that decided what it learnt."
    )


def _training(trained: Trained) -> list[tuple[str, str]]:
    recipe = trained.recipe
    loop, settings = recipe.make_loop(), recipe.make_optimizer()
    parts = {part: settings.told(part).removeprefix(" at ") for part in PARTS}
    quantized = [part for part, lora in settings.loras.items() if lora.quantize]
    path = recipe.family.path
    began = trained.base or (file_name(path) if path else "random weights")
    rows = [
        ("began with", began),
        ("view", recipe.make_view().told()),
        ("tokens a sample, at most", f"{recipe.family.max_tokens:,}"),
        ("steps", "not known" if trained.step is None else f"{trained.step:,}"),
        ("samples a step", f"{loop.budget.batch_samples:,}"),
        *((f"{part} (peak learning rate)", told or "frozen") for part, told in parts.items()),
        ("warm-up, end of the cosine", f"{settings.warmup_share:g} of the steps, {settings.final_share:g} of the peak"),
        ("weight decay, gradients clipped to", f"{settings.weight_decay:g}, {settings.clip_norm:g}"),
        ("labels weigh by", loop.loss_weight),
        ("seed", str(recipe.seed)),
    ]
    if quantized:
        rows.append(("in 4 bits (NF4) beside their adapters", ", ".join(quantized)))
    return [*rows, ("clips from", "; ".join(_manifests(recipe)))]


def _manifests(recipe: Recipe) -> Iterable[str]:
    for entry in recipe.data.manifests:
        path = entry.path if entry.path.startswith(HUB) else file_name(entry.path)
        yield f"{entry.name + ': ' if entry.name else ''}{path} (weight {entry.weight:g})"


def _mix(recipe: Recipe) -> list[str]:
    mix = [item for item in recipe.make_mix() if item.weight]
    total = sum(item.weight for item in mix)
    rows = [
        (
            f"`{item.augment.name}`",
            f"{item.weight:g}",
            f"{item.weight / total:.1%}",
            "; ".join(f"{role}: {', '.join(names)}" for role, names in item.sources.items()) or "any",
        )
        for item in mix
    ]
    return _table(("augmentation", "weight", "share", "drawn from"), rows)


def _figures(trained: Trained) -> list[str]:
    """What the log says, over all of its steps."""
    log = trained.log
    if not log:
        return ["The log of the run was not at hand."]
    last, first = log[-1], log[0]
    lost, samples = sum(line["failed"] for line in log), sum(line["samples"] for line in log)
    hours = sum(line["seconds"] * line["devices"] for line in log) / 3600
    rows = [
        ("loss of the last step", f"{last['loss']:.4f} (of the first, {first['loss']:.4f})"),
        ("tokens", f"{sum(line['tokens'] for line in log):,}"),
        ("frames", f"{sum(line['frames'] for line in log):,}"),
        ("samples", f"{samples:,}, of which {lost:,} were lost or replaced"),
        ("device hours", f"{hours:.3g} (of {_devices(log)})"),
    ]
    return _table(("", ""), rows)


def _devices(log: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({line["devices"] for line in log})
    return f"{' or '.join(map(str, counts))} device{'s' * (counts != [1])}"


def _held_out(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The last held-out losses; nothing where none were taken."""
    found = [line for line in lines if line["loss"] is not None]
    if not found:
        return []
    last = found[-1]
    # Of other held-out samples, losses cannot be compared.
    alike = [line for line in found if line["key"] == last["key"] and line["step"]]
    lowest = min(alike, key=lambda line: line["loss"], default=last)
    rows = [("all", f"{last['loss']:.4f}"), *((f"`{name}`", f"{loss:.4f}") for name, loss in last["losses"].items())]
    told = f"Held-out loss (mean cross entropy over labels) after step {last['step']}"
    if lowest["step"] != last["step"]:
        told += f"; it was lowest after step {lowest['step']}, {lowest['loss']:.4f}"
    return [f"{told}:", "", *_table(("augmentation", "loss"), rows), ""]


def _evaluation(results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return ["No results of `vista-train evaluate` were at hand."]
    rows = [row for result in results for row in _result_rows(result)]
    return [
        *_table(("what", "right", "95 % interval (Wilson)", "questions", "chance"), rows),
        "",
        "By `vista-train evaluate`: answers are weighed by likelihood, nothing is generated; videos that could not be "
        "shown count as wrong.",
    ]


def _result_rows(result: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    """A line for each figure of one result."""
    chance = f"{result['chance']:.1%}"
    if "test" in result:
        test = result["test"]
        lengths = test["lengths_seconds"]
        what = f"needle in a haystack ({test['kind']}, {min(lengths):g} to {max(lengths):g} s)"
        for measure, title in MEASURES.items():
            if result["overall"].get(measure):
                yield f"{what}, {title}", *_share(result["overall"][measure]), chance if measure == "choice" else ""
        return
    shifted = ", right in every shift of the options" if result["shifted"] else ""
    yield f"{result['benchmark']}{shifted}", *_share(result["overall"]), chance
    for name, values in result["groups"].items():
        for value, found in values.items():
            yield f"{result['benchmark']}, {name.split('.')[-1]}: {value}", *_share(found), chance


def _share(found: Mapping[str, Any]) -> tuple[str, str, str]:
    failed = f" ({found['failed']} could not be shown)" if found["failed"] else ""
    return f"{found['share']:.1%}", f"{found['low']:.1%} to {found['high']:.1%}", f"{found['count']:,}{failed}"


def _class_of(trained: Trained) -> tuple[str, bool]:
    """The class of the model, and whether it is one of transformers' own."""
    kind = family(trained.recipe.family.name)
    types: Mapping[Any, Any] = kind.model_types if issubclass(kind, HubFamily) else {}
    known = {config.model_type: model for config, model in types.items()}
    chosen = known.get(trained.model_type) or next(iter(known.values()), None)
    if chosen is None:
        return "", False
    return chosen.__name__, chosen.__module__.startswith("transformers.")


def _loading(trained: Trained) -> list[str]:
    """Lines that load what was uploaded."""
    if trained.layout == "published":
        return ["The files have the layout in which the model was first published; the code of that model loads them."]
    name, is_theirs = _class_of(trained)
    if not is_theirs:
        return _fenced(_by_recipe(trained))
    reader = "AutoProcessor" if trained.has_processor else "AutoTokenizer"
    variable = reader.removeprefix("Auto").lower()
    read = f'{variable} = {reader}.from_pretrained("{trained.name}")'
    if not trained.is_adapter:
        lines = [f"from transformers import {reader}, {name}", ""]
        return _fenced([*lines, f'model = {name}.from_pretrained("{trained.name}", dtype="auto")', read])
    base = trained.base or f"FOLDER OF {file_name(trained.recipe.family.path)}"
    return _fenced(
        [
            "from peft import PeftModel",
            f"from transformers import {reader}, {name}",
            "",
            f'base = {name}.from_pretrained("{base}", dtype="auto")',
            f'model = PeftModel.from_pretrained(base, "{trained.name}")',
            read,
        ]
    )


def _by_recipe(trained: Trained) -> list[str]:
    """Where transformers has no such model, it is the recipe that makes it."""
    lines = ["from huggingface_hub import snapshot_download"]
    lines += ["from peft import PeftModel"] if trained.is_adapter else []
    lines += ["from vista_train.config import load_recipe", "", f'folder = snapshot_download("{trained.name}")']
    if not trained.is_adapter:
        return [*lines, 'family = load_recipe(f"{folder}/recipe.yaml").make_family(folder)', "model = family.load()"]
    moved = ""
    if trained.recipe.family.path:
        moved = f', ["family.path=FOLDER OF {trained.base or file_name(trained.recipe.family.path)}"]'
    return [
        *lines,
        f'family = load_recipe(f"{{folder}}/recipe.yaml"{moved}).make_family()',
        "model = PeftModel.from_pretrained(family.load(), folder)",
    ]


def _unknown(trained: Trained) -> list[str]:
    lines = []
    if not trained.results:
        lines.append("How well it understands video: it was not evaluated by whoever wrote this card.")
    if not trained.log:
        lines.append("What the run took, and what it lost.")
    if trained.recipe.family.path and not trained.base:
        lines.append(f"Where `{file_name(trained.recipe.family.path)}`, which it began with, was published.")
    return [
        *lines,
        "Under which licence it may be used: that follows from the checkpoint it began with and from the clips.",
        "What is in the clips and their captions beyond what the recipe says, and whether any test set is among them.",
        "What it says of videos unlike these: nothing was done to make it safe to rely on.",
    ]


def _fenced(lines: Sequence[str]) -> list[str]:
    return ["```python", *lines, "```"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    told = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in told]


def _cell(text: str) -> str:
    """One line that neither ends a cell nor begins a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
