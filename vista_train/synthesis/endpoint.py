"""An endpoint that speaks OpenAI's chat completions: a conversation there, a reply back, whatever goes wrong between.

The client is told to retry nothing and to follow no redirect; both are decided here. A proxy that the environment names
(HTTPS_PROXY, ALL_PROXY, NO_PROXY) is used, as by any other program; nothing else of the environment, and nothing about
this machine, is sent along.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import openai

from vista_train.redact import HIDDEN, phrase
from vista_train.synthesis.budget import Budget, Tokens
from vista_train.synthesis.pace import Pace

DEFAULT_KEY_ENV = "OPENAI_API_KEY"
PLACEHOLDER = "none"
"""What is sent as a key where none is needed."""
MAX_BODY_BYTES = 4 << 20
MAX_PAUSE_SECONDS = 600.0
"""A server that asks for a longer pause is asked again by whoever starts the command again."""
TEMPLATE_TOKENS = 256
"""More than a server's chat template puts around two messages."""
BODY_HEADERS = frozenset(("content-encoding", "content-length", "transfer-encoding"))
TRANSIENT = frozenset((408, 409, 425, 429))
"""And all from 500 on."""
REFUSALS = frozenset((400, 413, 422))
"""What is wrong may be this one request."""
NEVER_SENT = frozenset(("ConnectError", "ConnectTimeout", "PoolTimeout"))
"""Errors of the client's transport before anything was sent; its module depends on the client's version."""


class EndpointError(ValueError):
    """No request can succeed until somebody mends something."""


class RefusedError(Exception):
    """The endpoint will not answer this request, however often it is sent."""


class UnavailableError(Exception):
    """The endpoint could not answer for now."""


@dataclass(frozen=True)
class Connection:
    """Which model, where, and how it is asked."""

    model: str
    base_url: str
    temperature: float = 0.7
    timeout: float = 60.0
    """Seconds for one request, from the first byte sent to the last one received."""
    reply_tokens: int = 1024
    """The most that a reply may have; where a model thinks first, its thoughts count."""
    reply_tokens_name: str = "max_tokens"
    """What the endpoint calls that; some models want max_completion_tokens."""
    api_key_env: str | None = None
    """The environment variable that holds the key (default: OPENAI_API_KEY, where that cannot be overheard)."""

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.query or "@" in url.netloc:
            raise ValueError(
                f"base-url is {phrase(repr(self.base_url))}; it must look like https://host/v1, with no key in it"
            )
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout}; it must be above 0 seconds")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}; it must lie in 0..2")
        if self.reply_tokens < 1:
            raise ValueError(f"reply-tokens is {self.reply_tokens}; it must be 1 or more")
        if not self.model.strip():
            raise ValueError("model is empty; it must be the name by which the endpoint knows it")

    def key(self, environment: Mapping[str, str]) -> str:
        """The API key; a placeholder where there is none. `ValueError` where there must be one."""
        url = urlsplit(self.base_url)
        if self.api_key_env is not None:
            if key := environment.get(self.api_key_env, "").strip():
                return key
            raise ValueError(f"{self.api_key_env} is not set; it must hold the API key")
        key = environment.get(DEFAULT_KEY_ENV, "").strip()
        if not key and url.hostname == "api.openai.com":
            raise ValueError(f"{DEFAULT_KEY_ENV} is not set; it must hold the API key (--api-key-env names another)")
        # A key that was not meant for a server in the clear is not shown to whoever listens on the way to it.
        return key if key and (url.scheme == "https" or _is_here(url.hostname or "")) else PLACEHOLDER


@dataclass(frozen=True)
class Retries:
    """How often a request is sent when nothing is wrong with it, and how long to wait in between."""

    tries: int = 6
    first_seconds: float = 1.0
    """The wait doubles each time, and is cut by up to a half at random, so that not all come back at once."""
    most_seconds: float = 60.0


class Answer(NamedTuple):
    """What the model said, and why that cannot be all of it; empty if it can."""

    text: str
    problem: str = ""


class Endpoint:
    """Asks; any number of threads may. Every request goes through the budget and at the pace it is given."""

    def __init__(
        self,
        connection: Connection,
        budget: Budget,
        pace: Pace,
        rng: np.random.Generator,
        retries: Retries = Retries(),
    ) -> None:
        self._connection, self._budget, self._pace, self._retries = connection, budget, pace, retries
        self._key = connection.key(os.environ)
        self._rng, self._rng_lock = rng, threading.Lock()
        self._client = openai.OpenAI(
            api_key=self._key,
            base_url=connection.base_url,
            max_retries=0,
            http_client=_Line(self._key, connection.timeout),
        )

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """The reply to a conversation. `EndpointError`, `RefusedError`, `UnavailableError`; `BudgetReached` when
        there is no money for it, `Stopped` when the pace was stopped."""
        most = self.most(messages)
        told = ""
        for number in range(self._retries.tries):
            if number:
                self._pace.sleep(self._backoff(number - 1))
            self._pace.wait(most.sent + most.received)
            held = self._budget.hold(most)
            # Where nobody knows better, it was answered and the answer was lost.
            cost: Tokens | None = None
            try:
                answer, cost = self._reply(messages)
                return answer
            except openai.APIStatusError as error:
                # What a gateway did not wait for may have been done behind it; what was turned away was not.
                cost = None if error.status_code >= 500 else Tokens()
                told = self._judge(error)
            except (openai.APIConnectionError, TimeoutError) as error:
                cause = type(error.__cause__ or error).__name__
                cost = Tokens() if cause in NEVER_SENT else None
                told = f"{phrase(str(error))} ({cause})"
            except _NoAnswerError as error:
                told = str(error)
            finally:
                self._budget.settle(held, cost)
                if cost is not None:
                    self._pace.give_back(most.sent + most.received - cost.sent - cost.received)
        raise UnavailableError(f"no answer in {self._retries.tries} tries; the last time: {told}")

    def most(self, messages: Sequence[Mapping[str, str]]) -> Tokens:
        """The most tokens that a request can take: no token is shorter than a byte."""
        num_bytes = sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
        return Tokens(num_bytes + TEMPLATE_TOKENS, self._connection.reply_tokens)

    def without_key(self, text: str) -> str:
        """A text of the endpoint's, in which it may have repeated the key."""
        return text if self._key == PLACEHOLDER else text.replace(self._key, HIDDEN)

    def close(self) -> None:
        """Let its connections go."""
        self._client.close()

    def _reply(self, messages: Sequence[Mapping[str, str]]) -> tuple[Answer, Tokens | None]:
        connection = self._connection
        raw = self._client.chat.completions.with_raw_response.create(
            model=connection.model,
            messages=list(messages),  # type: ignore[arg-type]
            temperature=connection.temperature,
            extra_body={connection.reply_tokens_name: connection.reply_tokens},
        )
        try:
            data = json.loads(raw.content)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise _NoAnswerError("what came is not a JSON object")
        return _answer(data), _usage(data.get("usage"))

    def _judge(self, error: openai.APIStatusError) -> str:
        """What the endpoint has against a request, if it may be sent again; the others are raised."""
        status, said = error.status_code, phrase(self.without_key(str(error.message)))
        if status in TRANSIENT or status >= 500:
            if seconds := _retry_after(error.response.headers):
                if seconds > MAX_PAUSE_SECONDS:
                    raise EndpointError(
                        f"the endpoint asks for a pause of {seconds:.0f} s ({said}); the same command goes on, later"
                    ) from None
                self._pace.pause(seconds)
            return said
        if status in REFUSALS:
            raise RefusedError(said) from None
        hints = {
            401: f"it does not accept the key; {self._connection.api_key_env or DEFAULT_KEY_ENV} must hold a valid one",
            403: "it does not let this key do that",
            404: f"is there a model {self._connection.model!r}, and does the base-url end as it should, often in /v1?",
        }
        if 300 <= status < 400:
            target = phrase(error.response.headers.get("location", "nowhere"))
            hints[status] = f"it redirects to {target}; if that is right, give it as --base-url"
        raise EndpointError(
            f"{phrase(self._connection.base_url)} says {said}: {hints.get(status, 'see there')}"
        ) from None

    def _backoff(self, number: int) -> float:
        with self._rng_lock:
            share = self._rng.uniform(0.5, 1.0)
        return share * min(self._retries.most_seconds, self._retries.first_seconds * 2.0**number)


class _NoAnswerError(Exception):
    """Something came with status 200 that is no answer."""


class _Line(openai.DefaultHttpxClient):
    """Sends no headers but those it takes, and reads an answer of bounded size in bounded time."""

    def __init__(self, key: str, seconds: float) -> None:
        super().__init__(timeout=seconds, follow_redirects=False)
        self._seconds = seconds
        # The client's own tell of this machine, and may come from its environment.
        self._own_headers = {
            "authorization": f"Bearer {key}",
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": "vista_train",
        }

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        deadline = time.monotonic() + self._seconds
        sent = type(request)(
            request.method,
            request.url,
            headers=self._own_headers,
            content=request.read(),
            extensions=request.extensions,
        )
        response = super().send(sent, stream=True, **options)
        body = bytearray()
        try:
            # Each read has its own time limit: a server that sends a space now and then would be waited for for ever.
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MAX_BODY_BYTES or time.monotonic() > deadline:
                    raise TimeoutError(f"no whole answer in {self._seconds:g} s and {MAX_BODY_BYTES >> 20} MB")
        finally:
            response.close()
        headers = [(name, value) for name, value in response.headers.items() if name.lower() not in BODY_HEADERS]
        return type(response)(response.status_code, headers=headers, content=bytes(body), request=request)


def _answer(data: Mapping[str, Any]) -> Answer:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict) or not isinstance(first.get("message"), dict):
        return Answer("", "there is no reply")
    text, why = first["message"].get("content"), first.get("finish_reason")
    if not isinstance(text, str):
        return Answer("", "there is no text in it")
    if why == "length":
        return Answer(text, "it is too long and was cut off")
    if why == "content_filter":
        return Answer(text, "a filter of the endpoint has cut it off")
    return Answer(text)


def _usage(usage: Any) -> Tokens | None:
    """What a request took, as the endpoint counts; None where it does not say."""
    if not isinstance(usage, dict):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return None
    return Tokens(*counts)  # type: ignore[arg-type]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; 0 where it does not."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                at = parsedate_to_datetime(value)
            except ValueError:
                continue
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        if seconds > 0:
            return seconds
    return 0.0


def _is_here(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
