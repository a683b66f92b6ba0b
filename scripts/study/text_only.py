"""A classifier that sees a question and its options, and no video: what the words alone give away."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from exam import OPTIONS, Item

from vista_train.augment.questions import normal

STEPS = 300


def _features(items: Sequence[Item], known: dict[str, int]) -> torch.Tensor:
    """Of every option [N, OPTIONS, F]: which text it is, by skill and by what is asked; its place; its length; how many
    words of it the question has; and how many it shares with the other options."""
    made = torch.zeros(len(items), OPTIONS, len(known) + OPTIONS + 3)
    for n, item in enumerate(items):
        words = [set(normal(option).split()) for option in item.options]
        asked = set(normal(item.text).split())
        for place, option in enumerate(item.options):
            for name in _names(item, option):
                if name in known:
                    made[n, place, known[name]] = 1
            others = [other for number, other in enumerate(words) if number != place]
            made[n, place, len(known) + place] = 1
            made[n, place, -3] = len(option) / 10
            made[n, place, -2] = len(words[place] & asked)
            made[n, place, -1] = sum(len(words[place] & other) for other in others)
    return made


def _names(item: Item, option: str) -> tuple[str, ...]:
    kind = item.text.rsplit(".", 1)[-1].strip()
    return f"{item.skill}: {option}", f"{kind}: {option}" if item.skill not in ("order", "caption") else option


def guessed(learnt: Sequence[Item], asked: Sequence[Item], seed: int) -> list[bool]:
    """Whether each of `asked` is right, for a logistic model over options that has learnt `learnt`."""
    names = sorted({name for item in learnt for option in item.options for name in _names(item, option)})
    known = {name: number for number, name in enumerate(names)}
    features, right = _features(learnt, known), torch.tensor([item.right for item in learnt])
    weights = torch.zeros(features.shape[2], requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.03)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        some = torch.randint(len(learnt), (512,), generator=generator)
        loss = torch.nn.functional.cross_entropy(features[some] @ weights, right[some]) + 1e-3 * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        chosen = (_features(asked, known) @ weights).argmax(dim=1).tolist()
    return [choice == item.right for choice, item in zip(chosen, asked, strict=True)]
