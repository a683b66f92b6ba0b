"""A recipe: strict at every level, told where it is wrong and what would be right, and the same when read again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from vista_train import cli
from vista_train.augment import REGISTRY, Augment, Plain, TemporalNeedle
from vista_train.config import load_recipe, parse_recipe, schema
from vista_train.models.adapters import LoraSettings
from vista_train.plain_yaml import MAX_RECIPE_BYTES
from vista_train.training.loop import LoopSettings
from vista_train.training.optimizer import OptimizerSettings, PartSettings
from vista_train.video.sampling import View


@pytest.fixture
def loaded(tmp_path):
    """Loads a recipe from its text, with overrides."""

    def load(text: str, *overrides: str):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return load_recipe(path, overrides)

    return load


def refused(loaded, text: str, *overrides: str) -> str:
    """What is said of a wrong recipe, behind the recipe's path: one line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        loaded(text, *overrides)
    said = str(error.value)
    assert "\n" not in said
    return said.split("recipe.yaml: ", 1)[-1]


def test_an_empty_recipe_has_every_default(loaded):
    recipe = loaded("")
    assert recipe.make_view() == View()
    assert recipe.make_loop() == LoopSettings()
    assert recipe.make_optimizer() == OptimizerSettings()
    by_default = [name for name in sorted(REGISTRY) if REGISTRY[name].by_default]
    assert [item.augment for item in recipe.make_mix()] == [REGISTRY[name]() for name in by_default]
    assert {item.weight for item in recipe.make_mix()} == {1.0}
    assert (recipe.family.name, recipe.seed, recipe.data.root) == ("tiny", 0, ".")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sed: 1", "sed: unknown key; did you mean 'seed'?"),
        ("vew: {}", "vew: unknown key; did you mean 'view'?"),
        ("family: {patchh: 14}", "family.patchh: unknown key; did you mean 'patch'?"),
        ("view: {frame: 8}", "view.frame: unknown key; did you mean 'frames'?"),
        ("data: {manifest: []}", "data.manifest: unknown key; did you mean 'manifests'?"),
        (
            "data: {manifests: [{path: a.jsonl}, {path: b.jsonl, wieght: 2}]}",
            "data.manifests.1.wieght: unknown key; did you mean 'weight'?",
        ),
        ("augment: {temporal_needl: {}}", "augment.temporal_needl: unknown key; did you mean 'temporal_needle'?"),
        (
            "augment: {temporal_needle: {max_needle_second: 3}}",
            "augment.temporal_needle.max_needle_second: unknown key; did you mean 'max_needle_seconds'?",
        ),
        ("train: {stps: 3}", "train.stps: unknown key; did you mean 'steps'?"),
        ("steps: 5", "steps: unknown key; did you mean 'train.steps'?"),
        ("frames: 5", "frames: unknown key; did you mean 'view.frames'?"),
        (
            "zzz: 1",
            "zzz: unknown key; known here: output, seed, family, view, data, augment, train, evaluate",
        ),
        ("train: {language: {lora: {rr: 4}}}", "train.language.lora.rr: unknown key; did you mean 'r'?"),
        ("train: {language: {zzz: 4}}", "train.language.zzz: unknown key; known here: lr, lora"),
        ("sed: 1\nview: {fps: x}", "view.fps is 'x'; it must be a number; sed: unknown key; did you mean 'seed'?"),
    ],
)
def test_an_unknown_key_is_told_with_the_right_one(loaded, text, said):
    assert refused(loaded, text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("view: {frames: 0}", "view.frames is 0; it must be at least 1"),
        ("view: {frames: 1.5}", "view.frames is 1.5; it must be a whole number"),
        ("view: {fit: stretch}", "view.fit is 'stretch'; it must be 'letterbox', 'crop', 'squash' or 'native'"),
        ("train: {steps: 0}", "train.steps is 0; it must be at least 1"),
        ("train: {batch_samples: 0}", "train.batch_samples is 0; it must be at least 1"),
        ("train: {max_failed_share: 2}", "train.max_failed_share is 2.0; it must lie in 0..1"),
        ("train: {lr: fast}", "train.lr is 'fast'; it must be a number"),
        ("train: {lr: .nan}", "train.lr is nan; it must be a finite number"),
        (
            "train: {vision: maybe}",
            "train.vision is 'maybe'; it must be true or false, or a number, or a section with keys of its own",
        ),
        (
            "train: {vision: [1]}",
            "train.vision is a list; it must be true or false, or a number, or a section with keys of its own",
        ),
        ("train: {vision: -1}", "train.vision is -1.0; it must not be below 0"),
        ("train: {vision: {lr: fast}}", "train.vision.lr is 'fast'; it must be a number"),
        ("train: {vision: {lr: .nan}}", "train.vision.lr is nan; it must be a finite number"),
        ("train: {vision: {lr: 0}}", "train.vision.lr is 0.0; it must lie between 0 and 1 (a part is frozen by false)"),
        ("train: {vision: {lora: true}}", "train.vision.lora is True; it must be a section with keys of its own"),
        ("train: {vision: {lora: {r: 1.5}}}", "train.vision.lora.r is 1.5; it must be a whole number"),
        ("train: {vision: {lora: {r: 0}}}", "train.vision.lora.r is 0; it must be at least 1"),
        (
            "train: {vision: {lora: {}}, language: {lora: {dropout: 0}}}",
            "train.vision.lora.dropout is 0.05, train.language.lora.dropout is 0.0; "
            "all parts with lora must have the same",
        ),
        (
            "train: {vision: false, projector: false, language: 0}",
            "train.vision, train.projector and train.language are all false or at a rate of 0 (train.lr is 0.0001); "
            "nothing would train",
        ),
        ("train: {betas: [0.9]}", "train.betas.1 is missing"),
        (
            "family: {name: tny}",
            "family.name: unknown family 'tny'; did you mean 'tiny'? known: internvl, "
            "llava_onevision, longva, mantis, qwen_vl, smolvlm, tiny, video_llava",
        ),
        ("family: tiny", "family is 'tiny'; it must be a section with keys of its own"),
        ("family: {max_tokens: 0}", "tiny.max_tokens is 0; it must be at least 1"),
        ("augment: [plain]", "augment is a list; it must be a section with keys of its own"),
        ("augment: {plain: {weight: -1}}", "augment.plain.weight is -1; it must be greater than or equal to 0"),
        (
            "augment: {plain: {sources: {clip: a}}}",
            "augment.plain.sources.clip is 'a'; it must be a list",
        ),
        ("data: {manifests: []}", "data.manifests: Tuple should have at least 1 item after validation, not 0"),
        ("data: {manifests: a.jsonl}", "data.manifests is 'a.jsonl'; it must be a list"),
        ("data: {manifests: [a.jsonl]}", "data.manifests.0 is 'a.jsonl'; it must be a section with keys of its own"),
        ("data: {manifests: [{weight: 1}]}", "data.manifests.0.path is missing"),
        ("output: 5", "output is 5; it must be text"),
        ("seed: -1", "seed is -1; it must be greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_told_with_its_key_and_what_would_be_right(loaded, text, said):
    assert refused(loaded, text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("view: [", "not YAML: expected the node content, but found '<stream end>' (line 1, column 8)"),
        ("view:\n\tframes: 3", "not YAML: found character '\\t' that cannot start any token (line 2, column 1)"),
        ("seed: 2024-99-99", "not YAML: month must be in 1..12"),
        ("seed: 1\nview: {}\nseed: 2", "not YAML: seed stands twice in one section (line 3)"),
        ("a: \0", "not YAML: unacceptable character #x0000: special characters are not allowed in"),
        ("[" * 20_000, "not YAML: nested too deeply"),
        ("- seed", "a recipe is a mapping of keys to values, not a list"),
        ("seed", "a recipe is a mapping of keys to values, not a str"),
    ],
)
def test_what_is_no_recipe_is_refused(loaded, text, said):
    assert refused(loaded, text).startswith(said)


@pytest.mark.parametrize("place", ["file", "override", "base"])
@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [{0}]", "!!python/object/new:os.mkdir [[{0}]]"])
def test_a_recipe_runs_nothing(loaded, tmp_path, place, tag):
    trap = tmp_path / "trap"
    text = f"output: {tag.format(trap)}"
    (tmp_path / "base.yaml").write_text(text if place == "base" else "")
    overrides = [text.replace(": ", "=", 1)] if place == "override" else []
    with pytest.raises(ValueError, match="not YAML: could not determine a constructor for the tag"):
        loaded(text if place == "file" else "base: base.yaml", *overrides)
    assert not trap.exists()


def test_a_recipe_of_a_megabyte_and_more_is_refused_unread(loaded):
    assert refused(loaded, "#" * MAX_RECIPE_BYTES + "\n") == f"a recipe is at most {MAX_RECIPE_BYTES} bytes long"
    assert loaded("#" * (MAX_RECIPE_BYTES - 1) + "\n").seed == 0


def test_aliases_upon_aliases_cost_nothing(loaded):
    """Nine to the ninth strings, if anybody were to write them out."""
    levels = ["&a [x, x, x, x, x, x, x, x, x]"]
    for high, low in zip("abcdefgh", "bcdefghi", strict=True):
        levels.append(f"&{low} [{', '.join([f'*{high}'] * 9)}]")
    text = "\n".join(f"output{number}: {level}" for number, level in enumerate(levels))
    said = refused(loaded, text + "\noutput: *i")
    assert said.endswith("not YAML: more than 100000 values, its aliases unfolded")


def test_a_recipe_builds_on_another(loaded, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "base.yaml").write_text(
        "seed: 3\nview: {frames: 5, width: 84}\ntrain: {steps: 7}\naugment: {plain: {weight: 2}, two_needle: {}}"
    )
    above = "base: below/base.yaml\nview: {frames: 6}\naugment: {plain: {weight: 4}}"
    recipe = loaded(above, "train.steps=8", "view.frames=9")
    # The base below, the file over it key by key, overrides over both.
    assert (recipe.seed, recipe.view.width, recipe.view.frames, recipe.train.steps) == (3, 84, 9, 8)
    assert loaded(above).view.frames == 6
    assert [(item.augment.name, item.weight) for item in recipe.make_mix()] == [("plain", 4.0), ("two_needle", 1.0)]


def test_a_list_is_replaced_whole(loaded, tmp_path):
    (tmp_path / "base.yaml").write_text("data: {manifests: [{path: a.jsonl}, {path: b.jsonl}], root: clips}")
    recipe = loaded("base: base.yaml\ndata: {manifests: [{path: c.jsonl}]}")
    assert [entry.path for entry in recipe.data.manifests] == ["c.jsonl"]
    assert recipe.data.root == "clips"


def test_a_base_may_have_a_base_but_not_itself(loaded, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "base.yaml").write_text("base: below/lowest.yaml\nseed: 5\ntrain: {steps: 5}")
    (tmp_path / "below" / "lowest.yaml").write_text("seed: 4\ntrain: {steps: 4, lr: 0.5}\nview: {frames: 3}")
    recipe = loaded("base: base.yaml\ntrain: {steps: 6}")
    assert (recipe.seed, recipe.train.steps, recipe.train.lr, recipe.view.frames) == (5, 6, 0.5, 3)
    (tmp_path / "below" / "lowest.yaml").write_text("base: ../base.yaml")
    with pytest.raises(ValueError, match=r"base\.yaml: base: a recipe cannot build on itself"):
        loaded("base: base.yaml")
    with pytest.raises(ValueError, match=r"recipe\.yaml: base is 'gone\.yaml'; there is no .*gone\.yaml"):
        loaded("base: gone.yaml")
    with pytest.raises(ValueError, match=r"gone\.yaml: there is no such recipe"):
        load_recipe(tmp_path / "gone.yaml")
    assert loaded("base:\nseed: 4").seed == 4


def test_overrides_reach_into_lists_and_new_sections(loaded):
    text = "data: {manifests: [{path: a.jsonl}, {path: b.jsonl}]}"
    recipe = loaded(text, "data.manifests.1.path=c.jsonl", "data.manifests.0.weight=3", "augment.plain.weight=0.5")
    assert [(entry.path, entry.weight) for entry in recipe.data.manifests] == [("a.jsonl", 3.0), ("c.jsonl", 1.0)]
    assert [(item.augment, item.weight) for item in recipe.make_mix()] == [(Plain(), 0.5)]
    assert loaded("", "output=a=b").output == "a=b"
    assert loaded("", "data.manifests=[{path: x.jsonl}]").data.manifests[0].path == "x.jsonl"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.steps", "override 'train.steps': write it as key=value, such as train.steps=100"),
        ("=3", "override '=3': write it as key=value, such as train.steps=100"),
        ("seed.x=3", "override 'seed.x=3': seed is 1, not a section with keys of its own"),
        ("data.manifests.1.path=x", "override 'data.manifests.1.path': '1' is not the number of an entry; there are 1"),
        ("data.manifests.a=x", "override 'data.manifests.a': 'a' is not the number of an entry; there are 1, from 0"),
        ("data.manifests.0.path.z=x", "override 'data.manifests.0.path.z=x': path is 'a.jsonl', not a section"),
        ("train.steps=[1", "override 'train.steps=[1': the value is not YAML: expected ',' or ']'"),
        ("train.stps=1", "train.stps: unknown key; did you mean 'steps'?"),
        ("view.frames=0", "view.frames is 0; it must be at least 1"),
        ("train.vision.lora=", "train.vision.lora has nothing behind it; write {} for its defaults, or leave it out"),
        ("train.vision=1", "train.vision is 1.0; it must be true, false, or a rate such as 2.0e-5"),
        ("output=", "output is None; it must be text"),
    ],
)
def test_a_wrong_override_is_told(loaded, override, said):
    assert refused(loaded, "seed: 1\ndata: {manifests: [{path: a.jsonl}]}", override).startswith(said)


@pytest.mark.parametrize(
    ("value", "rate"), [("true", 0.25), ("false", 0.0), ("2e-5", 2e-5), ("2.0e-5", 2e-5), ("0", 0.0)]
)
def test_a_part_is_trained_frozen_or_has_a_rate_of_its_own(loaded, value, rate):
    """YAML reads 2e-5, without a dot, as text."""
    settings = loaded(f"train: {{lr: 0.25, projector: {value}}}").make_optimizer()
    assert settings.rate("projector") == rate
    assert settings.rate("language") == 0.25
    assert loaded("train: {lr: 1e-4}").train.lr == 1e-4


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{}", PartSettings()),
        ("{lr: 1e-7}", PartSettings(lr=1e-7)),
        ("{lora: {}}", PartSettings(lora=LoraSettings())),
        (
            "{lr: 1.0e-7, lora: {r: 8, alpha: 4, dropout: 1e-1, dora: true, quantize: true}}",
            PartSettings(1e-7, LoraSettings(8, 4.0, 0.1, True, True)),
        ),
    ],
)
def test_a_part_may_be_a_section(loaded, text, part):
    recipe = loaded(f"train: {{language: {text}}}")
    assert recipe.make_optimizer().language == part
    assert loaded(recipe.to_yaml()).make_optimizer().language == part


def test_an_override_reaches_into_a_part(loaded):
    settings = loaded("train: {language: {lora: {r: 4}}}", "train.language.lora.r=8", "train.language.lr=1e-5")
    assert settings.make_optimizer().language == PartSettings(1e-5, LoraSettings(r=8))
    assert loaded("train: {language: {lora: {r: 4}}}", "train.language=false").make_optimizer().rate("language") == 0


def test_a_bare_section_is_the_section_with_its_defaults(loaded):
    recipe = loaded("view:\ntrain:\naugment:\n  temporal_needle:\n  plain: {weight: 3}\n")
    assert recipe.make_view() == View()
    assert [(item.augment, item.weight) for item in recipe.make_mix()] == [(Plain(), 3.0), (TemporalNeedle(), 1.0)]


def test_the_order_of_the_mix_is_not_that_of_the_imports(loaded, augmentations):
    """It decides which augmentation a draw is."""
    before = loaded("").make_mix()
    for name in reversed(list(REGISTRY)):
        REGISTRY[name] = REGISTRY.pop(name)
    assert loaded("").make_mix() == before


RICH = """
output: out/somewhere
seed: 11
family: {name: tiny, language_width: 64, path: null}
view: {frames: 12, sampling: fps, fps: 0.5, fit: crop}
data:
  root: "1e-5"
  manifests: [{path: a.jsonl, weight: 0.25}, {path: b/c.jsonl, name: other}]
augment:
  temporal_needle: {weight: 2, max_needle_seconds: 1e1, sources: {haystack: [a], needle: [other]}}
  spatial_needle: {needle_scale: [0.2, 0.3]}
  video_grid:
train: {steps: 5, vision: false, projector: 2e-5, language: {lr: 1e-7, lora: {r: 8}}, betas: [0.9, 0.95]}
"""


def test_a_resolved_recipe_reads_back_as_itself(loaded):
    for recipe in (loaded(RICH), loaded("")):
        text = recipe.to_yaml()
        again = loaded(text)
        assert again.model_dump() == recipe.model_dump()
        assert again.to_yaml() == text
        assert again.make_mix() == recipe.make_mix()
        assert set(yaml.safe_load(text)) == {"output", "seed", "family", "view", "data", "augment", "train"}


def test_a_recipe_does_not_change(loaded):
    recipe = loaded("")
    places = (recipe, "seed"), (recipe.view, "frames"), (recipe.train, "lr"), (recipe.augment.plain, "weight")
    for section, key in places:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 2)


def test_two_manifests_of_one_name_are_refused(loaded):
    recipe = loaded("data: {manifests: [{path: a/clips.jsonl}, {path: b/clips.jsonl}]}")
    with pytest.raises(ValueError, match=r"data\.manifests: two manifests have the same name; give each a `name`"):
        recipe.make_dataset(recipe.make_family().codec)


def test_every_key_has_its_help():
    described = schema()
    models = [described, *described["$defs"].values()]
    assert len(models) >= 7 + len(REGISTRY)
    for model in models:
        assert model["description"].strip()
        for key, entry in model["properties"].items():
            # A section that says of itself what its key says is not told twice.
            of_section = described["$defs"].get(entry.get("$ref", "").split("/")[-1], {})
            help_text = entry.get("description") or of_section.get("description") or ""
            assert len(help_text) > 5, f"{model['title']}.{key} has no help"


def test_the_schema_command_prints_json_that_names_every_key(capsys):
    assert cli.main(["schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema()
    assert set(printed["properties"]) == {"output", "seed", "family", "view", "data", "augment", "train", "evaluate"}
    assert set(printed["$defs"]["AugmentSection"]["properties"]) == set(REGISTRY)
    assert printed["$defs"]["TrainSection"]["properties"]["lr"]["default"] == 1e-4


def test_an_augmentation_of_ones_own_is_a_key(augmentations, loaded):
    @dataclass(frozen=True)
    class SlowMotion(Plain):
        """A clip at a fraction of its pace."""

        pace: float
        """Seconds of the clip in a second of the sample."""

    recipe = loaded("augment: {slow_motion: {pace: 5e-1, weight: 2}}")
    (item,) = recipe.make_mix()
    assert (item.augment, item.weight) == (SlowMotion(pace=0.5), 2.0)
    assert refused(loaded, "augment: {slow_motion: {}}") == "augment.slow_motion.pace is missing"
    assert "SlowMotion" in str(schema()["$defs"].keys())
    # It asks for a value, so a recipe that names no augmentations goes without it.
    assert "slow_motion" not in [item.augment.name for item in loaded("").make_mix()]


def test_an_augmentation_without_source_code_is_a_key_without_help(augmentations):
    space = {"Augment": Augment, "dataclass": dataclass, "Plain": Plain, "__name__": __name__}
    exec("@dataclass(frozen=True)\nclass FromNowhere(Plain):\n    pace: float = 1.0\n", space)
    (item,) = parse_recipe({"augment": {"from_nowhere": {"pace": 3}}}).make_mix()
    assert item.augment == space["FromNowhere"](pace=3.0)


def test_the_family_takes_a_checkpoint_in_place_of_the_recipes(loaded, tmp_path):
    recipe = loaded("family: {vision_width: 32, language_width: 64}\nview: {width: 56, height: 56}")
    assert recipe.make_family().settings.path is None
    with pytest.raises(ValueError, match=r"family\.path is '.*'; it must be a folder with a config\.json"):
        recipe.make_family(str(tmp_path))
    assert Path(recipe.output) == Path("out/run")
