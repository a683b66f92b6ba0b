"""Foreign words that reach a message: no tokens, no signatures, no addresses, nothing that moves a terminal."""

from __future__ import annotations

import time

import pytest

from vista_train.redact import MAX_CHARS, phrase, redacted


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("no access with hf_abcdefghijklmnopqrst", "abcdefgh"),
        ("Authorization: Bearer abc.def-ghi_jkl", "abc.def"),
        ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjp"),
        ("AKIAIOSFODNN7EXAMPLE was used", "IOSFODNN"),
        ("sk-ant-api03-abcdefgh and ghp_abcdefghijkl", "abcdefgh"),
        ("https://user:hunter2@example.com/a.mp4", "hunter2"),
        ("s3://bucket/a.mp4?X-Amz-Signature=deadbeef&X-Amz-Expires=9", "deadbeef"),
        ("https://account.blob.example/a.mp4?sv=2024&sig=deadbeef", "deadbeef"),
        ("https://example.com/cb#access_token=deadbeef", "deadbeef"),
        ("{'password': 'hunter2hunter2'}", "hunter2"),
        ("WANDB_API_KEY=deadbeefdeadbeef", "deadbeef"),
        ("<av.Frame object at 0x7f3a2c001230>", "7f3a2c"),
        ("HTTPS://user:hunter2@example.com/a.mp4", "hunter2"),
        ("Https://account.blob.example/a.mp4?sv=2024&sig=deadbeef", "deadbeef"),
        ("X-Api-Key: deadbeefdeadbeef", "deadbeef"),
        ("Authorization: token deadbeefdeadbeef", "deadbeef"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "c2lnbmF0"),
    ],
)
def test_a_secret_is_not_shown(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in phrase(text)


@pytest.mark.parametrize("text", ["\x1b[2Jx", "a\x07b", "a\r\nb", "a\u202eb", "a\x9bb", "a\ud800b", "a\u2028b", "\0"])
def test_what_moves_a_terminal_is_not_shown(text: str) -> None:
    assert not text.isprintable()
    assert phrase(text).isprintable()


def test_a_message_is_one_short_line() -> None:
    assert len(phrase("words " * 10_000)) <= MAX_CHARS


def test_where_a_file_is_held_open_is_not_shown() -> None:
    assert phrase("file:/proc/self/fd/12: invalid data") == "the file: invalid data"


@pytest.mark.parametrize("part", ["a.", "a://", "a://b"])
def test_long_text_costs_little_time(part: str) -> None:
    """A manifest's line and a decoder's message may be a megabyte long."""
    began = time.monotonic()
    redacted(part * (20_000 // len(part)))
    assert time.monotonic() - began < 0.2
