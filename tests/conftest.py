"""Fixtures for the whole suite: a small world of real clips, and the shared media where they are at hand."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

from vista_train.augment import REGISTRY

REPO = Path(__file__).parents[1]
# The numbers are those of fp32 on a CPU, also where there is a GPU. Set before any accelerator is made.
os.environ["ACCELERATE_USE_CPU"] = "1"
# Started in the background, a shell's child ignores Ctrl-C, and so would all that is started and interrupted here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse a pytest under which pytest-xdist deals out a group's tests one by one: each worker would launch all."""
    grouped = [item for item in items if item.get_closest_marker("xdist_group")]
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in grouped):
        raise pytest.UsageError("pytest-xdist has no say over this pytest's node ids; pip install 'pytest<9.2'")


@pytest.fixture(autouse=True)
def _cache_of_this_run(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests keep their sidecars in a folder of the test run, never in the user's own."""
    monkeypatch.setenv("VISTA_TRAIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def augmentations() -> Iterator[None]:
    """Augmentations that a test defines are known until it ends."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture(scope="session")
def make_clips() -> ModuleType:
    """`scripts/make_clips.py` as a module; scripts are no package, so it is loaded by its path."""
    return _load_script("make_clips")


@pytest.fixture(scope="session")
def make_checkpoint() -> ModuleType:
    """`scripts/make_checkpoint.py` as a module."""
    return _load_script("make_checkpoint")


@pytest.fixture(scope="session")
def world(make_clips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clips.jsonl` and its 16 clips: 4 sources of 4 consecutive clips, 4 to 8 s each.

    Source 0 is 160x120 at 12 fps, 1 the same at 10, 2 portrait (120x160, 12), 3 at 15 fps. Every other clip has
    questions. It is made once a run, whichever worker comes first; tests read it and write elsewhere.
    """
    base = tmp_path_factory.getbasetemp()
    # Under xdist each worker has its own folder inside the run's.
    shared_by_all = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared_by_all / "world"
    with FileLock(f"{folder}.lock"):
        make_clips.make_world(folder, make_clips.World(sources=4, clips_per_source=4))
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real clips, odd media and a tokenizer that are no part of the repository.

    They lie in `shared` beside it, or where VISTA_TRAIN_SHARED says; without them the test is skipped.
    """
    folder = Path(os.environ.get("VISTA_TRAIN_SHARED") or REPO.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no shared media at {folder}; VISTA_TRAIN_SHARED may name their folder")
    return folder


def _load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPO / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
