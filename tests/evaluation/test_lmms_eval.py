"""The plugin for lmms-eval against our server: with a stand-in for lmms-eval here, and with lmms-eval itself in an
environment of its own, whose interpreter VISTA_TRAIN_LMMS_PYTHON names."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.serving import TOKEN, serving, tiny_recipe, tiny_run
from vista_train.config import load_recipe
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.generation import Generator
from vista_train.evaluation.prompts import Prompt
from vista_train.evaluation.scoring import ModelScorer
from vista_train.evaluation.server import Desk, Server
from vista_train.types import Message
from vista_train.video.media import Media

PLUGIN = Path(__file__).parents[2] / "scripts/lmms_eval_plugin"
VIDEOS = [f"source_00{source}/00{clip}.mp4" for source, clip in ((0, 0), (1, 2), (3, 1))]
PICTURE = "round.PNG"
CHOICES = ["a red ball", "B", "nothing at all"]


class StandIn:
    """What a model of lmms-eval inherits."""

    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}

    def clean(self) -> None:
        pass


@dataclass
class Counts:
    output_tokens: int


@dataclass
class Result:
    text: Any
    token_counts: Counts | None = None


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin, as lmms-eval would import it."""
    api = {
        "model": {"lmms": StandIn},
        "instance": {"GenerationResult": Result, "Instance": object, "TokenCounts": Counts},
    }
    for name in ("lmms_eval", "lmms_eval.api"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, held in api.items():
        module = ModuleType(f"lmms_eval.api.{name}")
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("vista_train_lmms", PLUGIN / "vista_train_lmms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    """A folder of videos, and a picture, that a test may write to."""
    folder = tmp_path / "media"
    for video in VIDEOS:
        (folder / video).parent.mkdir(parents=True)
        shutil.copy(world / video, folder / video)
    Image.radial_gradient("L").resize((64, 48)).save(folder / PICTURE)
    return folder


@pytest.fixture
def scorer(tiny: Callable[..., ModelScorer], root: Path) -> ModelScorer:
    return tiny(root)


@pytest.fixture
def server(scorer: ModelScorer) -> Iterator[Server]:
    with serving(scorer) as running:
        yield running


@pytest.fixture
def connect(plugin: ModuleType, server: Server, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """The plugin's model at our server, with documents to be shown, by number."""
    token_file, made = tmp_path / "token", []
    token_file.write_text(f"{TOKEN}\n")

    def connected(*shown: Any, **more: Any) -> Any:
        model = plugin.VistaTrain(url=server.url, token_file=str(token_file), **more)
        model.task_dict["task"] = {"test": [{"shown": one} for one in shown]}
        made.append(model)
        return model

    yield connected
    for model in made:
        model.close()


def put(doc_id: int, what: Any, context: str = "What is it?") -> SimpleNamespace:
    """One request, as lmms-eval makes them."""
    return SimpleNamespace(args=(context, what, lambda doc: doc["shown"], doc_id, "task", "test"))


def prompt(footage: Footage, video: str | None, *candidates: str) -> Prompt:
    shown = None if video is None else footage.clip(video)
    return Prompt("", shown, (Message("user", "What is it?"),), candidates)


def generated(scorer: ModelScorer, *videos: str | None, tokens: int = 6) -> list[str]:
    prompts = [prompt(scorer.footage, video) for video in videos]
    return [one.text for one in Generator(scorer.family, scorer.model, scorer.footage).answer(prompts, tokens)]


def test_answers_are_those_of_the_generator(connect, scorer, root, tmp_path, caplog):
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    shown = [[str(root / VIDEOS[0])], str(linked / VIDEOS[1]), [[str(root / VIDEOS[2])]], None, []]
    model = connect(*shown)
    said = model.generate_until([put(at, {"max_new_tokens": 6, "until": ["\n\n"]}) for at in range(5)])
    expected = generated(scorer, *VIDEOS, None, None)
    assert [one.text for one in said] == expected
    assert len(set(expected)) == 4
    assert [one.token_counts.output_tokens for one in said[:3]] == [6] * 3
    assert caplog.text == ""


def test_answers_end_where_the_task_says_but_not_at_its_default(plugin, connect, scorer, root):
    assert plugin._stops({"until": ["\n\n", "", "Q:"]}) == ["Q:"]
    assert plugin._stops({"until": "\n"}) == ["\n"]
    assert plugin._stops({"until": None}) == plugin._stops({}) == []
    (whole,) = generated(scorer, VIDEOS[0])
    (said,) = connect(str(root / VIDEOS[0])).generate_until([put(0, {"max_new_tokens": 6, "until": whole[2]})])
    assert said.text == whole.split(whole[2])[0].strip()


def test_what_the_server_does_not_do_is_said_once(connect, caplog):
    model = connect(None, None)
    for how in ({"max_new_tokens": 4096}, {"max_new_tokens": 4096}, {"temperature": 0.7}, {"num_beams": 3}, {}):
        assert model._tokens("task", how) == 32
    assert model._tokens("task", {"max_new_tokens": 5, "temperature": 0, "num_beams": 1, "do_sample": False}) == 5
    assert [record.message for record in caplog.records] == [
        "task lets answers have 4096 tokens, the server 32 (serve --max-new-tokens)",
        "task asks for sampling or beams; answers are greedy",
        "task lets answers have 1024 tokens, the server 32 (serve --max-new-tokens)",
    ]


def test_choices_are_weighed_together_and_the_least_loss_is_the_likeliest(connect, scorer, root, monkeypatch):
    asked: list[list[str]] = []
    weigh = Desk.loglikelihood
    monkeypatch.setattr(Desk, "loglikelihood", lambda self, body: asked.append(body["candidates"]) or weigh(self, body))
    model = connect(*(str(root / video) for video in VIDEOS[:2]))
    # By turns as text, with lmms-eval's delimiter before it, and as what makes it of a document.
    requests = [put(doc, f" {one}" if doc else lambda _, one=one: one) for doc in range(2) for one in CHOICES]
    said = [one.text for one in model.loglikelihood(requests)]
    assert asked == [CHOICES, CHOICES]
    expected = scorer.score([prompt(scorer.footage, video, *CHOICES) for video in VIDEOS[:2]])
    assert said == [
        (-likely, exact) for one in expected for likely, exact in zip(one.log_likelihoods, one.exact, strict=True)
    ]
    for at, one in enumerate(expected):
        losses = [loss for loss, _ in said[3 * at : 3 * at + 3]]
        assert losses.index(min(losses)) == one.best
    # Another question about the same video is another.
    assert [len(found) for found in asked] == [3, 3]
    model.loglikelihood([put(0, "A"), put(0, "A", "And now?")])
    assert asked[2:] == [["A"], ["A"]]


def test_pictures_are_shown_as_pictures_and_leave_nothing_behind(connect, scorer, root, monkeypatch):
    seen = []
    monkeypatch.setattr(Footage, "clip", lambda self, key, clip=Footage.clip: seen.append(clip(self, key)) or seen[-1])
    with Image.open(root / PICTURE) as picture:
        model = connect([picture], str(root / PICTURE), [picture, picture.rotate(90)])
        said = model.generate_until([put(at, {"max_new_tokens": 6}) for at in range(2)])
    (expected,) = generated(scorer, PICTURE)
    assert [one.text for one in said] == [expected] * 2
    assert expected != generated(scorer, None)[0]
    assert [clip.frame_measure for clip in seen] == [1] * 3
    (left,) = root.glob(".vista_train_lmms_*")
    assert list(left.iterdir()) == []
    model.clean()
    assert not left.exists()
    with pytest.raises(RuntimeError, match="task 2: it shows 2 pictures or videos at a time"):
        model.generate_until([put(2, {})])


def test_several_pictures_may_be_frames(connect, root, monkeypatch):
    seen = []
    monkeypatch.setattr(Footage, "clip", lambda self, key, clip=Footage.clip: seen.append(clip(self, key)) or seen[-1])
    pictures = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    model = connect(
        pictures, [*pictures, Image.new("RGB", (64, 49))], [pictures, str(root / VIDEOS[0])], several="frames"
    )
    model.generate_until([put(0, {"max_new_tokens": 1})])
    assert [(clip.duration * clip.fps, clip.size) for clip in seen] == [(3, (64, 48))]
    for at, told in ((1, "its 4 pictures differ in size"), (2, "it shows 4 pictures or videos at a time")):
        with pytest.raises(RuntimeError, match=told):
            model.generate_until([put(at, {})])


def test_what_cannot_be_shown_ends_the_evaluation_or_is_no_answer(connect, root, tmp_path, caplog):
    (root / "bad.png").write_bytes(b"\x89PNG")
    shown = [str(root / "lost.mp4"), {"array": [0]}, str(root / "bad.png")]
    told = ["MediaMissing: lost.mp4: no such file", "it shows a dict; videos are shown by path", "bad.png: not one of"]
    model = connect(*shown)
    for at in range(3):
        with pytest.raises(RuntimeError, match=f"task {at}: .*{told[at]}"):
            model.generate_until([put(at, {})])
    model = connect(*shown, str(root / VIDEOS[0]), on_failure="empty")
    said = model.generate_until([put(at, {"max_new_tokens": 2}) for at in range(4)])
    assert [(one.text != "", one.token_counts.output_tokens) for one in said] == [(False, 0)] * 3 + [(True, 2)]
    with caplog.at_level(logging.WARNING):
        model.close()
    assert "3 answers are empty" in caplog.records[-1].message
    # lmms-eval would take the first choice for the answer.
    with pytest.raises(RuntimeError, match=r"task 0: MediaMissing.*cannot be weighed"):
        model.loglikelihood([put(0, "A")])


def test_videos_elsewhere_are_shown_where_the_recipe_lets_them(connect, scorer, root, tmp_path):
    video = tmp_path / "elsewhere.mp4"
    video.write_bytes((root / VIDEOS[0]).read_bytes())
    model = connect(str(video))
    with pytest.raises(RuntimeError, match=r"elsewhere.mp4: leads outside the data root"):
        model.generate_until([put(0, {})])
    scorer.footage.media = Media(root, isolate="inline", allow_absolute=True)
    (said,) = model.generate_until([put(0, {"max_new_tokens": 6})])
    assert [said.text] == generated(scorer, VIDEOS[0])


def test_no_conversations_and_no_choices_without_a_question(connect):
    model = connect(None)
    with pytest.raises(NotImplementedError, match="generate_until_multi_round"):
        model.generate_until_multi_round([])
    with pytest.raises(ValueError, match="acc_mutual_info"):
        model.loglikelihood([SimpleNamespace(args=("", "A"))])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give either url and token_file"),
        ({"url": "http://127.0.0.1:1", "checkpoint": "run"}, "give either url and token_file"),
        ({"url": "http://127.0.0.1:1"}, "token_file is missing"),
        ({"url": "https://127.0.0.1:1", "token_file": "{token}"}, "url is 'https://127.0.0.1:1'; it must be as"),
        ({"url": "127.0.0.1:1", "token_file": "{token}"}, "url is '127.0.0.1:1'"),
        ({"url": "http://127.0.0.1:1", "token_file": "{token}"}, "no answer of vista-train serve at 127.0.0.1:1"),
        ({"checkpoint": "run", "root": "."}, "checkpoint needs root"),
        ({"url": "http://127.0.0.1:1", "on_failure": "go on"}, "on_failure is 'go on'; choose one of stop, empty"),
        ({"url": "http://127.0.0.1:1", "several": "all"}, "several is 'all'; choose one of refuse, frames"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(plugin, tmp_path, given, told):
    (tmp_path / "token").write_text("a token")
    with pytest.raises((ValueError, RuntimeError), match=told):
        plugin.VistaTrain(**{name: value.format(token=tmp_path / "token") for name, value in given.items()})


def test_several_processes_and_a_wrong_token(plugin, server, tmp_path, monkeypatch):
    (tmp_path / "token").write_text("another")
    with pytest.raises(RuntimeError, match="says 401 to about: the token is missing or wrong"):
        plugin.VistaTrain(url=server.url, token_file=str(tmp_path / "token"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="one process is enough"):
        plugin.VistaTrain(url=server.url, token_file=str(tmp_path / "token"))


def test_what_else_is_said_is_no_address(plugin, capsys):
    lines = io.StringIO("[WARNING] no GPU\nhttp://127.0.0.1:7\nlater\n")
    assert plugin._address(lines) == "http://127.0.0.1:7"
    assert plugin._address(lines) == ""
    assert capsys.readouterr().err == "[WARNING] no GPU\nlater\n"


def test_it_starts_a_server_and_ends_it(plugin, root, tmp_path, monkeypatch):
    recipe, python = tiny_recipe(tmp_path), sys.executable
    # Of lmms-eval's environment; there is no vista_train that a server could be made of.
    (tmp_path / "theirs/vista_train").mkdir(parents=True)
    (tmp_path / "theirs/vista_train/__init__.py").write_text("raise ImportError('another environment')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "theirs"))
    model = plugin.VistaTrain(
        checkpoint=recipe, root=root, python=python, overrides="view.frames=3 view.min_pixels=4", max_new_tokens=7
    )
    process = model._process
    assert (model.about["view"]["frames"], model.about["view"]["min_pixels"], model.about["max_new_tokens"]) == (
        3,
        4,
        7,
    )
    model.task_dict["task"] = {"test": [{"shown": str(root / VIDEOS[0])}]}
    (said,) = model.generate_until([put(0, {"max_new_tokens": 2})])
    assert said.token_counts.output_tokens == 2
    model.close()
    assert process.returncode == 0
    with pytest.raises(RuntimeError, match="ended with code 1 before it was ready"):
        plugin.VistaTrain(checkpoint=recipe, root=root, python="/bin/false")


TASK = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
doc_to_visual: video
doc_to_text: question
"""
TASKS = {
    "tiny_open": TASK
    + """
task: tiny_open
output_type: generate_until
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""",
    "tiny_choice": TASK
    + """
task: tiny_choice
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: right
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""",
}


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The interpreter of an environment that has lmms-eval, and variables under which it knows the plugin."""
    python = os.environ.get("VISTA_TRAIN_LMMS_PYTHON")
    if not python:
        pytest.skip(
            "VISTA_TRAIN_LMMS_PYTHON names no interpreter that has lmms-eval; to make one: python -m venv lmms_env && "
            "lmms_env/bin/pip install torch==2.13.0 lmms_eval==0.7.3 'filelock<4'"
        )
    # What an installation would leave beside the module: its entry point.
    (tmp_path / "plugin").mkdir()
    words = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path / "plugin")]
    subprocess.run(words, cwd=PLUGIN, check=True)
    caches = {name: str(tmp_path / "cache") for name in ("HF_HOME", "LMMS_EVAL_HOME")}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    return python, os.environ | caches | offline | {"PYTHONPATH": f"{tmp_path / 'plugin'}{os.pathsep}{PLUGIN}"}


@pytest.mark.slow
def test_lmms_eval_itself_logs_what_our_model_says(theirs, root, tmp_path):
    python, variables = theirs
    run = tiny_run(tmp_path)
    loaded = load_recipe(run / "step-000001/recipe.yaml", [f"data.root={root}"])
    family = loaded.make_family(str(run / "step-000001"))
    model, footage = family.load(), Footage(loaded.make_media())
    prompts = [prompt(footage, video, *CHOICES) for video in (*VIDEOS, PICTURE)]
    said = [one.text for one in Generator(family, model, footage).answer(prompts, 6)]
    weighed = ModelScorer(family, model, footage).score(prompts)
    # By our own count, three of the four are right, and one of the four.
    right = [one.best if at else (one.best + 1) % 3 for at, one in enumerate(weighed)]
    answers = [said[0], "something", "else", "entirely"]
    rows = [
        {"video": str(root / video), "question": "What is it?", "answer": answer, "choices": CHOICES, "right": which}
        for video, answer, which in zip((*VIDEOS, PICTURE), answers, right, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    for name, text in TASKS.items():
        (tmp_path / f"tasks/{name}.yaml").write_text(text.format(rows=tmp_path / "rows.jsonl"))
    words = [python, "-m", "lmms_eval", "--model", "vista_train", "--tasks", ",".join(TASKS)]
    words += ["--model_args", f"checkpoint={run},root={root},python={sys.executable}", "--batch_size", "1"]
    words += ["--include_path", str(tmp_path / "tasks"), "--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=280, check=False)
    found = list((tmp_path / "out").rglob("*results.json"))
    assert (done.returncode, len(found)) == (0, 1), f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    results = json.loads(found[0].read_text())["results"]
    assert results["tiny_open"]["exact_match,none"] == pytest.approx(1 / 4)
    assert results["tiny_choice"]["acc,none"] == pytest.approx(3 / 4)
    samples = {name: next((tmp_path / "out").rglob(f"*samples_{name}.jsonl")) for name in TASKS}
    logged = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in samples.items()}
    assert [one["filtered_resps"] for one in logged["tiny_open"]] == said
    for one, ours in zip(logged["tiny_choice"], weighed, strict=True):
        losses, exact = zip(*one["filtered_resps"], strict=True)
        assert list(map(float, losses)) == pytest.approx([-likely for likely in ours.log_likelihoods], rel=1e-5)
        assert exact == tuple(map(str, ours.exact))
    assert not list(root.glob(".vista_train_lmms_*"))
