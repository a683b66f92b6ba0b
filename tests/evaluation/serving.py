"""A server that answers in this process, and one who asks it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vista_train.config import load_recipe
from vista_train.evaluation.generation import Generator
from vista_train.evaluation.scoring import ModelScorer
from vista_train.evaluation.server import Desk, Server
from vista_train.training import checkpoint
from vista_train.training.checkpoint import RunState

TOKEN = "let me in"
RECIPE = """
output: {folder}/run
family: {{name: tiny, vision_width: 32, language_width: 64, language_layers: 2, seed: 1, max_tokens: 2048}}
view: {{frames: 8, width: 56, height: 56, min_pixels: 7}}
data: {{root: /nowhere, cache: {folder}/cache, isolate: inline}}
"""


def tiny_recipe(folder: Path) -> Path:
    """A recipe of an untrained tiny model."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(folder=folder))
    return path


def tiny_run(folder: Path) -> Path:
    """A run's output, with one checkpoint as a run leaves it."""
    recipe = load_recipe(tiny_recipe(folder))
    family, place = recipe.make_family(), checkpoint.folder_of(folder / "run", 1)
    model = family.load()
    checkpoint.begin(place)
    (place / "recipe.yaml").write_text(recipe.to_yaml())
    checkpoint.write_whole(place, RunState(0, 1, 1, 1, "", 0), lambda where: family.save(model, where))
    (place / checkpoint.IN_PROGRESS).unlink()
    return folder / "run"


@contextmanager
def serving(scorer: ModelScorer, **more: Any) -> Iterator[Server]:
    """A server of the scorer's model, until the block ends."""
    generator = Generator(scorer.family, scorer.model, scorer.footage)
    about = {"checkpoint": "tiny", "root": str(scorer.footage.media.root), "max_new_tokens": 32}
    server = Server(("127.0.0.1", 0), Desk(scorer, generator, scorer.footage, about, 32), TOKEN, **more)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close(5)
        thread.join(5)


def ask(server: Server, path: str, body: Any = None, token: str = TOKEN, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and what is said; the body is sent as it is if it is bytes, else as JSON; None is a GET."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    headers = {"Authorization": f"Bearer {token}"} | headers
    try:
        connection.request("GET" if body is None else "POST", path, data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def question(text: str = "What is it?", video: str | None = None, **more: Any) -> dict[str, Any]:
    """What is asked, as JSON."""
    return {"messages": [{"role": "user", "content": text}], "video": video, **more}
