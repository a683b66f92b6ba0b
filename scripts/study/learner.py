"""The learner: LongVA's model, very small, from random weights, and a tokenizer of the study's words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from sizes import Size
from tokenizers import Tokenizer, decoders, trainers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from vista_train.augment import wordings
from vista_train.models.hub import save_model
from vista_train.models.tiny import END, PAD, START, VIDEO, TinySettings, build_config, chatting
from vista_train.video.sampling import View

SPREAD = 0.1
"""Standard deviation of the random weights: about one over the root of the width. With 0.02, which suits models that
are thirty times as wide, nothing is learnt for hundreds of steps."""
PIECES = 1600
"""The most pieces of the tokenizer: with these, every word of the study is one."""


def _texts(words: Iterable[str]) -> Iterator[str]:
    for texts in vars(wordings).values():
        if isinstance(texts, tuple) and texts and isinstance(texts[0], str):
            yield from texts
    yield from words


def study_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte pairs learnt from the questions' wordings and from `words`, all manifests' captions, questions, answers.

    An answer of one word is then one token.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, specials = sorted(ByteLevel.alphabet()), [PAD, START, END, VIDEO]
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, min_frequency=1, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    # Often enough that no wording is cut into pieces for the sake of another.
    tokenizer.train_from_iterator([text for text in _texts(words) for _ in range(4)], trainer)
    return chatting(tokenizer)


def write_learner(folder: Path, size: Size, words: Iterable[str], seed: int) -> None:
    """A checkpoint of random weights in `folder`, for `family: {name: tiny, path: ...}`."""
    tokenizer = study_tokenizer(words)
    settings = TinySettings(
        vision_width=size.vision_width,
        vision_layers=size.vision_layers,
        patch=size.patch,
        language_width=size.language_width,
        language_layers=size.language_layers,
    )
    config = build_config(settings, View(width=size.canvas, height=size.canvas), tokenizer)
    for part in (config, config.text_config, config.vision_config):
        part.initializer_range = SPREAD
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    save_model(model, tokenizer, folder, {}, state=None, native=True)
