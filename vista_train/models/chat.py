"""From messages to token ids and labels: the template may speak in special tokens, the messages may not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from vista_train.types import Message

IGNORED = -100
MAX_KNOWN = 4096
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


@dataclass(frozen=True)
class Spelling:
    """What a tokenizer makes of the pieces of a conversation: measured once, which takes as long as a conversation.

    Some tokenizers put a space before the first word of a text, and some of them before every word behind an added
    token too. Wherever such a tokenizer would put none into the whole text, it is kept from putting one.
    """

    end_id: int
    reserved: frozenset[int]
    added: frozenset[int]
    first_ids: tuple[int, ...]
    """What the tokenizer puts before every text."""
    num_newline: int
    """Tokens of a newline."""
    starts_spaced: bool
    """Whether a text begins with a space that nobody wrote."""
    added_spaced: bool
    """Whether words behind an added token do."""
    known: dict[str, list[int]] = field(default_factory=dict, repr=False, compare=False)
    """Ids of words of templates and media that were met, `MAX_KNOWN` at most: most are met again and again."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known": {}}

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> Spelling:
        newline, word, amid, behind_end = _encoded(tokenizer, ["\n", "a", "\na", chat.end + "a"], False)
        bare = amid[len(newline) :]
        return cls(
            end_id=tokenizer.convert_tokens_to_ids(chat.end),
            reserved=frozenset(tokenizer.convert_tokens_to_ids([*chat.reserved, chat.end])),
            # The unknown token is one of them, but stands for words.
            added=frozenset(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id},
            first_ids=tuple(number for number in tokenizer("").input_ids[:1] if number == tokenizer.bos_token_id),
            num_newline=len(newline),
            starts_spaced=word != bare,
            added_spaced=word != bare and behind_end[1:] != bare,
        )


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
    messages: Sequence[Message],
    media: Sequence[Piece] | None = None,
    picture: bool = False,
    spelling: Spelling | None = None,
) -> ChatTokens:
    """Token ids of `messages` in the tokenizer's own chat template, with labels on what the assistant says.

    `media`, what a video (a picture) becomes, stand in the first user's turn: where the template puts it, or before
    the words; None where nothing is shown. Their first and last words are one text with those beside them. Learnt are
    the assistant's contents, each with the token that closes it. A special token that someone wrote stays text
    (`split_special_tokens`), so media tokens must be special ones.
    Spaces right before a content are part of its first word, as they are in an answer that is generated.
    `spelling` is the tokenizer's, measured here if it is not given.

    Raises `ValueError` for an unknown role, a template that refuses the roles, drops a content, shows the media not
    once or does not close the assistant's turn with `chat.end`, media without a user turn, and a content that reads
    as a reserved token.
    """
    spelling = spelling or Spelling.of(tokenizer, chat)
    parts = _template_parts(tokenizer, chat, messages, media is not None, picture)
    runs = _runs(chat, parts, messages, media or (), picture)
    writes_first = tokenizer.bos_token and parts[0].startswith(tokenizer.bos_token)
    ids = [] if writes_first else [*spelling.first_ids]
    answers = []
    for run, written in zip(runs, _spelt(tokenizer, spelling, runs), strict=True):
        if run.turn is not None:
            _check_said(tokenizer, spelling, written, run.turn)
            if messages[run.turn].role == "assistant":
                answers.append((run.turn, len(ids), len(ids) + len(written)))
        ids += written
    labels = [IGNORED] * len(ids)
    for turn, first, last in answers:
        _check_closed(tokenizer, spelling, ids[last : last + 1], turn, chat.end)
        labels[first : last + 1] = ids[first : last + 1]
    if labels:
        labels[0] = IGNORED
    return ChatTokens(ids, labels)


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


class _Run(NamedTuple):
    """A piece of a conversation: words of the template's or, with its turn, of someone's; or a repeated token."""

    text: str
    turn: int | None = None
    repeats: int | None = None
    """How often the special token `text` stands there."""


def _runs(
    chat: ChatFormat, parts: Sequence[str], messages: Sequence[Message], media: Sequence[Piece], picture: bool
) -> list[_Run]:
    """The whole conversation, with `media` in place of the marker. Words between two tokens are one run."""
    marker, runs = chat.marker(picture), list[_Run]()
    for turn, message in enumerate(messages):
        before = parts[turn]
        words = before.rstrip(" ") if message.content else before
        pieces, lead = _with_media(words, marker, media, bool(message.content))
        lead += before[len(words) :]
        if before.endswith(marker) and NEEDS_GAP.match(message.content):
            lead += chat.behind
        runs += [*_joined(pieces), _Run(lead + message.content, turn)]
    return [*runs, *_joined(_with_media(parts[-1], marker, media, False)[0])]


def _with_media(text: str, marker: str, media: Sequence[Piece], runs_on: bool) -> tuple[list[Piece], str]:
    """What the template says, with `media` in place of the marker.

    Words at the end of media that a content follows at once (`runs_on`) are the content's: they come second.
    """
    before, found, behind = text.partition(marker)
    if not found:
        return [text], ""
    if runs_on and not behind and media and isinstance(media[-1], str):
        return [before, *media[:-1]], media[-1]
    return [before, *media, behind], ""


def _joined(pieces: Sequence[Piece]) -> Iterator[_Run]:
    words = ""
    for piece in pieces:
        if isinstance(piece, str):
            words += piece
            continue
        if words:
            yield _Run(words)
        yield _Run(piece[0], None, piece[1])
        words = ""
    if words:
        yield _Run(words)


def _spelt(tokenizer: PreTrainedTokenizerBase, spelling: Spelling, runs: Sequence[_Run]) -> Iterator[list[int]]:
    """Ids of each run, as the tokenizer would write the whole."""
    words = _ids_of(tokenizer, spelling, [run.text for run in runs if run.turn is None and run.repeats is None])
    said = _ids_of(tokenizer, spelling, [run.text for run in runs if run.turn is not None], said=True)
    tokens = {
        token: tokenizer.convert_tokens_to_ids(token) for token in {run.text for run in runs if run.repeats is not None}
    }
    spaced = spelling.starts_spaced
    for run in runs:
        ids_of = words if run.turn is None else said
        if run.repeats is not None:
            ids = [tokens[run.text]] * run.repeats
        elif not run.text:
            ids = []
        elif spaced or not spelling.starts_spaced:
            ids = ids_of[run.text]
        else:
            # As it reads behind other words: behind a newline, which is then cut off.
            ids = ids_of["\n" + run.text][spelling.num_newline :]
        if ids:
            spaced = spelling.added_spaced and ids[-1] in spelling.added
        yield ids


def _ids_of(
    tokenizer: PreTrainedTokenizerBase, spelling: Spelling, texts: Iterable[str], said: bool = False
) -> Mapping[str, list[int]]:
    """The ids of each text, alone and, where that may differ, behind a newline.

    All in one call of the tokenizer, which costs more than most of what it is called for.
    """
    asked = set(texts) - {""}
    if spelling.starts_spaced:
        asked |= {"\n" + text for text in asked}
    known = {} if said else {text: spelling.known[text] for text in asked & spelling.known.keys()}
    new = [*(asked - known.keys())]
    found = dict(zip(new, _encoded(tokenizer, new, said), strict=True))
    if not said and len(spelling.known) + len(found) <= MAX_KNOWN:
        spelling.known.update(found)
    return known | found


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], split_special_tokens: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=split_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    ).input_ids


def _check_said(tokenizer: PreTrainedTokenizerBase, spelling: Spelling, ids: Sequence[int], turn: int) -> None:
    """`ValueError` if what someone said reads as a reserved token."""
    if not spelling.reserved.isdisjoint(ids):
        written = tokenizer.convert_ids_to_tokens(sorted(spelling.reserved.intersection(ids)))
        raise ValueError(f"the content of turn {turn} reads as {written}; these tokens must be special tokens")


def _check_closed(
    tokenizer: PreTrainedTokenizerBase, spelling: Spelling, behind: list[int], turn: int, end: str
) -> None:
    """`ValueError` unless the token behind what the assistant said is the one that ends its turn."""
    if behind != [spelling.end_id]:
        raise ValueError(
            f"the chat template closes turn {turn} with {tokenizer.convert_ids_to_tokens(behind)}; "
            f"the assistant must end in {end!r}"
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
