"""Tokenizers that put spaces into texts: pieces of a conversation give the ids that its whole text gives."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vista_train.models.chat import IGNORED, ChatFormat, ChatTokens, tokenize
from vista_train.types import Message

SPACE = "\u2581"
SPECIAL = ("<unk>", "<s>", "</s>", "<video>", "<image>", "<end_of_utterance>", "<fake_token_around_image>")
WORDS = ("what", "is", "it?", "a", "cat,", "and", "now", "it", "runs.", "the", "door", "opens", "twice", "über", "🧪")
CORPUS = ("USER: what is it? ASSISTANT: a cat, and now it runs. the door opens twice", "User: Assistant: System: A. B.")
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + ' ' }}"
    "{% elif m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
BARE = (
    "{% for m in messages %}{{ m['role'].capitalize() + ':' + m['content'] + '<end_of_utterance>' + '\n' }}{% endfor %}"
)
SPACED = BARE.replace("':'", "': '")
IDEFICS2 = (
    "{% for m in messages %}{{ m['role'].capitalize() }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in m['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}"
)
WRITTEN = "<s>" + VICUNA
AS_VICUNA = ChatFormat("</s>", "<video>", "<image>", ("<video>", "<image>", "</s>"))
AS_IDEFICS2 = ChatFormat(
    end="<end_of_utterance>",
    video="<image>",
    picture="<image>",
    reserved=("<image>", "<fake_token_around_image>", "<end_of_utterance>"),
    behind=" ",
    kind="image",
)
FORMATS = {
    "Vicuna": (VICUNA, AS_VICUNA),
    "Vicuna that writes the first token": (WRITTEN, AS_VICUNA),
    "Mantis": (BARE, AS_IDEFICS2),
    "words behind a space": (SPACED, AS_IDEFICS2),
    "Idefics2": (IDEFICS2, replace(AS_IDEFICS2, parts=True)),
}
LEGACY = ("legacy", "unigram")
KINDS = (*LEGACY, "metaspace", "never")


def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A small vocabulary as sentencepiece makes one: special tokens, bytes, letters, and merges inside words."""
    trained = Tokenizer(BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS * 9, BpeTrainer(vocab_size=120, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].__getitem__)
    known = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, SPACE * 2, *learnt]
    merges = [(SPACE, SPACE), *(tuple(merge) for merge in model["merges"])]
    return {piece: number for number, piece in enumerate(dict.fromkeys(known))}, merges


def build(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with `<s>` before every text.

    `legacy` puts a space before a text and behind every special token in it (Llama's, Vicuna's, Mistral's own),
    `metaspace` only before a text (their later conversions), `never` nowhere; `unigram` is legacy with another model.
    """
    vocabulary, merges = pieces()
    if kind == "unigram":
        # What no text may say is no piece of the model's.
        scores = [(piece, -float(number)) for piece, number in vocabulary.items() if piece not in SPECIAL[1:]]
        tokenizer = Tokenizer(Unigram(scores, unk_id=0, byte_fallback=True))
    else:
        tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if kind == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="first", split=False)
    else:
        prepend = [normalizers.Prepend(SPACE)] if kind in LEGACY else []
        tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    strip = [] if kind == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=list(SPECIAL[3:]),
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return build(request.param)


@pytest.fixture(params=FORMATS)
def chat(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """A format, whose template the tokenizer then has."""
    tokenizer.chat_template, chat = FORMATS[request.param]
    return chat


def media_of(chat: ChatFormat, count: int) -> tuple[str, ...]:
    """The tokens of `count` frames."""
    if chat.video == "<video>":
        return ("<video>",) * (3 * count)
    fake = "<fake_token_around_image>"
    return (fake, *(("<image>", "<image>", fake) * count)) if count else ()


def whole_ids(
    tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, messages: Sequence[Message], media: Sequence[str] | None
) -> list[int]:
    """What the tokenizer makes of the conversation as one text."""
    turns = []
    for turn, message in enumerate(messages):
        first = media is not None and message.role == "user" and all(m.role != "user" for m in messages[:turn])
        words = (chat.behind if first else "") + message.content
        if chat.parts:
            parts = [{"type": "text", "text": words}]
            turns.append({"role": message.role, "content": [{"type": chat.kind}] * first + parts})
        else:
            turns.append({"role": message.role, "content": chat.video * first + words})
    text = tokenizer.apply_chat_template(turns, tokenize=False).replace(chat.video, "".join(media or ()))
    return tokenizer(text, add_special_tokens=not text.startswith("<s>")).input_ids


def random_words(rng: random.Random, turns: int) -> list[Message]:
    roles = ["system"] * (rng.random() < 0.5) + ["user", "assistant"] * turns
    return [Message(role, " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))) for role in roles]


def answers_of(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, told: ChatTokens) -> list[tuple[str, str]]:
    """The text before the end of each answer: before what is learnt, and what is learnt of it."""
    end, answers, first = tokenizer.convert_tokens_to_ids(chat.end), [], None
    for place, label in enumerate(told.labels):
        if label != IGNORED and first is None:
            first = place
        if label == end and first is not None:
            before, whole = (tokenizer.decode(told.input_ids[:stop]) for stop in (first, place + 1))
            assert whole.startswith(before)
            answers.append((before, whole[len(before) :]))
            first = None
    assert first is None
    return answers


def test_the_tokenizers_are_unlike() -> None:
    said = {kind: build(kind).tokenize("a</s>a") for kind in KINDS}
    assert said["legacy"] == said["unigram"] == [SPACE + "a", "</s>", SPACE + "a"]
    assert said["metaspace"] == [SPACE + "a", "</s>", "a"]
    assert said["never"] == ["a", "</s>", "a"]
    assert all(build(kind)("").tokens() == ["<s>"] for kind in KINDS)


@pytest.mark.parametrize("turns", [1, 2, 5])
def test_harmless_words_give_the_ids_of_the_whole_text(
    tokenizer: PreTrainedTokenizerBase, chat: ChatFormat, turns: int
) -> None:
    rng = random.Random(turns)
    for _ in range(40):
        messages = random_words(rng, turns)
        count = rng.choice((None, 1, 3))
        media = None if count is None else media_of(chat, count)
        told = tokenize(tokenizer, chat, messages, None if media is None else [(token, 1) for token in media])
        assert told.input_ids == whole_ids(tokenizer, chat, messages, media)
        assert told.input_ids.count(tokenizer.bos_token_id) == (told.input_ids[0] == tokenizer.bos_token_id) == 1
        answers = [message.content + chat.end for message in messages if message.role == "assistant"]
        assert [text.removeprefix(" ") for _, text in answers_of(tokenizer, chat, told)] == answers
        learnt = [label for label in told.labels if label != IGNORED]
        assert tokenizer.decode(learnt[: learnt.index(learnt[-1]) + 1]).removeprefix(" ") == answers[0]


def test_what_stands_before_an_answer_is_what_a_model_is_prompted_with(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = VICUNA
    told = tokenize(tokenizer, AS_VICUNA, [Message("user", "what is it?"), Message("assistant", "a cat, twice")])
    first = next(place for place, label in enumerate(told.labels) if label != IGNORED)
    assert told.input_ids[:first] == tokenizer("USER: what is it? ASSISTANT:").input_ids


def test_words_take_as_many_tokens_whatever_is_shown(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    rng = random.Random(0)
    for _ in range(20):
        messages = random_words(rng, 2)
        media = [[(token, 1) for token in media_of(chat, count)] for count in (1, 4)]
        one, four = (tokenize(tokenizer, chat, messages, pieces) for pieces in media)
        assert len(four.input_ids) == len(one.input_ids) + len(media[1]) - len(media[0])
        assert four.num_labels == one.num_labels


HOSTILE = ("</s>", "<s>", "<unk>", "<video>", "<image>", " ", "  ", "\n", "\n\n", "ASSISTANT: ", "日本語", "it", "🧪")


def test_hostile_answers_are_learnt_as_they_are(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
    rng = random.Random(0)
    spaced = tokenizer.chat_template != BARE
    for _ in range(100):
        contents = ["".join(rng.choices(HOSTILE, k=rng.randrange(5))) for _ in range(4)]
        messages = [Message(("user", "assistant")[turn % 2], content) for turn, content in enumerate(contents)]
        told = tokenize(tokenizer, chat, messages, [(token, 1) for token in media_of(chat, 1)])
        assert [text for _, text in answers_of(tokenizer, chat, told)] == [
            " " * (spaced and content != "") + content + chat.end for content in contents[1::2]
        ]
        # Vicuna's template ends only what the assistant says.
        ends = told.input_ids.count(tokenizer.convert_tokens_to_ids(chat.end))
        assert ends == (2 if chat.end == "</s>" else 4)
