"""Run by `accelerate launch` in each of several processes: steps over rows drawn at random, unlike on every rank.

    python tests/training/random_rows.py [--engines zero3 fsdp2] [--steps 200] [--limit 120]

launches two processes for each engine, and compares what they find with one process.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from accelerate import DistributedType

from tests.training.engine_ranks import set_up_cpu
from tests.training.launching import REPO, command, environment, launch
from vista_train.data.collate import PackedCollator
from vista_train.models import load_family, offload
from vista_train.models.hub_family import HubFamily
from vista_train.models.likelihood import Look
from vista_train.training.loop import Trainer, shut_down
from vista_train.training.loss import IGNORED
from vista_train.training.optimizer import OptimizerSettings
from vista_train.training.report import Report, Wait
from vista_train.training.settings import LoopSettings, Recomputed
from vista_train.types import Encoded, Message, Row, Sample
from vista_train.video.composition import Clip
from vista_train.video.sampling import View

RANKS = 2
TOLERANCE = 1e-5
CLIPS = {
    "wide": Clip("wide.mp4", Fraction(0), Fraction(10), 320, 240),
    "tall": Clip("tall.mp4", Fraction(0), Fraction(3), 240, 400),
    "square": Clip("square.mp4", Fraction(0), Fraction(3), 300, 300),
    "picture": Clip("picture.png", Fraction(0), Fraction(1), 300, 200, 1),
    "text": None,
}
ROWS = (("wide",), ("picture",), ("text",), (), ("tall", "text", "wide"), ("picture", "square", "tall", "wide"))
"""What a row may hold: a video, a picture, words alone, nothing, or samples whose frames have several shapes."""
LONG = 9
"""One row in so many has an answer of more labels than one call of the head takes."""
FAMILIES = {
    "tiny": {"name": "tiny", "vision_width": 32, "language_width": 64, "language_layers": 2, "seed": 1},
    "mantis": {"name": "mantis"},
    "video_llava": {"name": "video_llava"},
    "llava_onevision": {"name": "llava_onevision"},
    "qwen2_5_vl": {"name": "qwen_vl"},
}
VIEWS = {
    "tiny": View(frames=2, width=56, height=56, min_pixels=2),
    "mantis": View(frames=2, width=84, height=84, fit="native", multiple=14, min_pixels=2),
    "video_llava": View(frames=2, width=56, height=56, min_pixels=2),
    "llava_onevision": View(frames=2, width=70, height=70, min_pixels=2),
    "qwen2_5_vl": View(frames=2, width=84, height=84, fit="native", multiple=28, min_pixels=2),
}
WAYS: dict[str, dict[str, Any]] = {
    "tiny": {"vision_chunk": 16, "gradient_checkpointing": Recomputed("offload"), "tiled_mlp": 128},
    "mantis": {"vision_chunk": 50, "tiled_mlp": 256},
    "video_llava": {"vision_chunk": 16, "gradient_checkpointing": True},
    "llava_onevision": {"vision_chunk": 25, "gradient_checkpointing": Recomputed(False, True)},
    "qwen2_5_vl": {"vision_chunk": 40, "gradient_checkpointing": Recomputed("offload", True), "tiled_mlp": 256},
}
"""How each family holds less at a time: its frames go through the tower one or two at a time."""
EVALUATED = 7
"""After every so many steps their rows are evaluated, too, and after the second of so many they are looked at."""
DAY = 86_400.0
pack = PackedCollator()


def family_of(kind: str, folder: Path) -> HubFamily:
    """A family, with the checkpoint in the folder where it needs one."""
    settings = dict(FAMILIES[kind])
    name = settings.pop("name")
    return load_family(name, settings if kind == "tiny" else {"path": str(folder / kind)}, VIEWS[kind])


def rows_of(family: HubFamily, step: int, ranks: Iterable[int]) -> list[Row]:
    """The rows of some ranks, one after another: one to three micro-steps, each with draws of its own."""
    micro_steps = random.Random(step).choice((1, 1, 2, 3))
    return [row_of(family, f"{step} {micro} {rank}") for rank in ranks for micro in range(micro_steps)]


def row_of(family: HubFamily, seed: str) -> Row:
    draws = random.Random(seed)
    kinds = draws.choice(ROWS)
    long = draws.randrange(len(kinds)) if kinds and not draws.randrange(LONG) else None
    return pack([sample(family, kind, number == long, draws) for number, kind in enumerate(kinds)])


def sample(family: HubFamily, kind: str, long: bool, draws: random.Random) -> Encoded:
    """Noise in the shape that the view has for a clip, and an answer of any length."""
    answer = "word " * (draws.randint(1, 12) + 220 * long)
    words = Sample(CLIPS[kind], (Message("user", "What is it?"), Message("assistant", answer)), (), kind)
    plan = family.codec.plan(words)
    width, height = family.codec.view.canvas_of(words.video) if words.video else (0, 0)
    noise = torch.Generator().manual_seed(draws.getrandbits(32))
    frames_TCHW = torch.randint(256, (len(plan.times), 3, height, width), generator=noise, dtype=torch.uint8)
    return family.codec.encode(words, plan, frames_TCHW, draws.randrange(1000))


def trajectory(
    kind: str, folder: Path, steps: int, each: Callable[[], object] = lambda: None
) -> list[tuple[float, float]]:
    """(loss, gradient norm) of every step, with some (loss, 0) of evaluations and looks between them; all parts train.

    `each` is called before every step. Fewer steps are the beginning of more.
    """
    each()
    family = family_of(kind, folder)
    settings = OptimizerSettings(lr=1e-4, vision=True, projector=True, language=True, warmup_share=0, final_share=1)
    loop = LoopSettings(steps=steps, **WAYS[kind])
    with mock.patch.object(offload, "LEAST_BYTES", 1):
        trainer = Trainer(family, loop=loop, optimizer=settings)
    if trainer.accelerator.distributed_type == DistributedType.FSDP:
        # Accelerate keeps the layers of one family for the next.
        trainer.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = None
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        assert not any(parameter.ds_persist for parameter in trainer.model.parameters()), "weights are kept whole"
    ranks = [trainer.ranks.rank] if trainer.ranks.count == RANKS else range(RANKS)
    out = []
    for step in range(steps):
        each()
        rows = rows_of(family, step, ranks)
        result = trainer.step(rows)
        out.append((result["loss"], result["grad_norm"]))
        if step % EVALUATED == EVALUATED - 1:
            out.append((trainer.evaluate(rows), 0.0))
        if step % EVALUATED == 1:
            out.append((read(trainer, family, step, ranks), 0.0))
    return out


def read(trainer: Trainer, family: HubFamily, step: int, ranks: Iterable[int]) -> float:
    """The mean of what labels are by the looks of all ranks, of which odd ones leave out their last row."""
    brought = [(rank, rows_of(family, step, [rank])) for rank in ranks]
    own = [row for rank, rows in brought for row in rows[: len(rows) - rank % 2]]
    looks = []
    for row in own:
        places_N = (row.labels_1L[0] != IGNORED).nonzero()[:, 0] - 1
        looks.append(Look(row, places_N, row.labels_1L[0, places_N + 1]))
    logs = [float(found.logs_N.sum()) for found in trainer.read(looks)]
    sums = trainer.ranks.gathered((sum(logs), sum(row.num_labels for row in own)))
    return -sum(total for total, _ in sums) / max(1, sum(labels for _, labels in sums))


def run_rank(path: str) -> None:
    """What each process does: every family's trajectory; a rank that hangs in a step leaves its stacks, and ends."""
    asked = json.loads(Path(path).read_text())
    rank = int(os.environ["RANK"])
    with Path(f"{asked['out']}.stacks_{rank}").open("w") as stacks:

        def watch() -> None:
            # All ranks begin a step together, so that their stacks are of one moment.
            faulthandler.dump_traceback_later(asked["limit"], exit=True, file=stacks)

        watch()
        set_up_cpu()
        folder = Path(asked["folder"])
        found = {kind: trajectory(kind, folder, steps, watch) for kind, steps in asked["steps"].items()}
        shut_down()
        faulthandler.cancel_dump_traceback_later()
    if rank == 0:
        Path(asked["out"]).write_text(json.dumps(found))


def launch_ranks(engine: str, steps: Mapping[str, int], folder: Path, limit: float, seconds: float) -> dict[str, Any]:
    """Trajectories of so many steps of each family under an engine.

    AssertionError, with the stacks of all ranks, if any step takes longer than `limit` seconds, or all take `seconds`.
    """
    out, told = folder / f"{engine}.json", folder / f"{engine}_asked.json"
    told.write_text(json.dumps({"folder": str(folder), "out": str(out), "steps": dict(steps), "limit": limit}))
    options = ["--config_file", str(config_of(engine, folder))]
    options += ["--mixed_precision", "no"] if engine == "fsdp2" else []
    try:
        launch(command(Path(__file__), "--rank-of", told, options=options), environment(), seconds)
    except AssertionError as error:
        stacks = [f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob(f"{out.name}.stacks_*"))]
        raise AssertionError("\n".join([f"{engine} did not end well", str(error), *stacks])) from None
    return json.loads(out.read_text())


def config_of(engine: str, folder: Path) -> Path:
    """The accelerate config of an engine; ZeRO-3's keeps no weight whole, as it does with small ones by default."""
    config = REPO / "ds_configs" / f"{engine}.yaml"
    if engine != "zero3":
        return config
    settings = json.loads(config.with_suffix(".json").read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3_all.json").write_text(json.dumps(settings))
    text = config.read_text().replace("ds_configs/zero3.json", str(folder / "zero3_all.json"))
    (folder / "zero3_all.yaml").write_text(text)
    return folder / "zero3_all.yaml"


def differences(found: Sequence[Sequence[float]], alone: Sequence[Sequence[float]]) -> list[str]:
    """What is not finite, or not what one process has, in words."""
    told = []
    for step, (pair, expected) in enumerate(zip(found, alone[: len(found)], strict=True)):
        for name, value, other in zip(("loss", "gradient norm"), pair, expected, strict=True):
            if not math.isfinite(value) or abs(value - other) > TOLERANCE * abs(other):
                told.append(f"result {step}: {name} {value}, alone {other}")
    return told


def unlike(kind: str, folder: Path, steps: int) -> Mapping[str, int]:
    """In how many micro-steps the ranks have unlike labels, need unlike calls and passes, or one of them has no row."""
    family, memory = family_of(kind, folder), LoopSettings(**WAYS[kind]).memory
    family.arrange(family.load(), memory)
    counts = dict.fromkeys(("labels", "head_calls", "tower_passes", "mlp_tiles", "empty"), 0)
    for step in range(steps):
        told = [Report.of(rows_of(family, step, [rank]), family, Wait()) for rank in range(RANKS)]
        for name in ("head_calls", "tower_passes", "mlp_tiles"):
            counts[name] += sum(len(set(each)) > 1 for each in zip(*(getattr(r, name) for r in told), strict=True))
        counts["empty"] += sum(sum(map(bool, each)) == 1 for each in zip(*(r.samples for r in told), strict=True))
        counts["labels"] += len({report.labels for report in told}) > 1
    return counts


def make_checkpoints(make: Any, folder: Path) -> None:
    """A small random checkpoint of every family, by scripts/make_checkpoint.py."""
    for kind in FAMILIES.keys() - {"tiny"}:
        make(kind, folder / kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["zero3", "fsdp2"])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--limit", type=float, default=120, help="seconds that a step may take")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        run_rank(args.rank_of)
        return
    sys.path.insert(0, str(REPO / "scripts"))
    from make_checkpoint import make

    with TemporaryDirectory() as path:
        make_checkpoints(make, Path(path))
        alone = {kind: trajectory(kind, Path(path), args.steps) for kind in args.families}
        wrong = 0
        for engine in args.engines:
            found = launch_ranks(engine, dict.fromkeys(args.families, args.steps), Path(path), args.limit, DAY)
            for kind in args.families:
                told = differences(found[kind], alone[kind])
                wrong += len(told)
                print(f"{engine} {kind}: {args.steps} steps", *(told or ["as one process"]), sep="\n  ", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
