"""One look at what is about to run: world, model, rows and tokens of the next step, data, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vista_train.models.attention import describe_attention
from vista_train.training.loader import Loader

if TYPE_CHECKING:
    from vista_train.training.loop import Trainer


def banner(trainer: Trainer, loader: Loader) -> str:
    """Some lines on a run."""
    dataset, loop, accelerator = trainer.dataset, trainer.loop, trainer.accelerator
    assert dataset is not None
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    mix = ", ".join(f"{item.augment.name} {item.weight:g}" for item in dataset.mix)
    clips = sum(len(source) for source in dataset.sources.values())
    lines = [
        f"processes  {accelerator.num_processes} on {accelerator.device.type}, {precision}, {trainer.engine.told}",
        f"model      {trainer.family.name}: {_model_told(trainer)}",
        f"attention  {describe_attention(trainer.family.text_config(trainer.model)._attn_implementation)}",
        f"loss       {trainer.loss.told}",
        f"view       {dataset.codec.view.told()}",
        f"data       {clips} clips, {len(trainer.unusable)} left out; {len(dataset)} samples an epoch; {mix}",
        f"media      {dataset.media.told()}",
        f"loader     {loader.told(trainer.family.codec.bytes_per_patch)}",
        f"steps      {trainer.step_number} done of {trainer.num_steps}, {loop.budget.batch_samples} samples each",
    ]
    if loader.first:
        first = loader.first[0]
        even = first.efficiency if trainer.engine.lockstep else first.once_efficiency
        lines.append(
            f"next step  {len(loader.first)} x {accelerator.num_processes} rows, {first.step_tokens} tokens, "
            f"step efficiency {even:.3f}"
        )
    return "\n".join(lines)


def _model_told(trainer: Trainer) -> str:
    """Each part with its size and rate."""
    told = []
    for part, named in trainer.part_sizes.items():
        trained = sum(size for name, size in named.items() if name in trainer.sizes)
        total = sum(named.values())
        some = f" ({trained / 1e6:.2f} M of them train)" if trained else " (frozen)"
        told.append(f"{part} {total / 1e6:.2f} M{'' if trained == total else some}{trainer.settings.told(part)}")
    return ", ".join(told)
