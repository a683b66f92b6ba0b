"""The few endpoints of the Hub that pushing uses, spoken by a server on this machine that keeps what arrives."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub.utils import close_session

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is there, and whom it lets in."""

    url: str = ""
    token: str = TOKEN
    writers: set[str] = field(default_factory=lambda: {"alice"})
    """Owners in whose name the token may write."""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """Large files by their hash."""
    asked: list[str] = field(default_factory=list)
    """Requests in their order: method and path."""
    fails: dict[str, int] = field(default_factory=dict)
    """Status by the ending of a path."""
    tokens: set[str] = field(default_factory=set)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *what: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path, hub = urlsplit(self.path).path, self.hub
        hub.asked.append(f"{self.command} {path}")
        status = next((status for ending, status in hub.fails.items() if path.endswith(ending)), None)
        if status is not None:
            return self.say({"error": f"no, not for {TOKEN}"}, status)
        if path.startswith("/store/"):
            # A signed address: no token goes there.
            assert "authorization" not in self.headers
            hub.stored[path.removeprefix("/store/")] = body
            return self.say({})
        if path == "/api/agent-harnesses":
            # What the client asks of its own accord.
            return self.say({}, 404)
        token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
        hub.tokens.add(token)
        if token != hub.token:
            return self.say({"error": "Invalid credentials in Authorization header"}, 401)
        return self.known(path, body)

    def known(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return self.say({"errors": [], "warnings": []})
        name = "/".join(path.removeprefix("/api/models/").lstrip("/").removesuffix(".git").split("/")[:2])
        name = name.removesuffix(".git")
        if name not in hub.repositories:
            return self.say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        files = hub.repositories[name]
        may_write = name.split("/")[0] in hub.writers
        if path.endswith("/tree/main"):
            return self.say([{"type": "file", "path": p, "size": len(b), "oid": "0" * 40} for p, b in files.items()])
        if "/resolve/" in path:
            return self.resolve(files, path.split("/resolve/main/")[1])
        if path == f"/api/models/{name}" or "/revision/" in path:
            return self.say({"id": name, "sha": COMMIT, "siblings": [{"rfilename": p} for p in files]})
        if not may_write:
            return self.say({"error": "Forbidden"}, 403)
        if path.endswith("/auth-check/write"):
            return self.say({})
        if path.endswith("/preupload/main"):
            modes = [
                {"path": entry["path"], "uploadMode": "lfs" if is_large(entry["path"]) else "regular"}
                for entry in json.loads(body)["files"]
            ]
            return self.say({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                entry | {"actions": {"upload": {"href": f"{hub.url}/store/{entry['oid']}", "header": {}}}}
                for entry in json.loads(body)["objects"]
            ]
            return self.say({"transfer": "basic", "objects": objects})
        if path.endswith("/commit/main"):
            return self.commit(name, body)
        raise AssertionError(f"the server does not know {self.command} {path}")

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def create(self, asked: dict[str, Any]) -> None:
        hub, name = self.hub, f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in hub.writers:
            return self.say({"error": "You don't have the rights to create a model under this namespace"}, 403)
        if name in hub.repositories:
            return self.say({"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409)
        hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self.say({"url": f"{hub.url}/{name}", "name": name})

    def resolve(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            return self.say({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self.send(files[name], 200, headers)

    def commit(self, name: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            entry = line["value"]
            if line["key"] == "file":
                self.hub.repositories[name][entry["path"]] = base64.b64decode(entry["content"])
            elif line["key"] == "lfsFile":
                self.hub.repositories[name][entry["path"]] = self.hub.stored[entry["oid"]]
        return self.say({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}"})

    def say(self, data: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(data).encode(), status, {"content-type": "application/json", **(headers or {})})

    def send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", "tokenizer.json"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server; the Hub's client goes there, with the token of somebody who may write as alice."""
    state = Hub()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    listening.daemon_threads = True
    state.url = f"http://127.0.0.1:{listening.server_address[1]}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # A client made before would go through proxies that are no longer set.
    close_session()
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()
    close_session()
