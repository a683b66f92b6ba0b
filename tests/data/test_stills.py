"""Pictures and conversations without anything to see, beside videos: taken over, counted, shown by `plain` alone."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vista_train.augment import (
    CannotComposeError,
    EventRelationship,
    LongVideoCaption,
    Plain,
    SpatialNeedle,
    SpatioTemporalNeedle,
    TemporalNeedle,
    TwoNeedle,
    VideoGrid,
)
from vista_train.cli import main
from vista_train.data import headers
from vista_train.data.check import check_manifest
from vista_train.data.dataset import Ingredient, VistaDataset
from vista_train.data.lines import LineCheck
from vista_train.data.manifest import open_manifest
from vista_train.data.reading import Reading
from vista_train.data.sidecars import key_of
from vista_train.data.sources import ClipSource
from vista_train.preview import find
from vista_train.preview.cards import card
from vista_train.preview.contact import words
from vista_train.types import Message
from vista_train.video.composition import Clip
from vista_train.video.decode import Header
from vista_train.video.kinds import is_still
from vista_train.video.media import Media
from vista_train.video.sampling import View

VIEW = View(frames=4, width=56, height=56, min_pixels=7)
SEVEN = (
    LongVideoCaption(min_seconds=8),
    EventRelationship(min_seconds=8),
    TemporalNeedle(),
    TwoNeedle(),
    SpatialNeedle(),
    SpatioTemporalNeedle(),
    VideoGrid(rows=2, columns=2),
)
SIZE = (90, 60)
TALK = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A pattern."}]
CHAT = [
    {"from": "human", "value": "What is two and two?"},
    {"from": "gpt", "value": "Four."},
    {"from": "human", "value": "And three?"},
    {"from": "gpt", "value": "Seven."},
]


@pytest.fixture(scope="module")
def mixed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's clips, and in `mixed.jsonl` ten pictures and ten conversations among them. In `llava.json` pictures
    and conversations as LLaVA publishes them, and one clip."""
    root = tmp_path_factory.mktemp("mixed") / "root"
    shutil.copytree(world, root)
    (root / "coco").mkdir()
    for number in range(12):
        pixels_HWC = np.random.default_rng(number).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(pixels_HWC).save(root / f"coco/{number}.png")
    lines = (root / "clips.jsonl").read_text().splitlines()
    pictures = [{"video": f"coco/{n}.png", "caption": f"Pattern number {n} is on it."} for n in range(12)]
    asked = [{"question": "What is two and two?", "answer": "Four."}, {"question": "And three?", "answer": "Seven."}]
    texts = [{"video": None, "qa": asked} for _ in range(8)]
    added = [json.dumps(line) for pair in zip(pictures, [*texts, *texts[:4]], strict=True) for line in pair][:20]
    together = [line for number, line in enumerate(lines) for line in (line, *added[number::16])]
    (root / "mixed.jsonl").write_text("\n".join(together) + "\n")
    film = json.loads(lines[0])["video"]
    entries = [
        *({"id": f"{n:09d}", "image": f"coco/{n}.png", "conversations": TALK} for n in range(12)),
        *({"id": f"text{n}", "conversations": CHAT} for n in range(4)),
        {"id": "film", "video": film, "conversations": TALK},
    ]
    (root / "llava.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(scope="module")
def media(mixed: Path) -> Media:
    return Media(mixed, isolate="inline")


def source_of(mixed: Path, media: Media, name: str = "mixed.jsonl", **options: object) -> ClipSource:
    return ClipSource(mixed / name, media, mixed.parent / "cache", **options)  # type: ignore[arg-type]


def test_a_line_of_a_manifest_may_be_a_picture_or_a_conversation() -> None:
    check = LineCheck()
    row = check.values({"video": "a/b.JPG", "caption": "A dog.", "width": 30, "duration": 9, "fps": 25})
    assert row == ("a/b.JPG", "A dog.", "a/b.JPG", None, 0.0, None, None, 1.0, 30.0, None, 1.0, None)
    pair = {"question": "Why?", "answer": "So."}
    row = check.values({"video": None, "qa": [pair]}, "m.jsonl:7")
    qa = json.dumps([pair | {"distractors": []}])
    assert row == ("words:m.jsonl:7", "", "words:m.jsonl:7", qa, 0.0, None, None, 1.0, 1.0, 1.0, 1.0, None)
    for line, reason in (
        ({"video": "a.png", "caption": "x", "end": 3}, "end is 3; a picture has no time"),
        ({"video": None, "qa": [pair], "start": 3}, "start is 3; a conversation has no time"),
        ({"video": None}, "video is null; such a line needs `qa`"),
        ({"video": None, "qa": [pair | {"kind": "story", "clips": 2}]}, "answers that are about no clip"),
        ({"video": None, "qa": [pair], "caption": "A dog."}, "it describes nothing"),
        ({"qa": [pair]}, "video is missing; it must be a string"),
        ({"video": "words:m.jsonl:7", "qa": [pair]}, "it must be a path under the data root"),
    ):
        with pytest.raises(ValueError, match=reason):
            check.values(line, "m.jsonl:7")


def test_llava_json_as_it_is_published(tmp_path: Path) -> None:
    entries = [
        {"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": TALK},
        {"id": "wgByO4Y_0", "model": "", "conversations": CHAT},
        {"id": "a", "image": "", "messages": [
            {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"},
        ]},
        {"id": "b", "video": "b.mp4", "conversations": TALK},
        {"id": "lost", "conversations": TALK},
        {"id": "two", "image": ["a.jpg", "b.jpg"], "conversations": TALK},
        {"id": "many", "images": ["a.jpg"], "conversations": CHAT},
    ]  # fmt: skip
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mix.json").write_text(json.dumps(entries))
    opened = [open_manifest(tmp_path / name / "mix.json", reading=Reading("llava")) for name in ("one", "two")]
    names = ["coco/train2017/000000033471.jpg", "words:mix.json:1", "words:mix.json:2", "b.mp4"]
    assert opened[0].rows()["video"][:] == names
    assert opened[0].stills().tolist() == [0, 1, 2]
    assert json.loads(opened[0].rows()[1]["qa"])[1] == {"question": "And three?", "answer": "Seven.", "distractors": []}
    reasons = ("video is missing", "must be a string", "column images holds")
    for (where, reason), number, part in zip(opened[0].refused, (4, 5, 6), reasons, strict=True):
        assert where.endswith(f":{number}")
        assert part in reason
    assert opened[0].sha256 == opened[1].sha256, "wherever it lies"
    # The same columns in another layout's file are no conversations: there, a video is missing.
    (tmp_path / "vista.json").write_text(json.dumps([entries[1]]))
    with pytest.raises(ValueError, match="video is missing"):
        open_manifest(tmp_path / "vista.json", reading=Reading("vista400k"))


def test_words_are_named_by_their_file_and_line_among_many(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jsonl").write_text("".join(json.dumps({"conversations": CHAT}) + "\n" for _ in range(2)))
    opened = open_manifest(tmp_path / "*" / "x.jsonl", reading=Reading("llava"))
    assert opened.rows()["video"][:] == [f"words:{name}/x.jsonl:{line}" for name in "ab" for line in (1, 2)]
    assert opened.rows()["source"][:] == opened.rows()["video"][:]


def test_a_source_knows_what_moves(mixed: Path, media: Media) -> None:
    source, plain = source_of(mixed, media), source_of(mixed, media, "clips.jsonl")
    moving = source.moving()
    assert (len(source), len(moving), source.unusable) == (36, 16, ())
    assert plain.moving() is plain
    assert [moving[index] for index in range(16)] == [plain[index] for index in range(16)]
    stills = [clip for clip in source if is_still(clip.path)]
    assert Counter(clip.path.partition(":")[0] == "words" for clip in stills) == {False: 10, True: 10}
    picture = next(clip for clip in stills if clip.path == "coco/3.png")
    assert (picture.size, picture.duration, picture.frame_measure) == (SIZE, 1, 1)
    # A run ends where something stands that does not move.
    for index in range(16):
        run, whole = moving.run(index, 1e9), plain.run(index, 1e9)
        assert index in run
        assert set(run) <= set(whole)
    assert pickle.loads(pickle.dumps(source)).moving()[3] == moving[3]
    assert len(pickle.dumps(source)) < 2000


def test_what_was_remembered_of_a_picture_as_a_video_is_forgotten(mixed: Path, media: Media, tmp_path: Path) -> None:
    status = (mixed / "coco/1.png").stat()
    headers._write(
        tmp_path / "cache" / "headers" / key_of(str(mixed.resolve()), media.rules),
        [f"{status.st_size}:{status.st_mtime_ns}:coco/1.png"],
        [((0,) * 6, "not one of the video containers")],
    )
    (tmp_path / "m.jsonl").write_text(json.dumps({"video": "coco/1.png", "caption": "x"}))
    source = ClipSource(tmp_path / "m.jsonl", media, tmp_path / "cache")
    assert (source[0].size, source.unusable) == (SIZE, ())


def test_a_run_ends_at_what_does_not_move(tmp_path: Path) -> None:
    known = {"caption": "x", "duration": 4, "width": 64, "height": 48, "fps": 25, "source": "film"}
    names = ["a.mp4", "b.mp4", "c.jpg", "d.mp4", "e.mp4"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(known | {"video": name}) + "\n" for name in names))
    moving = ClipSource(tmp_path / "m.jsonl", tmp_path, tmp_path / "cache").moving()
    assert [moving.run(index, 9) for index in range(4)] == [[0, 1], [0, 1], [2, 3], [2, 3]]


def test_the_seven_and_plain_compose_only_what_is_sound(mixed: Path, media: Media, codec) -> None:
    mix = [*map(Ingredient, SEVEN), Ingredient(Plain(), 3.0)]
    dataset = VistaDataset({"mixed": source_of(mixed, media)}, mix, codec, media, seed=1)
    kinds: Counter[tuple[str, str]] = Counter()
    for position in range(400):
        sample = dataset.sample(position)
        clips = [] if sample.video is None else sample.video.clips()
        if sample.kind == "plain":
            shown = "words" if sample.video is None else "picture" if is_still(clips[0].path) else "video"
            assert (sample.video is None) == (sample.messages[0].content in ("What is two and two?", "And three?"))
        else:
            assert not [clip.path for clip in clips if is_still(clip.path)]
            assert not [message for message in sample.messages if "Pattern number" in message.content], "nor its words"
            shown = "video"
        kinds[sample.kind, shown] += 1
    assert {kind for kind, _ in kinds} == {"plain", *(augment.name for augment in SEVEN)}
    # Of thirty-six clips ten are pictures and ten are words: so plain shows them.
    plain = {shown: kinds["plain", shown] for shown in ("video", "picture", "words")}
    shares = {"video": 16 / 36, "picture": 10 / 36, "words": 10 / 36}
    expected = {name: share * sum(plain.values()) for name, share in shares.items()}
    assert all(abs(plain[name] - expected[name]) < 4 * expected[name] ** 0.5 for name in plain)


def test_a_still_among_videos_is_refused_by_the_augmentation_itself(world_like: Callable[[str], Clip]) -> None:
    rng = np.random.default_rng(0)
    clips = {"haystack": (world_like("a.mp4"),), "needle": (world_like("b.png"),)}
    with pytest.raises(CannotComposeError, match=r"temporal_needle needs a video as 'needle', which b.png is not"):
        TemporalNeedle()(rng, clips, VIEW)
    assert TemporalNeedle()(rng, clips | {"needle": (world_like("b.mp4"),)}, VIEW).kind == "temporal_needle"


@pytest.fixture
def world_like() -> Callable[[str], Clip]:
    def make(path: str) -> Clip:
        return Clip(path, Fraction(0), Fraction(20 if path[0] == "a" else 5), 64, 48, 10, f"What {path} shows.")

    return make


def test_a_picture_is_seen_even_where_videos_must_be_seen_twice(world_like: Callable[[str], Clip]) -> None:
    view = View(frames=4, width=56, height=56, min_visible=2, min_pixels=7)
    picture = Clip("a.png", Fraction(0), Fraction(1), 64, 48, 1, "A dog.")
    sample = Plain()(np.random.default_rng(0), {"clip": (picture,)}, view)
    assert "picture" in sample.messages[0].content or "image" in sample.messages[0].content
    assert (sample.video, sample.messages[1]) == (picture, Message("assistant", "A dog."))
    thin = Clip("a.png", Fraction(0), Fraction(1), 640, 8, 1, "A dog.")
    with pytest.raises(CannotComposeError, match="is not on"):
        Plain()(np.random.default_rng(0), {"clip": (thin,)}, view)


def test_frames_words_and_labels_of_every_kind(mixed: Path, media: Media, codec) -> None:
    source = source_of(mixed, media, "llava.json", reading=Reading("llava"))
    dataset = VistaDataset({"llava": source}, [Ingredient(Plain(turns="all"))], codec, media, seed=1)
    counts: Counter[tuple[bool, int]] = Counter()
    for position in range(len(source)):
        encoded, composed = dataset[position], dataset.planned(position)
        assert len(encoded.input_ids) == composed.plan.tokens
        assert 0 < encoded.num_labels == composed.plan.labels
        counts[encoded.picture, len(encoded.frames_TCHW)] += 1
        if encoded.picture:
            (clip,) = composed.sample.shown.clips()
            with Image.open(mixed / clip.path) as picture:
                scaled_HWC = np.asarray(picture.resize((56, 38), Image.Resampling.BILINEAR))
            assert np.array_equal(encoded.frames_TCHW[0, :, 9:47].permute(1, 2, 0).numpy(), scaled_HWC)
        elif not len(encoded.frames_TCHW):
            assert composed.sample.video is None
            assert [message.content for message in composed.sample.messages] == [turn["value"] for turn in CHAT]
            assert composed.plan.patches == 0
    assert counts == {(True, 1): 12, (False, 0): 4, (False, 4): 1}


def test_a_source_that_nobody_shows_is_told_at_the_start(mixed: Path, media: Media, codec, tmp_path: Path) -> None:
    entries = json.loads((mixed / "llava.json").read_text())[:-1]
    (tmp_path / "stills.json").write_text(json.dumps(entries))
    films = source_of(mixed, media, "clips.jsonl")
    stills = ClipSource(tmp_path / "stills.json", media, mixed.parent / "cache", reading=Reading("llava"))
    needle = Ingredient(TemporalNeedle())
    with pytest.raises(ValueError, match=r"manifests: stills holds pictures and words alone, which no augmentation"):
        VistaDataset({"films": films, "stills": stills}, [needle], codec, media)
    with pytest.raises(ValueError, match=r"temporal_needle.sources.haystack: stills hold no videos"):
        VistaDataset({"stills": stills}, [needle], codec, media)
    only_films = Ingredient(Plain(), sources={"clip": ("films",)})
    with pytest.raises(ValueError, match="stills holds pictures and words alone"):
        VistaDataset({"films": films, "stills": stills}, [needle, only_films], codec, media)
    with pytest.warns(UserWarning, match="20 of 36 clips of mixed are pictures or words, which no augmentation"):
        VistaDataset({"mixed": source_of(mixed, media)}, [needle], codec, media)
    both = VistaDataset({"films": films, "stills": stills}, [needle, Ingredient(Plain())], codec, media, seed=2)
    for position in range(40):
        sample = both.sample(position)
        assert sample.kind == "plain" or not any(is_still(clip.path) for clip in sample.shown.clips())


@pytest.mark.filterwarnings("ignore:data.manifests")
def test_what_is_composed_of_videos_is_the_same_without_the_stills(mixed: Path, media: Media, codec) -> None:
    mix = [Ingredient(augment) for augment in SEVEN]
    made = [
        VistaDataset({"one": source_of(mixed, media, name)}, mix, codec, media, seed=3, epoch_samples=16)
        for name in ("mixed.jsonl", "clips.jsonl")
    ]
    alone = [augment.name for augment in SEVEN if augment.roles[0].relation != "same_source_consecutive"]
    samples = [[dataset.sample(position) for position in range(60)] for dataset in made]
    # A still in the midst of a source ends a run of its clips; all else is drawn alike.
    assert [s for s in samples[0] if s.kind in alone] == [s for s in samples[1] if s.kind in alone]
    assert sum(sample.kind in alone for sample in samples[0]) > 20


def test_check_looks_at_pictures_and_passes_words_on(mixed: Path, media: Media, tmp_path: Path) -> None:
    lines = [
        {"video": "coco/1.png", "caption": "x"},
        {"video": None, "qa": [{"question": "Why?", "answer": "So."}]},
        {"video": "coco/gone.png", "caption": "x"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = check_manifest(manifest, media, cache=tmp_path / "cache", workers=1)
    assert (outcome.num_files, outcome.num_clean, dict(outcome.refused)) == (2, 2, {"MediaMissing": 1})
    clean = [json.loads(line) for line in outcome.clean.read_text().splitlines()]
    found = {"duration": 1.0, "width": SIZE[0], "height": SIZE[1], "fps": 1.0, "num_frames": 1}
    assert clean == [lines[0] | found, lines[1]]

    def never(key: str) -> Header:
        raise AssertionError(f"{key} was probed")

    source = ClipSource(outcome.clean, media, tmp_path / "cache", never)
    assert [clip.path for clip in source] == ["coco/1.png", "words:m.clean.jsonl:2"]


def test_what_was_imported_reads_the_same(mixed: Path, media: Media, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.jsonl"
    command = ["import", str(mixed / "llava.json"), str(out), "--format", "llava", "--root", str(mixed)]
    assert main(command) == 0
    again = ClipSource(out, media, tmp_path / "cache")
    source = source_of(mixed, media, "llava.json", reading=Reading("llava"))
    assert len(again) == len(source) == 17
    for one, other in zip(again, source, strict=True):
        assert (one.qa, one.size, one.duration, one.fps) == (other.qa, other.size, other.duration, other.fps)
        assert (one.path == other.path) or one.path.startswith("words:out.jsonl:")


def test_proxies_are_made_of_what_moves(mixed: Path, tmp_path: Path) -> None:
    from vista_train.data.proxies import make_proxies

    (tmp_path / "m.jsonl").write_text(
        json.dumps({"video": "coco/1.png", "caption": "x"})
        + "\n"
        + json.dumps({"video": None, "qa": [{"question": "Why?", "answer": "So."}]})
    )
    maker = Media(mixed, isolate="inline", makes_proxies=True)
    made = make_proxies(tmp_path / "m.jsonl", maker, tmp_path / "proxies", workers=1, cache=tmp_path / "cache")
    assert (made.files, made.failed) == (0, Counter())


def test_previews_tell_pictures_from_words(mixed: Path, media: Media, codec) -> None:
    source = source_of(mixed, media, "llava.json", reading=Reading("llava"))
    dataset = VistaDataset({"llava": source}, [Ingredient(Plain(turns="all"))], codec, media, seed=1)
    told = {}
    for position in range(len(source)):
        shown = find(dataset, position)
        made = card(shown, codec.view)
        assert made.manifests == ("llava",)
        assert (made.bar is None) == (made.num_frames <= 1)
        told[made.num_frames] = "\n".join(words(shown))
    assert "words alone" in told[0]
    assert "stands in: words:llava.json:" in told[0]
    assert "a picture of 90x60, seen at 56x56" in told[1]
