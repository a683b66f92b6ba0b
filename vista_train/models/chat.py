"""From messages to token ids and labels: the template may speak in special tokens, the messages may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from vista_train.types import Message

IGNORED = -100
ROLES = ("system", "user", "assistant")
MARK = re.compile(r"\[content \d+\]")


@dataclass(frozen=True)
class ChatTokens:
    """A conversation as the model reads it, and what it is to learn of it. L tokens."""

    input_ids: list[int]
    """[L]."""
    labels: list[int]
    """[L]: the token itself where it is to be learnt, else -100; not shifted, the first is always -100."""

    @property
    def num_labels(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], video_ids: Sequence[int], end_id: int
) -> ChatTokens:
    """Token ids of `messages` in the tokenizer's own chat template, with labels on what the assistant says.

    `video_ids`, the placeholders of all frames, stand right before the first user's content, and a newline after
    them; without any, no newline either. Learnt are the assistant's contents, each with the `end_id` that closes it.
    A special token that someone wrote stays text (`split_special_tokens`), so the media token must be a special one.

    Raises `ValueError` for an unknown role, a template that refuses the roles, drops a content or does not close the
    assistant's turn with `end_id`, placeholders without a user turn, and a content that reads as a placeholder.
    """
    parts = _template_parts(tokenizer, messages)
    ids: list[int] = []
    labels: list[int] = []

    def add(tokens: Sequence[int], learnt: int = 0) -> None:
        """Append `tokens`, the first `learnt` of which carry loss."""
        ids.extend(tokens)
        labels.extend(tokens[:learnt])
        labels.extend([IGNORED] * (len(tokens) - learnt))

    reserved = {*video_ids, end_id}
    media = [*video_ids, *_template_ids(tokenizer, "\n")] if video_ids else []
    add(_template_ids(tokenizer, parts[0]))
    for turn, (message, part) in enumerate(zip(messages, parts[1:], strict=True)):
        if message.role == "user":
            add(media)
            media = []
        content = tokenizer.encode(message.content, add_special_tokens=False, split_special_tokens=True, verbose=False)
        if not reserved.isdisjoint(content):
            written = tokenizer.convert_ids_to_tokens(sorted(reserved.intersection(content)))
            raise ValueError(f"the content of turn {turn} reads as {written}; these tokens must be special tokens")
        closing = _template_ids(tokenizer, part)
        if message.role == "assistant":
            _check_closed(tokenizer, turn, closing, end_id)
            add(content, len(content))
            add(closing, 1)
        else:
            add(content)
            add(closing)
    if media:
        raise ValueError(f"{len(video_ids)} placeholders need a user turn to stand in, not roles {_roles(messages)}")
    if labels:
        labels[0] = IGNORED
    return ChatTokens(ids, labels)


def _template_parts(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[str]:
    """What the template writes before, between and after the contents: one part more than there are messages.

    The template is rendered with marks for contents and never sees what anybody wrote.
    """
    for turn, message in enumerate(messages):
        if message.role not in ROLES:
            raise ValueError(f"turn {turn} has role {message.role!r}; choose one of {', '.join(ROLES)}")
    if not messages:
        raise ValueError("a conversation needs at least one message")
    marks = [f"[content {turn}]" for turn in range(len(messages))]
    turns = [{"role": message.role, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the roles {_roles(messages)}: {error}") from error
    if MARK.findall(rendered) != marks:
        raise ValueError(f"the chat template drops, repeats or reorders contents of the roles {_roles(messages)}")
    return MARK.split(rendered)


def _template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False, verbose=False)


def _check_closed(tokenizer: PreTrainedTokenizerBase, turn: int, closing: Sequence[int], end_id: int) -> None:
    if not closing or closing[0] != end_id:
        found = tokenizer.convert_ids_to_tokens(list(closing[:1]))
        expected = tokenizer.convert_ids_to_tokens(end_id)
        raise ValueError(f"the chat template closes turn {turn} with {found}; the assistant must end in {expected!r}")


def _roles(messages: Sequence[Message]) -> list[str]:
    return [message.role for message in messages]
