"""The bad and odd files, made once a run, and a decoding process for each reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.media.outcome import LIMITS
from tests.media.spoilt import SPOILT
from tests.media.table import add_shared, make
from tests.media.written import WRITTEN
from vista_train.video.decode import check_reader, pyav
from vista_train.video.decode import source as opening
from vista_train.video.media import Media


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file that the tests make."""
    base, worker = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_WORKER", "")
    # Under xdist each worker has its own folder inside the run's.
    folder = (base.parent if worker else base) / "odd"
    halves = [("written", WRITTEN), ("spoilt", SPOILT)]
    # Two workers make one half each.
    for name, kinds in halves if worker != "gw1" else halves[::-1]:
        with FileLock(f"{folder}.{name}.lock"):
            done = Path(f"{folder}.{name}.done")
            if not done.exists():
                make(folder / "root", kinds)
                done.touch()
    return folder / "root"


@pytest.fixture(scope="session")
def odd_shared(odd: Path, shared: Path) -> Path:
    """The same folder, the shared odd media in it."""
    with FileLock(f"{odd}.lock"):
        if not (odd / "shared").exists():
            add_shared(odd, shared / "odd_media")
    return odd


@pytest.fixture(scope="module")
def medias(odd: Path) -> Iterator[Callable[[str], Media]]:
    """The files through a reader, by its name; skips where its library is not installed."""
    made: dict[str, Media] = {}

    def of(reader: str) -> Media:
        if reader not in made:
            try:
                check_reader(reader)
            except ImportError as error:
                pytest.skip(str(error))
            made[reader] = Media(odd, reader, limits=LIMITS)
        return made[reader]

    yield of
    for media in made.values():
        media.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to a container: `opened`, or all of its packets `read`."""
    done: list[str] = []
    container, read = opening._container, opening.read_index
    monkeypatch.setattr(opening, "_container", lambda *given: done.append("opened") or container(*given))
    monkeypatch.setattr(pyav, "read_index", lambda source: done.append("read") or read(source))
    return done
