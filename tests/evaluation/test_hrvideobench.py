"""HRVideoBench in its published layout, made up: mp4 files and folders of frames, and folders that are hostile."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.players import Guesser, Oracle
from vista_train.evaluation.answers import Answers
from vista_train.evaluation.footage import Footage
from vista_train.evaluation.hrvideobench import HRVIDEOBENCH
from vista_train.evaluation.mapping import read_rows
from vista_train.evaluation.multiple_choice import answer
from vista_train.video.composition import Clip
from vista_train.video.decode import Limits, MediaMissing, MediaTooLarge, MediaUnreadable
from vista_train.video.media import Media
from vista_train.video.render import render_view
from vista_train.video.sampling import View

LETTERS = "ABCD"


def write_frames(folder: Path, count: int = 30, size: tuple[int, int] = (64, 48), first: int = 0) -> None:
    """Frames whose grey tells their number."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (8 * number,) * 3).save(folder / f"frame_{first + number}.jpg", quality=95)


@pytest.fixture
def bench(world: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The root and the jsonl: 20 questions, half on files, half on folders; 12 on objects, 8 on actions."""
    root = tmp_path / "root"
    (root / "videos").mkdir(parents=True)
    for number in range(2):
        (root / f"videos/clip_{number}.mp4").write_bytes((world / f"source_00{number}/000.mp4").read_bytes())
        write_frames(root / f"frames/clip_{number}")
    rows = []
    for number in range(20):
        path = f"videos/clip_{number // 2 % 2}.mp4" if number % 2 else f"frames/clip_{number // 2 % 2}"
        words = [f"{letter}. option {number} {letter.lower()}" for letter in LETTERS]
        rows.append(
            {
                "path": path,
                "qa": {"question": f"Question {number}?", "answer": "unused"},
                "mcq": {"options": words, "correct_option": words[number % 4]},
                "category": "object" if number < 12 else "action",
                "qa_type": "OCR" if number % 3 else "Object Counting",
            }
        )
    path = root / "hrvideobench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root, path


def questions_of(root: Path, path: Path):
    return list(HRVIDEOBENCH.questions(read_rows(path), Footage(Media(root, isolate="inline"))))


def test_an_oracle_and_a_guesser(bench):
    questions = questions_of(*bench)
    assert [one.video.path for one in questions[:2]] == ["frames/clip_0", "videos/clip_0.mp4"]
    assert (questions[0].video.duration, questions[0].video.size) == (Fraction(30, 25), (64, 48))
    assert [LETTERS[one.right] for one in questions[:5]] == ["A", "B", "C", "D", "A"]
    assert "C. option 3 c\n" in questions[3].prompt().messages[0].content
    found = answer(questions, Answers(Oracle({f"{n}#0": n % 4 for n in range(20)})), "HRVideoBench")
    assert found.overall.share == 1
    assert {value: (one.right, one.count) for value, one in found.groups["category"].items()} == {
        "action": (8, 8),
        "object": (12, 12),
    }
    guessed = [answer(questions, Answers(Guesser(rng=np.random.default_rng(n))), "x").overall for n in range(40)]
    inside = [one.interval[0] <= 0.25 <= one.interval[1] for one in guessed]
    assert np.mean(inside) >= 0.9
    assert np.mean([one.share for one in guessed]) == pytest.approx(0.25, abs=0.04)


def test_a_model_is_asked_about_files_and_folders(bench, tiny):
    root, path = bench
    scorer = tiny(root, frames=4)
    rows = read_rows(path)
    rows[4]["path"], rows[5]["path"], rows[6]["path"] = "frames/lost", "../root/videos/clip_0.mp4", "/etc"
    questions = list(HRVIDEOBENCH.questions(rows, scorer.footage))
    found = answer(questions, Answers(scorer), "HRVideoBench")
    assert (found.overall.count, found.overall.failed) == (20, 3)
    assert [one.failure.split(":")[0] for one in found.answered[4:7]] == ["MediaMissing"] * 3
    assert not any(one.is_right for one in found.answered[4:7])
    assert all(one.scored[0].frames == 4 for one in found.answered[7:])


def test_only_the_sampled_frames_of_a_folder_are_decoded_and_they_are_the_right_ones(tmp_path):
    write_frames(tmp_path / "clip", 30, first=1)
    footage, view = Footage(Media(tmp_path, isolate="inline")), View(frames=4, width=56, height=56, fit="squash")
    video = footage.clip("clip")
    times = view.times(video.duration, video.frame_measure)
    # Of 30 frames, the middles of four intervals: 3.75, 11.25, 18.75 and 26.25.
    wanted = [3, 11, 18, 26]
    for number in set(range(1, 30)) - set(wanted):
        (tmp_path / f"clip/frame_{number + 1}.jpg").write_bytes(b"not a picture")
    frames_TCHW = footage.frames(video, times, view)
    assert frames_TCHW.shape == (4, 3, 56, 56)
    assert frames_TCHW.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([8 * n for n in wanted], abs=2)
    later = video.subclip(Fraction(18, 25), Fraction(20, 25))
    assert footage.frames(later, [Fraction(0)], view).float().mean().item() == pytest.approx(8 * 18, abs=2)
    with pytest.raises(MediaUnreadable, match=r"clip/frame_10\.jpg: is no JPEG or PNG"):
        footage.frames(video, [Fraction(9, 25)], view)


def test_a_folder_lies_on_the_canvas_as_a_file_does(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((128, 96), Image.Resampling.BICUBIC).save(folder / f"frame_{number}.png")
    footage, view = Footage(Media(tmp_path, isolate="inline")), View(frames=3, width=56, height=56)
    video = footage.clip("clip")
    times = view.times(video.duration, video.frame_measure)
    shown = footage.frames(video, times, view)
    held = footage.frames(video, times, View(frames=3, width=128, height=96))
    assert (shown == render_view(Clip.from_frames(held, video.duration), times, view)).all()
    assert int(shown[:, :, :7].max()) == 0


def test_hostile_folders(tmp_path):
    outside = tmp_path / "outside"
    write_frames(outside / "clip", 2)
    root = tmp_path / "root"
    write_frames(root / "clip", 3)
    (root / "empty").mkdir()
    (root / "linked").symlink_to(outside / "clip")
    write_frames(root / "link_inside", 2)
    (root / "link_inside/frame_2.jpg").symlink_to(outside / "clip/frame_0.jpg")
    write_frames(root / "uneven", 2)
    Image.new("RGB", (32, 32)).save(root / "uneven/frame_2.jpg")
    footage = Footage(Media(root, isolate="inline"))
    view = View(frames=8, width=56, height=56)
    for key, told in (
        ("../outside/clip", "leads outside the data root"),
        (str(outside / "clip"), "leads outside the data root"),
        ("empty", "is a folder without frames"),
        ("linked", "is reached by a symbolic link"),
        ("clip/../clip", "leads outside the data root"),
    ):
        with pytest.raises(MediaMissing, match=told):
            footage.clip(key)
    with pytest.raises(MediaMissing, match="is a symbolic link"):
        footage.frames(footage.clip("link_inside"), [Fraction(2, 25)], view)
    with pytest.raises(MediaUnreadable, match="is 32x32, the first frame 64x48"):
        footage.frames(footage.clip("uneven"), [Fraction(2, 25)], view)
    tight = {"max_pixels": 64 * 47, "max_frames": 2, "max_bytes": 100}
    for key, told in (("max_pixels", "has 64x48 pixels"), ("max_frames", "has 3 frames"), ("max_bytes", "bytes, and")):
        limited = Footage(Media(root, isolate="inline", limits=Limits(**{key: tight[key]})))
        with pytest.raises(MediaTooLarge, match=told):
            limited.clip("clip")
    with pytest.raises(ValueError, match="folder_fps is 0"):
        Footage(Media(root, isolate="inline"), 0)
