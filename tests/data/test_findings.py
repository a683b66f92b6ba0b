"""What follows for a manifest's lines from what their files turned out to be."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

from vista_train.data.check import check_manifest
from vista_train.data.sources import ClipSource
from vista_train.video.decode import Inspected, MediaUnreadable
from vista_train.video.media import Media


def test_who_followed_a_refused_clip_is_not_joined_to_who_came_before(tmp_path: Path) -> None:
    """In a source without times only the order of lines is known, and the clean manifest no longer shows the hole."""
    names = [f"{letter}.mp4" for letter in "abcdef"]
    for name in names:
        (tmp_path / name).write_bytes(b"media")
    lines = [{"video": name, "caption": "A dog.", "source": "film"} for name in names]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def inspect(key: str) -> Inspected:
        if key in ("b.mp4", "f.mp4"):
            raise MediaUnreadable(key, "no video")
        return Inspected(Fraction(4), 64, 48, Fraction(12), 48)

    def runs(manifest: Path) -> list[list[str]]:
        source = ClipSource(manifest, tmp_path, tmp_path / "cache")
        return [[source.key(at) for at in source.run(index, 5)] for index in range(len(source))]

    whole = check_manifest(tmp_path / "m.jsonl", Media(tmp_path), inspect=inspect, cache=tmp_path / "cache")
    assert runs(whole.clean) == [["a.mp4"]] + 3 * [["c.mp4", "d.mp4", "e.mp4"]]
    halves = [
        check_manifest(
            tmp_path / "m.jsonl", Media(tmp_path), shard=(half, 2), inspect=inspect, cache=tmp_path / "cache"
        )
        for half in (1, 2)
    ]
    assert [runs(half.clean) for half in halves] == [[["a.mp4"], ["c.mp4"], ["e.mp4"]], [["d.mp4"]]]
