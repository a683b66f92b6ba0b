"""Paths that lead out of the data root, by dots, slashes and links, also while somebody swaps what they lead to."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vista_train import preview, train
from vista_train.augment import REGISTRY
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.sources import ClipSource, clip_of
from vista_train.models.base import load_family
from vista_train.types import Message, Sample
from vista_train.video import decode
from vista_train.video.composition import Clip
from vista_train.video.decode import MediaMissing, MediaUnreadable, Wanted
from vista_train.video.media import Media
from vista_train.video.render import render_view

OpenMedia = Callable[..., Media]
OUT = (
    "../outside/secret.mp4",
    "a/../../outside/secret.mp4",
    "./../outside/secret.mp4",
    "honest.mp4/../x.mp4",
    "..",
    ".",
)


@pytest.mark.parametrize("key", [*OUT, "", "/", "\0", "honest.mp4\0.txt"])
def test_dots_lead_nowhere(open_media: OpenMedia, canary: Any, kit: SimpleNamespace, key: str) -> None:
    assert (open_media().root / OUT[0]).is_file()
    kit.refusals(open_media(), key, MediaMissing)
    assert not canary.was_opened()


def test_an_absolute_path_is_refused_unless_it_is_allowed(
    open_media: OpenMedia, canary: Any, kit: SimpleNamespace
) -> None:
    kit.refusals(open_media(), str(canary.film), MediaMissing)
    assert not canary.was_opened()
    allowed = kit.ways(open_media(allow_absolute=True), str(canary.film))
    assert kit.colour_of(allowed["pictures"]()) == "red"
    # To see that it is told when it happens.
    assert canary.was_opened()
    kit.refusals(open_media(allow_absolute=True), f"{canary.folder}/../outside/secret.mp4", MediaMissing)
    assert not canary.was_opened()


@pytest.mark.parametrize("way", ["file", "folder", "inside", "chain"])
def test_a_link_is_refused_unless_it_is_allowed(
    open_media: OpenMedia, root: Path, canary: Any, kit: SimpleNamespace, way: str
) -> None:
    key = {"file": "link.mp4", "folder": "link/secret.mp4", "inside": "link.mp4", "chain": "link.mp4"}[way]
    (root / "hop.mp4").symlink_to(canary.film)
    target = {"file": canary.film, "folder": canary.folder, "inside": "honest.mp4", "chain": "hop.mp4"}[way]
    (root / key.split("/")[0]).symlink_to(target)
    for reason in kit.refusals(open_media(), key, MediaMissing):
        assert "link" in reason
    assert not canary.was_opened()
    allowed = kit.ways(open_media(allow_symlinks=True), key)
    assert kit.colour_of(allowed["pictures"]()) == ("blue" if way == "inside" else "red")
    assert canary.was_opened() == (way != "inside")


def test_a_link_that_leads_to_itself_is_refused(open_media: OpenMedia, root: Path, kit: SimpleNamespace) -> None:
    (root / "loop.mp4").symlink_to("loop.mp4")
    kit.refusals(open_media(), "loop.mp4", MediaMissing)
    kit.refusals(open_media(allow_symlinks=True), "loop.mp4", MediaMissing)


def test_a_file_swapped_for_a_link_after_it_was_looked_at_stays_what_it_was(
    root: Path, canary: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a file and its opening by the decoder, which is the worst moment there is."""
    look = decode.check_file

    def look_and_swap(path: Path, limits: Any) -> None:
        look(path, limits)
        (root / "honest.mp4").unlink()
        (root / "honest.mp4").symlink_to(canary.film)

    monkeypatch.setattr(decode, "check_file", look_and_swap)
    media = Media(root, isolate="inline")
    wanted = [Wanted(Fraction(0), 16, 12)]
    # By its path alone, it would be the other film.
    named = [picture for _, picture in decode.read(root / "honest.mp4", wanted)]
    assert (kit.colour_of(named), canary.was_opened()) == ("red", True)
    (root / "honest.mp4").unlink()
    kit.make_film(root / "honest.mp4")
    through = [picture for _, picture in media.pictures("honest.mp4", wanted)]
    assert (kit.colour_of(through), canary.was_opened()) == ("blue", False)


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_link_that_comes_and_goes_never_leads_out(root: Path, canary: Any, kit: SimpleNamespace, which: str) -> None:
    """Another process swaps the file (or its folder) for a link, over and over, while pictures are read."""
    inner = root / "inner"
    inner.mkdir()
    kit.make_film(inner / "secret.mp4")
    swapped, link = (inner / "secret.mp4", canary.film) if which == "file" else (inner, canary.folder)
    (root / "link").symlink_to(link)
    media, wanted, seen = Media(root, isolate="inline"), [Wanted(Fraction(0), 16, 12)], set()
    swapper = os.fork()
    if not swapper:
        try:
            while os.getppid() != 1:
                swapped.rename(root / "aside")
                (root / "link").rename(swapped)
                swapped.rename(root / "link")
                (root / "aside").rename(swapped)
        finally:
            os._exit(0)
    try:
        for _ in range(600):
            try:
                seen.add(kit.colour_of([picture for _, picture in media.pictures("inner/secret.mp4", wanted)]))
            except MediaMissing as error:
                seen.add("a link" if "link" in error.reason else "nothing")
    finally:
        os.kill(swapper, 9)
        os.waitpid(swapper, 0)
    assert "red" not in seen
    assert not canary.was_opened()
    assert len(seen) > 1, "the race was never run"


def test_what_is_no_file_is_not_waited_for(open_media: OpenMedia, root: Path, kit: SimpleNamespace) -> None:
    """A pipe without a writer would be waited for without end."""
    os.mkfifo(root / "pipe.mp4")
    (root / "folder.mp4").mkdir()
    kit.refusals(open_media(), "pipe.mp4", MediaUnreadable)
    kit.refusals(open_media(), "folder.mp4", MediaUnreadable)
    kit.refusals(open_media(), "folder.mp4/x.mp4", MediaMissing)
    kit.refusals(open_media(), "honest.mp4/x.mp4", MediaMissing)
    kit.refusals(open_media(allow_absolute=True), "/dev/zero", MediaUnreadable)


@pytest.mark.parametrize("key", OUT)
def test_a_clip_that_no_manifest_has_checked_leads_nowhere(
    open_media: OpenMedia, canary: Any, kit: SimpleNamespace, key: str
) -> None:
    """As a sample from JSON names one."""
    media = open_media()
    sample = Sample(Clip(key, 0, 1, 64, 48, 10), (Message("user", "?"), Message("assistant", "!")), (), "plain")
    sample = Sample.from_json(sample.to_json())
    with pytest.raises(MediaMissing):
        render_view(sample.video, [Fraction(0)], kit.VIEW, media)
    with pytest.raises(MediaMissing):
        clip_of(media, key)
    assert not canary.was_opened()


@pytest.mark.parametrize("key", [OUT[0], OUT[1], "{film}"])
def test_a_manifest_that_leads_out_begins_no_run(
    write_manifest: Callable[..., Path],
    write_recipe: Callable[..., Path],
    canary: Any,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    key: str,
) -> None:
    write_manifest({"video": "honest.mp4"}, {"video": key.format(film=canary.film)})
    recipe = write_recipe()
    for main in (train.main, preview.main):
        assert main([str(recipe)]) == 2
        said = capsys.readouterr().err
        assert "clips.jsonl:2: video is " in said
        assert "it must be a path under the data root" in said
    assert not (tmp_path / "run").exists()
    assert not canary.was_opened()


def test_a_link_in_a_manifest_costs_its_samples(
    write_manifest: Callable[..., Path], root: Path, canary: Any, open_media: OpenMedia, kit: SimpleNamespace
) -> None:
    (root / "link.mp4").symlink_to(canary.film)
    media = open_media()
    bare = '{"video": "link.mp4", "caption": "Red."}'
    ((key, reason),) = ClipSource(write_manifest({"video": "honest.mp4"}, bare), media).unusable
    assert (key, "symbolic link" in reason) == ("link.mp4", True)
    source = ClipSource(write_manifest({"video": "honest.mp4"}, {"video": "link.mp4"}), media)
    codec = load_family("tiny", kit.SMALL, kit.VIEW).codec
    dataset = VistaDataset({"clips": source}, (Ingredient(REGISTRY["plain"]()),), codec, media)
    encoded = [dataset[position] for position in range(8)]
    lost = [failure for one in encoded for failure in one.failures]
    assert {failure.key for failure in lost} == {"link.mp4"}
    assert {failure.kind for failure in lost} == {"MediaMissing"}
    assert not canary.was_opened()
