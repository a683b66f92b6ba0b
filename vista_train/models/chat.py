"""From messages to token ids and labels: the template may speak in special tokens, the messages may not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from vista_train.types import Message

IGNORED = -100
ROLES = ("system", "user", "assistant")
MARK = re.compile(r"\[content \d+\]")
NEEDS_GAP = re.compile(r"[^\s<]")
"""A content that would run into media right before it; transformers' processors look at its first letter alike."""
Piece = str | tuple[str, int]
"""What media become in the text: words of the family's, or one special token a number of times."""

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class ChatFormat:
    """How a family's chat template speaks of media, and how a turn ends."""

    end: str
    """The special token that closes what the assistant says."""
    video: str
    """What the template writes where a video is shown; what the frames become stands in its place."""
    picture: str
    """The same for a picture."""
    reserved: tuple[str, ...]
    """Special tokens that no message can speak, those that media become among them; every tokenizer must have them."""
    behind: str = "\n"
    """What stands between media and the words behind them, where the template puts nothing there."""
    kind: str = "video"
    """The type of the part that shows a video, where the template takes typed parts."""
    parts: bool = False
    """Whether the template takes contents as lists of typed parts, as `takes_parts` finds out."""

    def marker(self, picture: bool) -> str:
        return self.picture if picture else self.video


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
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
    messages: Sequence[Message],
    media: Sequence[Piece] | None = None,
    picture: bool = False,
) -> ChatTokens:
    """Token ids of `messages` in the tokenizer's own chat template, with labels on what the assistant says.

    `media`, what a video (a picture) becomes, stand in the first user's turn: where the template puts it, or before
    the words; None where nothing is shown. Their first and last words are one text with those beside them. Learnt are
    the assistant's contents, each with the token that closes it. A special token that someone wrote stays text
    (`split_special_tokens`), so media tokens must be special ones.
    Spaces right before a content are part of its first word, as they are in an answer that is generated.

    Raises `ValueError` for an unknown role, a template that refuses the roles, drops a content, shows the media not
    once or does not close the assistant's turn with `chat.end`, media without a user turn, and a content that reads
    as a reserved token.
    """
    parts = _template_parts(tokenizer, chat, messages, media is not None, picture)
    writer = _Writer(tokenizer, chat, parts[0])
    answers = []
    marker = chat.marker(picture)
    for turn, message in enumerate(messages):
        before = parts[turn]
        words = before.rstrip(" ") if message.content else before
        lead = writer.template(words, marker, media or (), bool(message.content)) + before[len(words) :]
        if before.endswith(marker) and NEEDS_GAP.match(message.content):
            lead += chat.behind
        first = len(writer.ids)
        writer.content(lead + message.content, turn)
        if message.role == "assistant":
            answers.append((turn, first, len(writer.ids)))
    writer.template(parts[-1], marker, media or (), False)
    labels = [IGNORED] * len(writer.ids)
    for turn, first, last in answers:
        writer.check_closed(turn, last)
        labels[first : last + 1] = writer.ids[first : last + 1]
    if labels:
        labels[0] = IGNORED
    return ChatTokens(writer.ids, labels)


def takes_parts(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> bool:
    """Whether the chat template takes lists of typed parts and marks the video among them; else it takes words."""
    parts = [{"type": chat.kind}, {"type": "text", "text": "[content 0]"}]
    try:
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    except (TemplateError, TypeError):
        return False
    # A template for words may print the list, as Python or as JSON.
    printed = "'type'" in rendered or '"type"' in rendered
    return rendered.count(chat.video) == 1 and MARK.findall(rendered) == ["[content 0]"] and not printed


class _Writer:
    """Ids of a conversation, written piece by piece as the tokenizer would write the whole.

    Some tokenizers put a space before the first word of a text, and some of them before every word behind an added
    token too. Wherever such a tokenizer would put none into the whole text, it is kept from putting one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, first: str) -> None:
        self.tokenizer, self.chat = tokenizer, chat
        self.end_id = tokenizer.convert_tokens_to_ids(chat.end)
        self.reserved = set(tokenizer.convert_tokens_to_ids([*chat.reserved, chat.end]))
        # The unknown token is one of them, but stands for words.
        self.added = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
        self.newline = self._encoded("\n")
        bare = self._amid("a")
        self.starts_spaced = self._encoded("a") != bare
        self.added_spaced = self.starts_spaced and self._encoded(chat.end + "a")[1:] != bare
        self.spaced = self.starts_spaced
        """Whether the tokenizer would put a space before what comes next."""
        self.ids: list[int] = []
        if not (tokenizer.bos_token and first.startswith(tokenizer.bos_token)):
            self.ids = [number for number in tokenizer("").input_ids[:1] if number == tokenizer.bos_token_id]

    def template(self, text: str, marker: str, media: Sequence[Piece], runs_on: bool) -> str:
        """What the template says, with `media` in place of the marker.

        Words at the end of media that a content follows at once (`runs_on`) are not written, but given back.
        """
        before, found, behind = text.partition(marker)
        pieces = [before, *media, behind] if found else [before]
        last = ""
        if runs_on and found and not behind and media and isinstance(media[-1], str):
            last, pieces = media[-1], pieces[:-2]
        words = ""
        for piece in pieces:
            if isinstance(piece, str):
                words += piece
            else:
                self._add(self._piece(words))
                self._add([self.tokenizer.convert_tokens_to_ids(piece[0])] * piece[1])
                words = ""
        self._add(self._piece(words))
        return last

    def content(self, text: str, turn: int) -> None:
        """What someone said, as plain text."""
        ids = self._piece(text, split_special_tokens=True)
        if not self.reserved.isdisjoint(ids):
            written = self.tokenizer.convert_ids_to_tokens(sorted(self.reserved.intersection(ids)))
            raise ValueError(f"the content of turn {turn} reads as {written}; these tokens must be special tokens")
        self._add(ids)

    def check_closed(self, turn: int, place: int) -> None:
        """`ValueError` unless the token at `place`, behind what the assistant said, is the one that ends its turn."""
        found = self.ids[place : place + 1]
        if found != [self.end_id]:
            raise ValueError(
                f"the chat template closes turn {turn} with {self.tokenizer.convert_ids_to_tokens(found)}; "
                f"the assistant must end in {self.chat.end!r}"
            )

    def _add(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        if ids:
            self.spaced = self.added_spaced and ids[-1] in self.added

    def _piece(self, text: str, split_special_tokens: bool = False) -> list[int]:
        if not text:
            return []
        written = self._encoded if self.spaced or not self.starts_spaced else self._amid
        return written(text, split_special_tokens)

    def _amid(self, text: str, split_special_tokens: bool = False) -> list[int]:
        """The text as it reads behind other words: behind a newline, which is then cut off."""
        return self._encoded("\n" + text, split_special_tokens)[len(self.newline) :]

    def _encoded(self, text: str, split_special_tokens: bool = False) -> list[int]:
        return self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
        )


def _template_parts(
    tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, messages: Sequence[Message], shown: bool, picture: bool
) -> list[str]:
    """What the template writes before, between and after the contents: one part more than there are messages.

    The template is rendered with marks for contents and never sees what anybody wrote.
    """
    for turn, message in enumerate(messages):
        if message.role not in ROLES:
            raise ValueError(f"turn {turn} has role {message.role!r}; choose one of {', '.join(ROLES)}")
    if not messages:
        raise ValueError("a conversation needs at least one message")
    roles = [message.role for message in messages]
    if shown and "user" not in roles:
        raise ValueError(f"media need a user turn to stand in, not roles {roles}")
    marks = [f"[content {turn}]" for turn in range(len(messages))]
    turns: list[dict[str, Any]] = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    if chat.parts:
        turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    if shown:
        first = turns[roles.index("user")]
        if chat.parts:
            first["content"].insert(0, {"type": "image" if picture else chat.kind})
        else:
            first["content"] = chat.marker(picture) + chat.behind + first["content"]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except TemplateError as error:
        raise ValueError(f"the chat template refuses the roles {roles}: {error}") from error
    if MARK.findall(rendered) != marks:
        raise ValueError(f"the chat template drops, repeats or reorders contents of the roles {roles}")
    marker, count = chat.marker(picture), rendered.count(chat.marker(picture))
    if count != int(shown):
        kind = "picture" if picture else "video"
        raise ValueError(f"the chat template writes {marker!r} {count} times for {int(shown)} {kind}")
    return MARK.split(rendered)
