"""What may be shown of text that others wrote: no tokens, no signatures of URLs, nothing that moves a terminal."""

from __future__ import annotations

import re

MAX_CHARS = 300
MAX_READ = 4096
"""Of a longer text, only so much is looked through: the time that takes grows with the square of its length."""
HIDDEN = "***"
SECRETS = (
    (re.compile(r"\b(hf_|sk-|ghp_|gho_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA)[A-Za-z0-9_\-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_\-.=]{8,}"), rf"\1 {HIDDEN}"),
    # Who logs in, and what is asked for behind a question mark: signatures, keys, and how long they hold.
    (re.compile(r"(?i)\b(authorization['\"]?\s*[=:]\s*['\"]?\w+)\s+[^\s'\"]{4,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_\-]{6,}\.[A-Za-z0-9_\-.]+"), HIDDEN),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.\-]{0,30}://)[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.\-]{0,30}://[^\s?'\"]*)\?[^\s'\"]+"), rf"\1?{HIDDEN}"),
    (
        re.compile(r"(?i)\b(\w*(?:token|secret|password|passwd|api[_\-]?key|access[_\-]?key|signature|credential))(['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&]{4,}"),
        rf"\1\2{HIDDEN}",
    ),
)  # fmt: skip
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}")
LOCAL = re.compile(r"(?:file:)?/proc/(?:self|\d+)/fd/\d+")


def redacted(text: str) -> str:
    """The first `MAX_READ` characters of `text` without tokens, passwords, and what stands behind a URL's `?`."""
    text = text[:MAX_READ]
    for pattern, shown in SECRETS:
        text = pattern.sub(shown, text)
    return text


def phrase(text: str) -> str:
    """A foreign message as one printable line of at most 300 characters, without addresses and secrets."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:MAX_READ])
    line = " ".join(LOCAL.sub("the file", ADDRESS.sub("an address", redacted(line))).split())
    return line if len(line) <= MAX_CHARS else line[: MAX_CHARS - 3] + "..."
