"""Recipes that would run code, grow without end, or name what is not theirs to name."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vista_train import preview, train
from vista_train.cli import main as vista_train
from vista_train.config import load_recipe
from vista_train.plain_yaml import MAX_RECIPE_BYTES

WriteRecipe = Callable[..., Path]
TAGS = (
    '!!python/object/apply:os.mkdir ["{marker}"]',
    '!!python/object/new:os.mkdir ["{marker}"]',
    '!!python/object/apply:subprocess.check_call [[mkdir, "{marker}"]]',
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/object:vista_train.video.decode.Limits {{max_bytes: 1}}",
    "!!python/tuple [1, 2]",
    "!ruby/object:Gem::Installer {{}}",
)


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_that_names_python_is_no_yaml(
    write_recipe: WriteRecipe, marker: Path, capsys: pytest.CaptureFixture, tag: str
) -> None:
    recipe = write_recipe("seed: " + tag.format(marker=marker) + "\n")
    for main in (train.main, preview.main):
        assert main([str(recipe)]) == 2
        said = capsys.readouterr().err
        assert "could not determine a constructor for the tag" in said
        assert said.count("\n") == 1
    assert not marker.exists()


def test_an_override_is_no_python_either(
    write_recipe: WriteRecipe, marker: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(write_recipe()), "seed=" + TAGS[0].format(marker=marker)]) == 2
    assert "the value is not YAML" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("tag", TAGS[:3])
def test_these_tags_would_run(write_recipe: WriteRecipe, marker: Path, tag: str) -> None:
    yaml.unsafe_load(write_recipe("seed: " + tag.format(marker=marker) + "\n").read_text())
    assert marker.exists()


LAUGHS = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 20))
MERGES = "".join(f"m{level}: &m{level} {{<<: [{', '.join([f'*m{level - 1}'] * 9)}]}}\n" for level in range(1, 20))


@pytest.mark.parametrize(
    "text",
    [
        f"a0: &a0 [ha, ha]\n{LAUGHS}",
        f"m0: &m0 {{k: v}}\n{MERGES}",
        f"family: {{name: tiny, vision_width: &a0 [ha]}}\n{LAUGHS}",
        "&a [*a, *a]\n",
        "family: &a {name: *a}\n",
        "family: &a {<<: *a, name: no}\n",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "seed: " + "9" * 10_000,
        "seed: " + ":".join(["59"] * 1000),
        "seed: .inf",
        "train: {steps: .nan}",
        "? [seed]\n: 1\n",
        "seed: \0\n",
        "\x80\x04cos\nsystem",
        "- a list",
        "just words",
    ],
)
def test_a_text_that_grows_or_is_no_recipe_is_refused_at_once(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture, text: str
) -> None:
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert train.main([str(write_recipe(text))]) == 2
    assert time.monotonic() - began < 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 << 10
    said = capsys.readouterr().err
    assert "recipe.yaml: " in said
    assert len(said) < 4000


@pytest.mark.parametrize("way", ["copied", "merged"])
def test_aliases_that_are_unfolded_later_are_refused(write_recipe: WriteRecipe, tmp_path: Path, way: str) -> None:
    """As large as they may be, the one takes 60 GB and the other 2^60 steps."""
    if way == "copied":
        # A list of names, and as many roles that each have it.
        words, roles = ",".join(["a"] * 2000), ", ".join(f"r{number}: *l" for number in range(2000))
        recipe = write_recipe(f"augment: {{plain: {{sources: {{q: &l [{words}], {roles}}}}}}}\n")
    else:
        # Each level holds the one before twice; a base of the same shape is laid under it, key by key.
        levels = "".join(f"l{at}: &l{at} {{a: *l{at - 1}, b: *l{at - 1}}}\n" for at in range(1, 17))
        (tmp_path / "base.yaml").write_text(f"l0: &l0 {{k: v}}\n{levels}")
        recipe = write_recipe(f"base: base.yaml\nl0: &l0 {{k: v}}\n{levels}")
    with pytest.raises(ValueError, match=r"\balias"):
        load_recipe(recipe)


def test_an_oversized_recipe_is_not_read(write_recipe: WriteRecipe, capsys: pytest.CaptureFixture) -> None:
    recipe = write_recipe("# " + "x" * MAX_RECIPE_BYTES)
    assert train.main([str(recipe)]) == 2
    assert f"a recipe is at most {MAX_RECIPE_BYTES} bytes long" in capsys.readouterr().err
    with recipe.open("r+b") as file:
        file.truncate(100 << 30)
    assert train.main([str(recipe)]) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.reader=os:system", "data.reader: reader 'os:system' is unknown"),
        ("data.reader=../../evil", "data.reader: reader '../../evil' is unknown"),
        ("data.reader=child", "data.reader: reader 'child' is unknown"),
        ("data.isolate=os.system", "data.isolate is 'os.system'; it must be"),
        ("data.limits.containers=[hls]", "limits.containers has hls; choose of"),
        ("data.limits.containers=[mov, concat]", "limits.containers has concat; choose of"),
        ("data.limits.containers=['mov,hls']", "limits.containers has mov,hls; choose of"),
        ("family.name=../../x", "family.name: unknown family '../../x'"),
        ("family.name=os", "family.name: unknown family 'os'"),
        ("family.name=hub", "family.name: unknown family 'hub'"),
        ("family.name=vista_train.models.tiny", "family.name: unknown family"),
        ("family.name={a: b}", "family.name: unknown family"),
        ("family.trust_remote_code=true", "family.trust_remote_code: unknown key"),
        ("trust_remote_code=true", "trust_remote_code: unknown key"),
        ("augment={'os.system': {}}", "augment.os.system: unknown key"),
        ("augment={'evil:Augment': {weight: 1}}", "augment.evil:Augment: unknown key"),
        ("augment={__class__: {}}", "augment.__class__: unknown key"),
        ("__class__={}", "__class__: unknown key"),
        ("data.program=[evil]", "data.program: unknown key"),
        ("seed=1e400", "seed is"),
        ("train.steps=-1", "train.steps"),
    ],
)
def test_a_name_that_is_no_setting_is_refused(
    write_recipe: WriteRecipe, capsys: pytest.CaptureFixture, tmp_path: Path, override: str, said: str
) -> None:
    before = set(sys.modules)
    assert train.main([str(write_recipe()), override]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert not (tmp_path / "run").exists()
    assert not {name for name in set(sys.modules) - before if "evil" in name or name == "antigravity"}


@pytest.mark.parametrize("where", ["base", "base of a base", "manifest", "chat template", "a recipe itself"])
def test_what_a_recipe_points_at_is_not_told(
    write_recipe: WriteRecipe,
    tmp_path: Path,
    canary: Any,
    hub: Path,
    kit: SimpleNamespace,
    capsys: pytest.CaptureFixture,
    where: str,
) -> None:
    """It may be any file that its reader may read; none of its words are repeated."""
    (tmp_path / "base.yaml").write_text(f"base: {canary.text}\n")
    family = {"name": "llava_onevision", "path": str(hub), "chat_template": str(canary.text)}
    recipe = {
        "base": lambda: write_recipe(f"base: ../{tmp_path.name}/outside/secret.txt\n"),
        "base of a base": lambda: write_recipe("base: base.yaml\n"),
        "manifest": lambda: write_recipe(data={"manifests": [{"path": str(canary.text)}]}),
        "chat template": lambda: write_recipe(yaml.safe_dump({"family": family, "view": {"width": 70, "height": 70}})),
        "a recipe itself": lambda: canary.text,
    }[where]()
    assert train.main([str(recipe)]) == 2
    said = capsys.readouterr()
    assert kit.SECRET not in said.out + said.err


def test_a_recipe_that_builds_on_itself_is_refused(
    write_recipe: WriteRecipe, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = write_recipe("base: other.yaml\n")
    (tmp_path / "other.yaml").symlink_to(recipe)
    assert train.main([str(recipe)]) == 2
    assert "cannot build on itself" in capsys.readouterr().err


def test_a_checkpoints_recipe_is_read_as_any_other(
    resumable: SimpleNamespace, marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Resuming and merging read the recipe that lies in a checkpoint."""
    (resumable.checkpoint / "recipe.yaml").write_text("seed: " + TAGS[0].format(marker=marker) + "\n")
    assert train.main([str(resumable.recipe)]) == 2
    assert vista_train(["merge", str(resumable.checkpoint), str(tmp_path / "merged")]) == 2
    assert capsys.readouterr().err.count("could not determine a constructor") == 2
    assert not marker.exists()
    assert not (tmp_path / "merged").exists()


def test_the_honest_recipe_is_taken(write_recipe: WriteRecipe) -> None:
    assert load_recipe(write_recipe()).family.name == "tiny"
