"""A repository on the Hub, against a server that speaks its protocol: what arrives, and what is told if it cannot."""

from __future__ import annotations

import hashlib
from pathlib import Path

import huggingface_hub
import pytest

from tests.publishing.conftest import TOKEN, Hub
from vista_train.publishing.repository import MARKER, Repository, files_of

NAME = "alice/long-video"
CARD = f"---\ntags: [a]\n---\n{MARKER}\n# long-video\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as a run leaves it."""
    made = tmp_path / "step-000004"
    (made / "training").mkdir(parents=True)
    (made / "more").mkdir()
    files = {
        "model.safetensors": bytes(range(256)) * 64,
        "config.json": b'{"a": 1}',
        "recipe.yaml": b"output: /home/alice/run\n",
        "more/chat.jinja": b"{{ x }}",
        "training/state.json": b"{}",
        "training/optimizer-00000.safetensors": b"secret",
        "log.jsonl": b"{}",
        ".lock": b"",
    }
    for name, content in files.items():
        (made / name).write_bytes(content)
    return made


def test_what_arrives_is_what_was_there_less_the_state_of_the_run(hub: Hub, folder: Path) -> None:
    repository = Repository(NAME, private=True)
    repository.prepare()
    assert hub.private == {NAME: True}
    filled = repository.fill(folder, {"README.md": CARD, "recipe.yaml": "seed: 0\n"})
    assert hub.repositories[NAME] == {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": CARD.encode(),
        "config.json": b'{"a": 1}',
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "more/chat.jinja": b"{{ x }}",
        "recipe.yaml": b"seed: 0\n",
    }
    assert filled.url == f"{hub.url}/{NAME}"
    assert filled.left == ()
    assert sum(request.endswith("/commit/main") for request in hub.asked) == 1
    assert hub.tokens == {TOKEN}


def test_once_more_replaces_our_card_and_tells_what_else_is_there(hub: Hub, folder: Path) -> None:
    hub.repositories[NAME] = {".gitattributes": b"", "README.md": CARD.encode(), "pytorch_model.bin": b"old"}
    repository = Repository(NAME)
    repository.prepare()
    filled = repository.fill(folder, {"README.md": CARD + "more\n"})
    assert filled.left == ("pytorch_model.bin",)
    assert hub.repositories[NAME]["README.md"].endswith(b"more\n")
    assert hub.repositories[NAME]["pytorch_model.bin"] == b"old"


def test_a_card_that_somebody_wrote_is_kept(hub: Hub, folder: Path) -> None:
    hub.repositories[NAME] = {"README.md": b"# My own words\n"}
    repository = Repository(NAME)
    for work in (repository.prepare, lambda: repository.fill(folder, {"README.md": CARD})):
        with pytest.raises(ValueError, match=r"alice/long-video: its README.md was not written by vista_train"):
            work()
    assert hub.repositories[NAME] == {"README.md": b"# My own words\n"}
    assert not hub.stored


@pytest.mark.parametrize(
    "name", ["long-video", "a/b/c", "alice/", "/x", "alice/a b", "alice/" + "x" * 97, "", "ali..ce/x"]
)
def test_names_that_the_hub_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=r"--push-to-hub is '.*'; it must be owner/name"):
        Repository(name)


def test_no_login_and_a_wrong_one(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong")
    with pytest.raises(
        ValueError, match=r"^--push-to-hub alice/long-video: the Hub does not know the login \(401\)"
    ) as told:
        Repository(NAME).prepare()
    assert "wrongwrong" not in str(told.value)
    assert "\n" not in str(told.value)
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.asked)
    with pytest.raises(ValueError, match=r"there is no login; run `hf auth login`, or set HF_TOKEN"):
        Repository(NAME).prepare()
    assert len(hub.asked) == asked


def test_no_right_to_write(hub: Hub) -> None:
    with pytest.raises(ValueError, match=r"bob/model: the login may not write there \(403\)"):
        Repository("bob/model").prepare()
    # The Hub's client takes one that is there for made, whoever asks.
    hub.repositories["bob/model"] = {}
    with pytest.raises(ValueError, match=r"bob/model: the login may not write there \(403\)"):
        Repository("bob/model").prepare()


def test_no_network_and_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"long-video: the Hub cannot be reached \(ConnectError: "):
        Repository(NAME).prepare()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"long-video: HF_HUB_OFFLINE is set"):
        Repository(NAME).prepare()


@pytest.mark.parametrize(
    ("ending", "status", "told"),
    [
        ("/commit/main", 413, r"the Hub says 413: no, not for hf_\*\*\*"),
        ("/objects/batch", 403, r"the login may not write there \(403\)"),
        ("/preupload/main", 400, r"the Hub says 400: no, not for hf_\*\*\*"),
    ],
)
def test_what_goes_wrong_in_the_middle(hub: Hub, folder: Path, ending: str, status: int, told: str) -> None:
    repository = Repository(NAME)
    repository.prepare()
    hub.fails[ending] = status
    with pytest.raises(ValueError, match=told) as error:
        repository.fill(folder, {"README.md": CARD})
    assert TOKEN not in str(error.value)
    # All or nothing.
    assert hub.repositories[NAME].keys() == {".gitattributes"}


def test_a_large_file_that_is_not_taken(hub: Hub, folder: Path) -> None:
    repository = Repository(NAME)
    repository.prepare()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    hub.fails[f"/store/{digest}"] = 403
    with pytest.raises(ValueError, match=r"long-video: the login may not write there \(403\)"):
        repository.fill(folder, {"README.md": CARD})
    assert hub.repositories[NAME].keys() == {".gitattributes"}


def test_files_of_the_model(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in files_of(folder)]
    assert names == ["config.json", "model.safetensors", "more/chat.jinja", "recipe.yaml"]
