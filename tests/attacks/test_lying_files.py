"""An index, a proxy or tiles may say anything: a file that took its decoder over may have written them."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vista_train.video.decode import Wanted
from vista_train.video.decode.indexes import ARRAYS, END, END_MAGIC, HEAD, MAGIC, IndexFile
from vista_train.video.media import Media
from vista_train.video.renditions import PROXY, TILES, Renditions

NUM = 10
COLUMNS: dict[str, Any] = dict.fromkeys(("pts_P", "dts_P", "rank_P", "position_F", "shown_F"), range(NUM))
COLUMNS |= {"keys_K": [0], "stand_ins_K": [0]}
LENGTHS = [len(COLUMNS.get(name, ())) for name in ARRAYS]
ABOUT = {"size": [64, 48], "source_size": [64, 48], "sizes": {}, "container": "mov"}


def index(stamp: tuple[int, int], raw: bytes | None = None, about: Any = None, **lies: Any) -> bytes:
    """An index of ten frames, sound but for the lies."""
    facts = {"about": ABOUT | {"stamp": stamp} | (about or {}), "time_base": [1, 10], "last_seconds": [1, 10]}
    facts |= {"lengths": LENGTHS, "setup": None}
    text = raw if raw is not None else json.dumps(facts | lies).encode()
    parts = [HEAD.pack(MAGIC, len(text), 0), text]
    parts += [np.asarray(COLUMNS.get(name, []), dtype=kind).tobytes() for name, kind in ARRAYS.items()]
    content = b"".join(part + bytes(-len(part) % 8) for part in parts)
    return HEAD.pack(MAGIC, len(text), len(content)) + content[HEAD.size :]


LIES: dict[str, Callable[[tuple[int, int]], bytes]] = {
    "no tile": index,
    "a time base by zero": lambda stamp: index(stamp, time_base=[1, 0]),
    "a time base of zero": lambda stamp: index(stamp, time_base=[0, 1]),
    "a time base below zero": lambda stamp: index(stamp, time_base=[-1, 10]),
    "a time base of floats": lambda stamp: index(stamp, time_base=[0.5, 10]),
    "a time base without end": lambda stamp: index(stamp, time_base=[10**4000, 1]),
    "a time base of three": lambda stamp: index(stamp, time_base=[1, 2, 3]),
    "no time base": lambda stamp: index(stamp, time_base=None),
    "a last frame by zero": lambda stamp: index(stamp, last_seconds=[1, 0]),
    "infinite lengths": lambda stamp: index(stamp, lengths=[float("inf")] * len(ARRAYS)),
    "huge lengths": lambda stamp: index(stamp, lengths=[2**62] * len(ARRAYS)),
    "lengths below zero": lambda stamp: index(stamp, lengths=[-5] * len(ARRAYS)),
    "too few lengths": lambda stamp: index(stamp, lengths=[NUM]),
    "lengths of truth": lambda stamp: index(stamp, lengths=[True] * len(ARRAYS)),
    "nested without end": lambda stamp: index(stamp, raw=b"[" * 200_000),
    "text without end": lambda stamp: index(stamp, raw=b" " * (2 << 20)),
    "a number": lambda stamp: index(stamp, raw=b"5"),
    "infinite pictures": lambda stamp: index(stamp, about={"size": [float("inf"), 3]}),
    "huge pictures": lambda stamp: index(stamp, about={"size": [8192, 8192], "source_size": [8192, 8192]}),
    "pictures of no size": lambda stamp: index(stamp, about={"size": [0, 0]}),
    "sizes of text": lambda stamp: index(stamp, about={"size": "64", "source_size": None}),
    "of another file": lambda stamp: index((stamp[0] + 1, stamp[1])),
    "nothing": lambda stamp: b"",
}


@pytest.mark.parametrize("snaps", [False, True])
@pytest.mark.parametrize("kind", [PROXY, TILES])
@pytest.mark.parametrize("lie", LIES)
def test_a_rendition_that_lies_is_no_more_than_not_there(
    root: Path, tmp_path: Path, lie: str, kind: str, snaps: bool
) -> None:
    (tmp_path / "p").mkdir()
    media = Media(root, isolate="inline", proxies=tmp_path / "p", snap_seconds=0.2 if snaps else 0.0)
    stamp = media.stamp("honest.mp4")
    assert stamp is not None
    place = Renditions(str(tmp_path / "p")).place("honest.mp4", kind)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(LIES[lie](stamp) + END.pack(0, END_MAGIC))
    window = (Fraction(0), Fraction(1, 2)) if snaps else None
    wanted = [Wanted(Fraction(at, 10), 64, 48, window) for at in range(3)]
    expected = dict(Media(root, isolate="inline").pictures("honest.mp4", wanted))
    found = dict(media.pictures("honest.mp4", wanted))
    assert all(np.array_equal(found[at], expected[at]) for at in range(3))
    assert media.drawn["file"] == 3


@pytest.mark.parametrize("start", [2**64 - 1, 1 << 40, 7])
def test_an_index_may_be_said_to_stand_anywhere(root: Path, tmp_path: Path, start: int) -> None:
    (tmp_path / "p").mkdir()
    media = Media(root, isolate="inline", proxies=tmp_path / "p")
    place = Renditions(str(tmp_path / "p")).place("honest.mp4", TILES)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(index(media.stamp("honest.mp4") or (0, 0)) + END.pack(start, END_MAGIC))
    assert len(list(media.pictures("honest.mp4", [Wanted(Fraction(0), 64, 48)]))) == 1
    assert media.drawn == {"file": 1}


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie not in ("no tile", "of another file")])
def test_an_index_that_lies_is_none(tmp_path: Path, lie: str) -> None:
    place = tmp_path / "index"
    place.write_bytes(LIES[lie]((1, 2)))
    found = IndexFile(place).index()
    if "pictures" in lie or "sizes" in lie:
        assert found is not None, "that is nothing to an index"
    else:
        assert found is None


def test_a_sparse_file_takes_no_memory(root: Path, tmp_path: Path) -> None:
    """Of a hundred million keyframes, and tiles of 8192 x 8192, all of them holes."""
    (tmp_path / "p").mkdir()
    media = Media(root, isolate="inline", proxies=tmp_path / "p")
    stamp = media.stamp("honest.mp4") or (0, 0)
    lengths = dict(zip(ARRAYS, LENGTHS, strict=True)) | {"keys_K": 100_000_000}
    head = index(stamp, lengths=list(lengths.values()))
    place = Renditions(str(tmp_path / "p")).place("honest.mp4", TILES)
    place.parent.mkdir(exist_ok=True)
    with place.open("wb") as file:
        file.write(head[: HEAD.size - 4] + (500_000_000).to_bytes(4, "little") + head[HEAD.size :])
        file.truncate(500_000_000)
        file.seek(0, 2)
        file.write(END.pack(0, END_MAGIC))
    before = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    assert len(list(media.pictures("honest.mp4", [Wanted(Fraction(0), 64, 48)]))) == 1
    after = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    assert after - before < 50_000
