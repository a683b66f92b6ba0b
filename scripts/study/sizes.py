"""How large a study is: its world, its learner, its training, and what it asks."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Size:
    """All that `--size` decides. Lengths are in seconds, and a second is one frame of what the learner sees."""

    name: str
    side: int = 48
    """Width and height of every clip in pixels."""
    questions: tuple[str, ...] = ("colour", "background")
    """What is asked about a clip, by the names in world.QUESTIONS."""
    sources: int = 500
    """Sources of three short clips each: needles, cells and joined clips."""
    haystacks: int = 250
    """Longer clips that needles are hidden in."""
    held_out_sources: int = 130
    held_out_haystacks: int = 60
    """Those that only the exam shows."""

    canvas: int = 32
    """Side of the learner's canvas in pixels."""
    patch: int = 8
    vision_width: int = 64
    vision_layers: int = 3
    language_width: int = 128
    language_layers: int = 3
    grid: tuple[int, int] = (2, 2)
    """Rows and columns of the grids that are trained on."""

    base_steps: int = 300
    """Steps of the common start: single clips, two frames of each, and every question about them."""
    base_lr: float = 2e-3
    arm_steps: int = 450
    arm_lr: float = 1e-3
    batch: int = 32
    multiple_choice: float = 0.0
    """Share of the questions with options, in training."""

    needles_a_cell: int = 40
    """Questions for each depth at 1x; half as many at 2x, and at 4x."""
    questions_a_cell: int = 60
    """Questions for each size of inset, shape of grid, and for order and captions."""
    arms: tuple[str, ...] = ("A2", "B")
    seeds: int = 1


LENGTH = 16
"""Seconds of the longest sample that B is trained on: 1x."""
CPU = Size("cpu")
SEEDS = replace(CPU, multiple_choice=0.5, arm_steps=900)
"""`cpu` with several seeds: multiple choice, too, in twice the steps."""
COMPOSED = ("long_video_caption", "event_relationship", "temporal_needle", "two_needle", "spatial_needle")
COMPOSED += ("spatio_temporal_needle", "video_grid")
"""The seven augmentations, in the paper's order (Table 1, A to G)."""
EVERY_ARM = ("A", "A2", "B", *(f"C{n}" for n in range(1, 8)), *(f"D{n}" for n in range(1, 8)), "parted", "blind")
GPU = Size(
    "gpu",
    side=96,
    questions=("colour", "background", "shape"),
    sources=3000,
    haystacks=1500,
    held_out_sources=300,
    held_out_haystacks=150,
    canvas=64,
    vision_width=128,
    vision_layers=4,
    language_width=256,
    language_layers=4,
    grid=(3, 3),
    base_steps=1500,
    base_lr=1e-3,
    arm_steps=1500,
    arm_lr=5e-4,
    batch=64,
    multiple_choice=0.5,
    arms=EVERY_ARM,
    seeds=3,
)


def smoke(size: Size) -> Size:
    """The same study, all its arms and stages, so short that nothing is learnt: whether it runs is what it shows."""
    return replace(
        size,
        sources=24,
        haystacks=12,
        held_out_sources=48,
        held_out_haystacks=6,
        base_steps=2,
        arm_steps=2,
        batch=4,
        needles_a_cell=2,
        questions_a_cell=2,
    )


def size_of(name: str, seeds: int | None, smoked: bool) -> Size:
    """The size of a name, for so many seeds (default, its own)."""
    size = GPU if name == "gpu" else SEEDS if (seeds or 1) > 1 else CPU
    size = replace(size, seeds=seeds or size.seeds)
    return smoke(size) if smoked else size
