"""A model that answers over HTTP: what an evaluation asks that runs in another environment than ours."""

from __future__ import annotations

import hmac
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Lock
from typing import Any

from vista_train.evaluation.footage import Footage
from vista_train.evaluation.generation import Generator
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import Scorer
from vista_train.redact import phrase
from vista_train.types import Message
from vista_train.video.composition import Video
from vista_train.video.decode import MediaError

ROLES = ("system", "user", "assistant")
MAX_BODY = 4 << 20
"""Bytes of a request; the words around a video fit many times over."""
PATIENCE_SECONDS = 30.0
"""How long a request may take to come."""
PIECE = 1 << 16

Json = dict[str, Any]


class RefusedError(Exception):
    """A request that is not answered, and the status that says so."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Desk:
    """Answers requests with one model, one after another: codecs and models serve one thread at a time."""

    scorer: Scorer
    generator: Generator
    footage: Footage
    about: Mapping[str, Any]
    """What is told of the model."""
    max_new_tokens: int
    """The most that an answer may have."""
    turn: Lock = field(default_factory=Lock)
    """Whoever holds it is answered."""

    def loglikelihood(self, body: Json) -> Json:
        """`Scored` as JSON: each candidate's log-likelihood, and whether it is what greedy decoding would say."""
        _check_keys(body, {"messages", "video", "candidates"})
        candidates = _texts("candidates", _needed(body, "candidates"))
        if not candidates or not all(candidate.strip() for candidate in candidates):
            raise _bad("candidates must be one text or more, none of them empty")
        with self.turn:
            (scored,) = self.scorer.score([self._prompt(body, candidates)])
        return scored.to_json()

    def generate(self, body: Json) -> Json:
        """The greedy answer up to the first of the stop strings, and how many tokens and frames it took."""
        _check_keys(body, {"messages", "video", "max_new_tokens", "until"})
        tokens, until = body.get("max_new_tokens", self.max_new_tokens), _texts("until", body.get("until", []))
        if not (isinstance(tokens, int) and not isinstance(tokens, bool) and 1 <= tokens <= self.max_new_tokens):
            raise _bad(f"max_new_tokens is {tokens!r}; it must be 1 to {self.max_new_tokens} (serve --max-new-tokens)")
        if not all(until):
            raise _bad("until holds an empty text; an answer would end before it begins")
        with self.turn:
            (said,) = self.generator.answer([self._prompt(body)], tokens, until)
        return {"text": said.text, "tokens": said.tokens, "frames": said.frames, "failure": said.failure}

    def _prompt(self, body: Json, candidates: Sequence[str] = ()) -> Prompt:
        messages, key = _messages(_needed(body, "messages")), _needed(body, "video")
        if key is not None and not (isinstance(key, str) and key):
            raise _bad("video must be a path, or null for words alone")
        video: Video | None = None
        failure = ""
        if key is not None:
            _check_unicode("video", key)
            try:
                video = self.footage.clip(key)
            except MediaError as error:
                failure = f"{type(error).__name__}: {error}"
        return Prompt("served", video, messages, tuple(candidates), failure)


class Server(ThreadingTCPServer):
    """Answers `POST /loglikelihood`, `POST /generate` and `GET /about`, to those who bring the token.

    Requests are read at the same time and answered in turn. `OSError` where the address cannot be had.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], desk: Desk, token: str, max_body: int = MAX_BODY) -> None:
        self.desk, self.token, self.max_body = desk, token, max_body
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self, patience_seconds: float) -> None:
        """Take no more requests, and give the one in hand so long to end; the others get no answer."""
        self.shutdown()
        self.desk.turn.acquire(timeout=patience_seconds)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An error of ours goes to the terminal, and its name to who asked; connections that end are nobody's error."""
        error = sys.exc_info()[1]
        if isinstance(error, (ConnectionError, TimeoutError)):
            return
        super().handle_error(request, client_address)
        said = json.dumps({"error": f"{type(error).__name__}: {phrase(str(error))}"}).encode()
        head = f"HTTP/1.1 500 Internal Server Error\r\nContent-Length: {len(said)}\r\nConnection: close\r\n\r\n"
        with suppress(OSError):
            request.sendall(head.encode() + said)


class _Handler(BaseHTTPRequestHandler):
    """One request; what is said ends the connection."""

    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_SECONDS
    server: Server

    def do_GET(self) -> None:
        self._answer({"/about": lambda: dict(self.server.desk.about)})

    def do_POST(self) -> None:
        desk = self.server.desk
        self._answer(
            {
                "/loglikelihood": lambda: desk.loglikelihood(self._body()),
                "/generate": lambda: desk.generate(self._body()),
            }
        )

    def log_message(self, *what: object) -> None:
        """Say nothing of each request."""

    def _answer(self, known: Mapping[str, Callable[[], Json]]) -> None:
        try:
            self._check_token()
            if self.path not in known:
                raise RefusedError(
                    HTTPStatus.NOT_FOUND, f"{self.command} {phrase(self.path)}: there is {', '.join(known)}"
                )
            said, status = known[self.path](), HTTPStatus.OK
        except RefusedError as refused:
            said, status = {"error": str(refused)}, refused.status
        data = json.dumps(said).encode()
        self.close_connection = True
        self.send_response(status)
        if status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        if status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self._let_pass(16 * self.server.max_body)

    def _check_token(self) -> None:
        brought = self.headers.get("Authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(brought, f"Bearer {self.server.token}".encode()):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED, "the token is missing or wrong; the server told it when it began"
            )

    def _body(self) -> Json:
        told = self.headers.get("Content-Length", "")
        if not (told.isascii() and told.isdigit()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is (Content-Length)")
        # A number of more digits than any length has is no number to be counted with.
        if len(told) > 18 or int(told) > self.server.max_body:
            why = f"the request has {told[:20]} bytes; {self.server.max_body} are the most"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
        try:
            body = json.loads(self.rfile.read(int(told)))
        except (ValueError, RecursionError) as error:
            raise _bad(f"the request is no JSON that can be read: {phrase(str(error))}") from None
        if not isinstance(body, dict):
            raise _bad("the request must be a JSON object")
        return body

    def _let_pass(self, most: int) -> None:
        """Read on and forget it: who is still sending would otherwise find the connection broken, and no answer."""
        while most > 0 and (piece := self.rfile.read1(PIECE)):
            most -= len(piece)


def _bad(why: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, why)


def _check_keys(body: Json, known: set[str]) -> None:
    strange = sorted(set(body) - known)
    if strange:
        raise _bad(f"{phrase(strange[0])}: unknown key; there are {', '.join(sorted(known))}")


def _needed(body: Json, key: str) -> Any:
    if key not in body:
        raise _bad(f"{key} is missing")
    return body[key]


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _bad(f"{name} must be a list of texts")
    for text in value:
        _check_unicode(name, text)
    return tuple(value)


def _check_unicode(name: str, text: str) -> None:
    """JSON can spell halves of characters, which no tokenizer and no file system takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _bad(f"{name} holds half a character") from None


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _bad('messages must be a list such as [{"role": "user", "content": "What is seen?"}]')
    messages = []
    for number, entry in enumerate(value):
        if not (isinstance(entry, dict) and set(entry) == {"role", "content"}):
            raise _bad(f"messages[{number}] must have role and content, and nothing else")
        if entry["role"] not in ROLES:
            raise _bad(f"messages[{number}].role is {phrase(repr(entry['role']))}; it must be {', '.join(ROLES)}")
        if not isinstance(entry["content"], str):
            raise _bad(f"messages[{number}].content must be a text")
        _check_unicode(f"messages[{number}].content", entry["content"])
        messages.append(Message(entry["role"], entry["content"]))
    if messages[-1].role != "user":
        raise _bad(f"messages end with the {messages[-1].role}; the user must be the last to speak")
    return tuple(messages)
