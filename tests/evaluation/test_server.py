"""What the server says to right and to wrong requests, and that it says what the model says."""

from __future__ import annotations

import io
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evaluation.serving import TOKEN, ask, question, serving, tiny_recipe
from vista_train.cli import main
from vista_train.evaluation.generation import Answered, Generator
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import ModelScorer
from vista_train.evaluation.server import Desk, Server
from vista_train.types import Message

VIDEO = "source_000/000.mp4"
SERVE = (sys.executable, "-m", "vista_train.cli", "serve")


@pytest.fixture
def scorer(tiny: Callable[..., ModelScorer], world: Path) -> ModelScorer:
    return tiny(world)


@pytest.fixture
def server(scorer: ModelScorer) -> Iterator[Server]:
    with serving(scorer, max_body=4096) as running:
        yield running


def prompt(scorer: ModelScorer, *candidates: str, video: str | None = VIDEO) -> Prompt:
    shown = None if video is None else scorer.footage.clip(video)
    return Prompt("", shown, (Message("user", "What is it?"),), candidates)


def test_likelihoods_and_answers_are_those_of_the_model(server, scorer):
    status, said = ask(server, "/loglikelihood", question(video=VIDEO, candidates=["A", "a red circle"]))
    (expected,) = scorer.score([prompt(scorer, "A", "a red circle")])
    assert (status, said) == (200, expected.to_json())
    assert (said["frames"], said["failure"]) == (8, "")
    assert said["log_likelihoods"][1] < said["log_likelihoods"][0] < 0
    generator = Generator(scorer.family, scorer.model, scorer.footage)
    (expected,) = generator.answer([prompt(scorer)], 4)
    assert expected.tokens == 4
    status, said = ask(server, "/generate", question(video=VIDEO, max_new_tokens=4))
    assert (status, said) == (200, {"text": expected.text, "tokens": 4, "frames": 8, "failure": ""})
    # Up to a text that ends it, and without a video.
    stop = expected.text[2]
    assert ask(server, "/generate", question(video=VIDEO, until=[stop]))[1]["text"] == expected.text.split(stop)[0]
    (blind,) = generator.answer([prompt(scorer, video=None)], 4)
    said = ask(server, "/generate", question(max_new_tokens=4))[1]
    assert (said["text"], said["frames"]) == (blind.text, 0)
    assert ask(server, "/about")[1]["checkpoint"] == "tiny"


@pytest.mark.parametrize("token", ["", "let me", f"{TOKEN}!", "lét me in"])
def test_without_the_token_nothing_is_answered(server, token, monkeypatch):
    monkeypatch.setattr(Desk, "loglikelihood", None)
    for path, body in (("/loglikelihood", question(candidates=["A"])), ("/about", None), ("/nothing", {})):
        status, said = ask(server, path, body, token)
        assert (status, said) == (401, {"error": "the token is missing or wrong; the server told it when it began"})


def test_too_much_is_refused_whether_it_comes_or_not(server):
    body = json.dumps(question("w" * 4096, candidates=["A"])).encode()
    status, said = ask(server, "/loglikelihood", body)
    assert (status, said) == (413, {"error": f"the request has {len(body)} bytes; 4096 are the most"})
    for told in ("4097", "9" * 400):
        with socket.create_connection(server.server_address[:2], timeout=10) as connection:
            head = f"POST /generate HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {told}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_arrives_though_more_was_sent_than_sockets_hold(scorer):
    with serving(scorer, max_body=1 << 20) as server:
        assert ask(server, "/generate", b"x" * (15 << 20))[0] == 413


@pytest.mark.parametrize("told", ["-1", "1e3", "", "²"])
def test_a_request_says_how_long_it_is(server, told):
    with socket.create_connection(server.server_address[:2], timeout=10) as connection:
        head = f"POST /generate HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {told}\r\n\r\n{{}}"
        connection.sendall(head.encode("latin-1"))
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("generate", b'{"messages": [', "the request is no JSON that can be read: Expecting value"),
        ("generate", b"\xff\xfe\x00", "the request is no JSON that can be read"),
        ("generate", b"[" * 4000, "the request is no JSON that can be read"),
        ("generate", [], "the request must be a JSON object"),
        ("generate", {"video": None}, "messages is missing"),
        ("generate", {"messages": [{"role": "user", "content": "?"}]}, "video is missing"),
        ("generate", question(vidoe="a.mp4"), "vidoe: unknown key; there are max_new_tokens, messages, until, video"),
        ("generate", question(candidates=["A"]), "candidates: unknown key"),
        ("generate", question(video=7), "video must be a path"),
        ("generate", question(video=""), "video must be a path"),
        ("generate", question(video="\ud800.mp4"), "video holds half a character"),
        ("generate", question("\udc00"), "messages[0].content holds half a character"),
        ("generate", question(max_new_tokens=33), "max_new_tokens is 33; it must be 1 to 32"),
        ("generate", question(max_new_tokens=0), "max_new_tokens is 0"),
        ("generate", question(max_new_tokens=True), "max_new_tokens is True"),
        ("generate", question(max_new_tokens=2.5), "max_new_tokens is 2.5"),
        ("generate", question(until="\n"), "until must be a list of texts"),
        ("generate", question(until=[""]), "until holds an empty text"),
        ("generate", question() | {"messages": []}, "messages must be a list such as"),
        ("generate", question() | {"messages": ["Who?"]}, "messages[0] must have role and content"),
        ("generate", question() | {"messages": [{"role": "judge", "content": ""}]}, "messages[0].role is 'judge'"),
        ("generate", question() | {"messages": [{"role": "user", "content": 1}]}, "messages[0].content must be a text"),
        ("generate", question() | {"messages": [{"role": "assistant", "content": "Me."}]}, "end with the assistant"),
        ("loglikelihood", question(), "candidates is missing"),
        ("loglikelihood", question(candidates=[]), "candidates must be one text or more"),
        ("loglikelihood", question(candidates=["A", " "]), "candidates must be one text or more"),
        ("loglikelihood", question(candidates="A"), "candidates must be a list of texts"),
        ("loglikelihood", question(candidates=["A"], until=[]), "until: unknown key"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(server, path, body, told):
    status, said = ask(server, f"/{path}", body)
    assert status == 400
    assert told in said["error"]


def test_other_paths_and_methods(server):
    assert ask(server, "/loglikelihoods", {}) == (
        404,
        {"error": "POST /loglikelihoods: there is /loglikelihood, /generate"},
    )
    assert ask(server, "/generate") == (404, {"error": "GET /generate: there is /about"})


@pytest.mark.parametrize(
    ("video", "told"),
    [
        ("lost.mp4", "MediaMissing: lost.mp4: no such file"),
        ("clips.jsonl", "MediaUnreadable: clips.jsonl: "),
        ("../{world}/source_000/000.mp4", "MediaMissing: ../{world}/source_000/000.mp4: leads outside the data root"),
        ("/etc/passwd", "MediaMissing: /etc/passwd: leads outside the data root"),
        ("/etc", "MediaMissing: /etc: leads outside the data root"),
        ("..", "MediaMissing: ..: leads outside the data root"),
        ("a\0b", "MediaMissing: a"),
    ],
)
def test_what_cannot_be_shown_is_told_and_the_next_is_answered(server, world, video, told):
    video, told = video.format(world=world.name), told.format(world=world.name)
    for path, more in (("loglikelihood", {"candidates": ["A"]}), ("generate", {})):
        status, said = ask(server, f"/{path}", question(video=video, **more))
        assert status == 200
        assert said["failure"].startswith(told)
        assert said["frames"] == 0
    assert ask(server, "/generate", question(video=VIDEO, max_new_tokens=1))[1]["frames"] == 8


def test_requests_that_come_together_are_answered_one_after_another(scorer, monkeypatch):
    inside, most = [], []
    scored, answered = ModelScorer.score, Generator.answer

    def alone(do):
        def done(self, *what):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            try:
                return do(self, *what)
            finally:
                inside.pop()

        return done

    monkeypatch.setattr(ModelScorer, "score", alone(scored))
    monkeypatch.setattr(Generator, "answer", alone(answered))
    with serving(scorer) as server:
        alike = [
            ("/loglikelihood", question(video=VIDEO, candidates=["A"])),
            ("/generate", question(video=VIDEO, max_new_tokens=3)),
        ] * 3
        found: dict[int, tuple] = {}
        threads = [
            threading.Thread(target=lambda at=at, one=one: found.update({at: ask(server, *one)}))
            for at, one in enumerate(alike)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [found[at][0] for at in range(6)] == [200] * 6
    assert found[0] == found[2] == found[4]
    assert found[1] == found[3] == found[5]
    assert most == [1] * 6


def test_an_error_of_ours_is_told_to_who_asked_and_the_server_goes_on(server, monkeypatch, capsys):
    def breaks(*what):
        raise RuntimeError("out of memory, with hf_abcdefghijkl")

    with monkeypatch.context() as broken:
        broken.setattr(Generator, "answer", breaks)
        status, said = ask(server, "/generate", question())
    assert (status, said) == (500, {"error": "RuntimeError: out of memory, with hf_***"})
    assert "breaks" in capsys.readouterr().err
    assert ask(server, "/generate", question(max_new_tokens=1))[0] == 200


def test_the_answer_in_hand_is_given_when_the_server_ends(scorer, monkeypatch):
    begun = threading.Event()

    def slow(self, prompts, *how):
        begun.set()
        time.sleep(0.3)
        return [Answered("slowly", 1)]

    monkeypatch.setattr(Generator, "answer", slow)
    found: list[tuple] = []
    with serving(scorer) as server:
        thread = threading.Thread(target=lambda: found.append(ask(server, "/generate", question())))
        thread.start()
        assert begun.wait(10)
    thread.join(10)
    assert found[0][1]["text"] == "slowly"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_recipe(tmp_path)


class Told(io.StringIO):
    """Standard output, of which another thread can wait for the first line."""

    def __init__(self) -> None:
        super().__init__()
        self.first: queue.Queue[str] = queue.Queue()

    def flush(self) -> None:
        self.first.put(self.getvalue().splitlines()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_the_command_line_until_a_signal(number, recipe, world, tmp_path, monkeypatch):
    token_file, told, found = tmp_path / "token", Told(), []
    token_file.write_text("of an older server")
    token_file.chmod(0o666)

    def asks():
        try:
            url = told.first.get(timeout=60)
            token = token_file.read_text()
            found.extend([url, token, token_file.stat().st_mode & 0o777])
            host, port = url.removeprefix("http://").split(":")
            there = type("There", (), {"server_address": (host, int(port))})
            found.append(ask(there, "/generate", question(), "of an older server"))
            found.append(ask(there, "/generate", question(video=VIDEO, max_new_tokens=5), token))
            found.append(ask(there, "/about", None, token))
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(sys, "stdout", told)
    asking = threading.Thread(target=asks)
    asking.start()
    words = ["serve", recipe, "view.frames=4", "--root", world, "--token-file", token_file, "--max-new-tokens", "5"]
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert main([str(word) for word in words]) == 0
    asking.join(30)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    url, token, mode, refused, (status, said), (_, about) = found
    assert told.getvalue() == f"{url}\n"
    assert url.startswith("http://127.0.0.1:")
    assert len(token) > 30
    assert mode == 0o600
    assert refused[0] == 401
    assert (status, said["frames"], said["failure"]) == (200, 4, "")
    assert (about["root"], about["max_new_tokens"], about["view"]["frames"]) == (str(world), 5, 4)
    assert not token_file.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5)


@pytest.mark.slow
def test_it_ends_with_who_started_it_and_by_ctrl_c(recipe, world):
    words = [*SERVE, str(recipe), "--root", str(world)]
    # As a shell's child in the background, which ignores Ctrl-C.
    deaf = subprocess.Popen(["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *words], stdout=subprocess.PIPE, text=True)
    read, write = os.pipe()
    orphan = subprocess.Popen([*words, "--until-eof"], stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    for process in (deaf, orphan):
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.stdout.readline().startswith("token: ")
    deaf.send_signal(signal.SIGINT)
    os.close(write)
    assert [process.wait(30) for process in (deaf, orphan)] == [0, 0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1"),
        (["--port", "65536"], "--port is 65536; it must be 0, for a free one, to 65535"),
        (["--root", "{root}/nowhere"], "nowhere'; there is no such folder"),
        (["--host", "203.0.113.1"], "cannot listen at 203.0.113.1:0: Cannot assign requested address"),
        (["--token-file", "{root}/nowhere/token"], "nowhere/token'; it cannot be written: No such file or directory"),
        (["view.frame=3"], "view.frame: unknown key"),
    ],
)
def test_what_the_user_can_mend_is_said(words, told, recipe, world, capsys):
    given = [word.format(root=world) for word in words]
    assert main(["serve", str(recipe), "--root", str(world), *given]) == 2
    assert told in capsys.readouterr().err
