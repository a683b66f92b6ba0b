"""A chat-completions server that answers as a careful model would, and misbehaves where it is told to."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from vista_train.synthesis.endpoint import Connection, Retries
from vista_train.synthesis.prompts import PROMPTS

KEY = "sk-test-0123456789abcdef"
QUICK = Retries(tries=6, first_seconds=0.01, most_seconds=0.05)
LAYOUTS = {kind: prompt.task.split("{")[0][:150] for kind, prompt in PROMPTS.items()}


def captions_of(messages: list[dict[str, str]]) -> tuple[str, list[str]]:
    """What kind of question a conversation asks for, and about what."""
    text = messages[-1]["content"]
    kind = next(kind for kind, begin in LAYOUTS.items() if text.startswith(begin))
    given = json.loads(next(line for line in text.split("\n\n") if line.startswith('{"description')))
    return kind, given.get("descriptions") or [given["description"]]


def reply_to(messages: list[dict[str, str]]) -> dict[str, Any]:
    """A valid reply that follows from the descriptions alone."""
    kind, captions = captions_of(messages)
    mark = hashlib.sha256("".join(captions).encode()).hexdigest()[:8]
    wrong = [f"Wrong {word} {mark}" for word in ("one", "two", "three")]
    match kind:
        case "needle":
            pairs = [{"question": f"Which {word} has {mark}?", "answer": f"A {word}ish one"} for word in ("hat", "dog")]
            return {"pairs": pairs}
        case "choice":
            return {"question": f"What colour has {mark}?", "answer": f"Right {mark} red", "distractors": wrong}
        case "story":
            return {"story": f"It begins, and then goes on for a good while: {' and then '.join(captions)}."}
        case _:
            return {"question": f"What follows {mark}?", "answer": f"The last {mark} part", "distractors": wrong}


@dataclass
class Heard:
    """One request."""

    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def kind(self) -> str:
        return captions_of(self.body["messages"])[0]


@dataclass
class Server:
    """What was asked, what was billed, and how to answer: `script(number, request)` may name what goes wrong."""

    url: str = ""
    script: Callable[[int, Heard], str | None] = lambda number, heard: None
    seconds: float = 0.0
    heard: list[Heard] = field(default_factory=list)
    billed: list[int] = field(default_factory=lambda: [0, 0])
    lock: threading.Lock = field(default_factory=threading.Lock)
    under_way: int = 0
    most_under_way: int = 0

    def dollars(self, price_in: float, price_out: float) -> float:
        return (self.billed[0] * price_in + self.billed[1] * price_out) / 1e6

    def bill(self, heard: Heard, text: str) -> dict[str, int]:
        sent = sum(len(message["content"]) for message in heard.body["messages"]) // 4 + 12
        received = min(len(text) // 4 + 1, heard.body["max_tokens"])
        with self.lock:
            self.billed[0] += sent
            self.billed[1] += received
        return {"prompt_tokens": sent, "completion_tokens": received, "total_tokens": sent + received}


def rewritten(messages: list[dict[str, str]], how: str) -> str:
    """A reply with a fault."""
    reply = reply_to(messages)
    text = json.dumps(reply)
    match how:
        case "prose":
            return f"Sure! Here is what you asked for: {text}"
        case "cut":
            return text[: len(text) // 2]
        case "fence":
            return f"```json\n{text}\n```"
        case "echo":
            return "\n\n".join(message["content"] for message in messages)
        case "echo_inside":
            told = " ".join(message["content"].split("\n\n")[0] for message in messages)[:280]
            return re.sub(r'(: ")[^"]*(", "answer|"\})', lambda m: f"{m[1]}{told}{m[2]}", text, count=1)
        case "schema":
            return json.dumps({"items": [reply]})
        case "doubled":
            return json.dumps(reply | {"distractors": ["Same.", "same", "Other"]})
        case "gives_away":
            if "pairs" in reply:
                return json.dumps({"pairs": [{"question": "Is it a red hat?", "answer": "Red hat."}]})
            return json.dumps(reply | {"question": f"Is it {reply.get('answer')}?"})
    raise AssertionError(how)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *what: object) -> None:
        pass

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        except (ValueError, ConnectionError):
            # Whoever asked was killed meanwhile.
            self.close_connection = True
            return
        heard = Heard({name.lower(): value for name, value in self.headers.items()}, body, time.monotonic())
        server = self.state
        with server.lock:
            number = len(server.heard)
            server.heard.append(heard)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            if server.seconds:
                time.sleep(server.seconds)
            self.answer(heard, server.script(number, heard))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.under_way -= 1

    def answer(self, heard: Heard, fault: str | None) -> None:
        messages = heard.body["messages"]
        name, _, number = (fault or "").partition(":")
        if name == "status":
            status, _, wait = number.partition(",")
            # Servers are known to repeat what they do not accept.
            error = {"error": {"message": f"no, {self.headers['authorization']}", "type": "error"}}
            headers = {"retry-after": wait} if wait else {}
            if int(status) // 100 == 3:
                headers = {"location": "http://elsewhere.example/v1"}
            self.say(error, int(status), headers)
        elif name == "drop":
            self.server.state.bill(heard, json.dumps(reply_to(messages)))
            # With no time to linger, closing is a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif name == "slow":
            usage = self.server.state.bill(heard, json.dumps(reply_to(messages)))
            time.sleep(float(number))
            self.say(completion(json.dumps(reply_to(messages)), usage))
        elif name == "trickle":
            self.server.state.bill(heard, "")
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(float(number))
        elif name in ("body", "no_usage", "no_choices", "length", "huge"):
            self.odd(heard, name)
        else:
            text = rewritten(messages, fault) if fault else json.dumps(reply_to(messages))
            self.say(completion(text, self.server.state.bill(heard, text)))

    def odd(self, heard: Heard, name: str) -> None:
        text = json.dumps(reply_to(heard.body["messages"]))
        usage = self.server.state.bill(heard, "x" * 100_000 if name == "length" else text)
        if name == "body":
            self.send_response(200)
            self.send_header("content-length", "9")
            self.end_headers()
            self.wfile.write(b'{"choices')
        elif name == "huge":
            self.say(completion("x" * (5 << 20), usage))
        elif name == "length":
            self.say(completion(text[:-2], usage, "length"))
        elif name == "no_choices":
            self.say(completion(text, usage) | {"choices": []})
        else:
            said = completion(text, usage)
            del said["usage"]
            self.say(said)

    def say(self, data: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def completion(text: str, usage: dict[str, int], why: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": why}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class Listening(ThreadingHTTPServer):
    daemon_threads = True
    state: Server

    def handle_error(self, *what: object) -> None:
        """Connections that end in the middle are what is tested."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, listening on this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    state = Server()
    listening = Listening(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    listening.state = state
    state.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def connection(server: Server) -> Connection:
    """To the server, patient for as long as a test may be."""
    return Connection("m", server.url, temperature=0.0, timeout=5.0, reply_tokens=400)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Ten clips of two recordings of five, 12 s each, in no order, with all that training would have to look up."""
    lines = []
    for number in (3, 0, 7, 1, 9, 4, 2, 5, 8, 6):
        recording, at = divmod(number, 5)
        lines.append(
            {
                "video": f"{recording}.mp4",
                "caption": f"Person {number} opens door {number}.",
                "start": 12.0 * at,
                "end": 12.0 * (at + 1),
                "duration": 60.0,
                "width": 160,
                "height": 120,
                "fps": 10,
            }
        )
    lines[2]["qa"] = [{"question": "Who is it?", "answer": "Number seven.", "note": "by hand"}]
    path = tmp_path / "clips.jsonl"
    texts = [json.dumps(line) for line in lines]
    # As somebody might have written it.
    texts[1] = texts[1].replace('"start": 0.0', '"start":0')
    path.write_text("\n".join([*texts[:4], "", *texts[4:]]) + "\n", encoding="utf-8")
    return path
