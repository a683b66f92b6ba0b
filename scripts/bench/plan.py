"""What it costs to plan a training position, by family and by stage: median milliseconds a sample on one core.

    python scripts/bench/plan.py [--families longva qwen3_vl] [--tokenizer folder] [--root folder] [--json]

Every family is measured on a small checkpoint, at the frames and the tokens a frame of its recipe in `recipes/`. The
clips are those of `clips.jsonl` under `--root`, by default a rendered world. `--tokenizer` puts a real tokenizer in
place of the checkpoint's, which has a token a byte.

cast: draw the augmentation and the clips that play in it. compose: the augmentation itself, with its times, words and
its look at the evidence. plan: sample the times and count the tokens. seen: look at the evidence again, where frames
were dropped. total: all of it, as `VistaDataset.plan` does it; a position that needs several casts counts in full.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vista_train.augment import Augment
from vista_train.config import load_recipe
from vista_train.data import dataset as planning
from vista_train.models.codec import MediaCodec

SCRIPTS = Path(__file__).parents[1]
sys.path.insert(0, str(SCRIPTS))
STAGES = ("cast", "compose", "plan", "seen", "total")


@dataclass(frozen=True)
class Setup:
    """A family as its recipe has it: its view, and the tokens of a frame where the small checkpoint has fewer."""

    view: str
    layout: Mapping[str, int]
    name: str = ""
    """The family's name, where it is not the checkpoint's."""


SETUPS = {
    "longva": Setup("frames=64 width=56 height=56 fit=squash", {"tokens_per_tile": 144}),
    "mantis": Setup("frames=24 width=980 height=551 fit=native multiple=14", {"latents": 64}),
    "video_llava": Setup("frames=8 width=56 height=56 fit=crop", {"patches_per_frame": 256}),
    "qwen2_5_vl": Setup(
        "frames=64 sampling=fps fps=2.0 width=448 height=448 fit=native multiple=28", {}, name="qwen_vl"
    ),
    "qwen3_vl": Setup("frames=64 sampling=fps fps=2.0 width=512 height=512 fit=native multiple=32", {}, name="qwen_vl"),
    "smolvlm": Setup("frames=32 width=56 height=56 fit=letterbox", {"tokens_per_frame": 64}),
    "internvl": Setup("frames=32 width=56 height=56 fit=squash", {"tokens_per_frame": 256}),
    "llava_onevision": Setup("frames=32 width=70 height=70 fit=squash", {"tokens_per_frame": 196}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=tuple(SETUPS), default=tuple(SETUPS), metavar="FAMILY")
    parser.add_argument(
        "--recipe", default=str(SCRIPTS.parent / "recipes" / "real_clips.yaml"), help="its mix is drawn"
    )
    parser.add_argument("--root", type=Path, help="a folder of clips with clips.jsonl, instead of a rendered world")
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer")
    parser.add_argument("--out", type=Path, default=Path("out/bench_plan"), help="where world and checkpoints are made")
    parser.add_argument("--positions", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = args.root or make_world(args.out / "clips")
    figures = {}
    for kind in args.families:
        dataset = make_dataset(kind, args.recipe, root, args.out / kind, args.tokenizer)
        figures[kind] = measure(dataset, args.positions)
        print(f"{kind} done", file=sys.stderr, flush=True)
    print_table(figures, args.positions)
    if args.json:
        print(json.dumps(figures))


def make_world(folder: Path) -> Path:
    subprocess.run([sys.executable, str(SCRIPTS / "make_clips.py"), "--out", str(folder)], check=True)
    return folder


def make_dataset(
    kind: str, recipe_path: str, root: Path, folder: Path, tokenizer_folder: Path | None
) -> planning.VistaDataset:
    """The recipe's dataset, with a family's codec on a small checkpoint that is made once."""
    setup = SETUPS[kind]
    if not (folder / "config.json").exists():
        subprocess.run([sys.executable, str(SCRIPTS / "make_checkpoint.py"), kind, str(folder)], check=True)
    overrides = [f"family.name={setup.name or kind}", f"family.path={folder}", "family.max_tokens=32768"]
    overrides += [f"view.{setting}" for setting in (*setup.view.split(), "min_pixels=3")]
    recipe = load_recipe(recipe_path, [*overrides, "train.max_row_tokens=32768", f"data.root={root}"])
    codec: Any = recipe.make_family().codec
    codec = replace(codec, layout=replace(codec.layout, **setup.layout))
    if tokenizer_folder is not None:
        codec = replace(codec, tokenizer=real_tokenizer(tokenizer_folder, codec))
    return recipe.make_dataset(codec)


def real_tokenizer(folder: Path, codec: MediaCodec) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, with the special tokens and the chat template of the codec's."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_tokens([*codec.chat.reserved, codec.chat.end], special_tokens=True)
    tokenizer.chat_template = codec.tokenizer.chat_template
    return tokenizer


class Stopwatch:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted as this stage's."""

        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds[stage] += time.perf_counter() - began

        return timed

    def install(self) -> Callable[[], None]:
        """Count what planning calls from now on, until the result is called."""
        places = ((Augment, "__call__", "compose"), (MediaCodec, "plan", "plan"), (planning, "check_seen", "seen"))
        originals = [getattr(holder, name) for holder, name, _ in places]
        for (holder, name, stage), original in zip(places, originals, strict=True):
            setattr(holder, name, self.timed(stage, original))

        def undo() -> None:
            for (holder, name, _), original in zip(places, originals, strict=True):
                setattr(holder, name, original)

        return undo


def measure(dataset: planning.VistaDataset, num_positions: int) -> dict[str, float]:
    """Median milliseconds of each stage, over the positions that follow a warm-up of as many."""
    for position in range(num_positions):
        dataset.plan(position)
    watch, spent = Stopwatch(), defaultdict(list)
    undo = watch.install()
    gc.collect()
    try:
        for position in range(num_positions, 2 * num_positions):
            watch.seconds.clear()
            began = time.perf_counter()
            dataset.plan(position)
            watch.seconds["total"] = time.perf_counter() - began
            watch.seconds["cast"] = 2 * watch.seconds["total"] - sum(watch.seconds.values())
            for stage in STAGES:
                spent[stage].append(1000 * watch.seconds[stage])
    finally:
        undo()
    return {stage: round(statistics.median(values), 3) for stage, values in spent.items()}


def print_table(figures: Mapping[str, Mapping[str, float]], num_positions: int) -> None:
    print(f"median ms a sample over {num_positions} positions, one core")
    print(f"{'family':<18}" + "".join(f"{stage:>10}" for stage in STAGES))
    for kind, found in figures.items():
        print(f"{kind:<18}" + "".join(f"{found[stage]:>10.3f}" for stage in STAGES))


if __name__ == "__main__":
    main()
