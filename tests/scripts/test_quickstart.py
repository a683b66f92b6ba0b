"""The quickstart, end to end, as a new user runs it: three steps on twelve clips, nothing installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer

import vista_train.models

pytestmark = pytest.mark.xdist_group("quickstart")
REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder, and what the script printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "VISTA_TRAIN_SKIP_INSTALL": "1",
        "VISTA_TRAIN_CACHE": str(folder / "cache"),
        "QUICKSTART_SOURCES": "3",
        "QUICKSTART_CLIPS": "4",
        "QUICKSTART_DATA": str(folder / "clips"),
        "QUICKSTART_OUT": str(folder / "out"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", "scripts/quickstart.sh", "train.steps=3", "train.save_every=2", "train.workers=1"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "out", done.stdout


def test_last_line_says_where_everything_is(finished: tuple[Path, str]) -> None:
    output, printed = finished
    last = printed.strip().splitlines()[-1]
    for name in ("step-000003", "log.jsonl", "loss.png", "contact_sheet.png"):
        assert str(output / name) in last
        assert (output / name).exists()


def test_checkpoint_loads_with_from_pretrained(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "step-000003"
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, vista_train.models.pooled_llava.LongVAForConditionalGeneration)
    assert not any(report.values()), report
    assert len(AutoTokenizer.from_pretrained(folder)) == model.config.text_config.vocab_size


def test_log_has_a_line_for_each_step(finished: tuple[Path, str]) -> None:
    lines = [json.loads(line) for line in (finished[0] / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert 6.0 > lines[0]["loss"] > 5.0 > lines[-1]["loss"] > 3.0
    assert all(0 < line["grad_norm"] < 50 for line in lines)
    assert all(0 <= line["data_wait"] <= 1 and line["tokens_per_second"] > 0 for line in lines)


def test_pictures_are_pictures(finished: tuple[Path, str]) -> None:
    for name in ("loss.png", "contact_sheet.png"):
        with Image.open(finished[0] / name) as picture:
            assert picture.width > 400
            assert len(picture.convert("L").getcolors(256) or range(257)) > 20
