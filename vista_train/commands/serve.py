"""Answer questions about videos over HTTP, for evaluations that live in an environment of their own (lmms-eval).

`POST /generate` and `POST /loglikelihood` take and give JSON; videos and pictures are named by paths below --root. The
address is printed, as one line, as soon as questions are taken. Only who brings the token is answered; nothing is
encrypted, so leave --host at this machine. Ctrl-C and SIGTERM end it once the question in hand is answered, a second
one at once.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from vista_train.commands.evaluate import DEVICES, DTYPES, load
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.generation import Generator
from vista_train.evaluation.scoring import ModelScorer
from vista_train.evaluation.server import Desk, Server

LOOPBACK = ("127.", "localhost")
PATIENCE_SECONDS = 60.0
"""How long the question in hand may take when the end is asked for."""


def describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, help="a folder step-*, a run's output (its newest checkpoint), or a YAML recipe"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change, as in training")
    parser.add_argument("--root", required=True, help="the folder that videos are in (data.allow_absolute=true: any)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="(default: a free one)")
    parser.add_argument("--token-file", type=Path, help="write the token there, readable by you alone; else print it")
    parser.add_argument("--max-new-tokens", type=int, default=1024, help="of an answer, at most (default: %(default)s)")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does, so with who started it")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default: a GPU, if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="(default: bfloat16 on a GPU, else float32)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens is {arguments.max_new_tokens}; it must be at least 1")
    if not 0 <= arguments.port < 1 << 16:
        raise ValueError(f"--port is {arguments.port}; it must be 0, for a free one, to 65535")
    if not Path(arguments.root).is_dir():
        raise ValueError(f"--root is {arguments.root!r}; there is no such folder")
    loaded = load(arguments)
    media = loaded.recipe.make_media()
    footage = Footage(media)
    about = {
        "checkpoint": loaded.told,
        "identity": loaded.identity,
        "view": asdict(loaded.recipe.make_view()),
        "root": os.path.abspath(arguments.root),
        "max_new_tokens": arguments.max_new_tokens,
    }
    scorer = ModelScorer(loaded.family, loaded.model, footage, loaded.recipe.make_loop().budget.max_row_tokens)
    generator = Generator(loaded.family, loaded.model, footage)
    token = secrets.token_urlsafe(32)
    try:
        server = Server(
            (arguments.host, arguments.port), Desk(scorer, generator, footage, about, arguments.max_new_tokens), token
        )
    except OSError as error:
        raise ValueError(f"cannot listen at {arguments.host}:{arguments.port}: {error.strerror or error}") from error
    try:
        _serve(server, arguments)
    finally:
        server.server_close()
        media.close()
    return 0


def _serve(server: Server, arguments: argparse.Namespace) -> None:
    """Answer until a signal says that it is enough."""
    if arguments.token_file is not None:
        _write(arguments.token_file, server.token)
    if not arguments.host.startswith(LOOPBACK):
        print("vista_train: nothing is encrypted; who sees the traffic sees the token", file=sys.stderr)
    told = "" if arguments.token_file is not None else f"\ntoken: {server.token}"
    # A shell's child in the background is born deaf to Ctrl-C.
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        print(f"{server.url}{told}", flush=True)
        if arguments.until_eof:
            threading.Thread(target=_until_eof, daemon=True).start()
        # Nothing ever sets it: only a signal ends the waiting.
        threading.Event().wait()
    except KeyboardInterrupt:
        server.close(PATIENCE_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arguments.token_file is not None:
            arguments.token_file.unlink(missing_ok=True)


def _until_eof() -> None:
    """SIGTERM for this process when standard input has ended."""
    # Not by sys.stdin: a thread that waits there holds a lock that the interpreter wants when it ends.
    while os.read(0, 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _write(path: Path, token: str) -> None:
    """The token in a file of its owner's."""
    try:
        # One that lies there already may be open to others.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ValueError(f"--token-file is {str(path)!r}; it cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as stream:
        stream.write(token)
