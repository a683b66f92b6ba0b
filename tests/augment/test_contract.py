"""What every augmentation promises, whichever there are: nothing here names one."""

from __future__ import annotations

import dataclasses
import inspect
import json
import random
import typing
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import vista_train.augment
from tests.augment.conftest import COLOURS
from vista_train.augment import REGISTRY, Augment, CannotComposeError, Cast, Params, check_seen
from vista_train.augment.questions import Wording
from vista_train.models import load_family
from vista_train.types import Evidence, Sample
from vista_train.video.composition import Clip, Concat, Overlay
from vista_train.video.geometry import Box, Span
from vista_train.video.render import render, render_view, requests
from vista_train.video.sampling import View

EPSILON = Fraction(1, 10**6)
NUM_TIMES = 24
VIEWS = {
    "letterbox": View(frames=8, width=168, height=168, min_pixels=6),
    "crop": View(frames=16, sampling="linspace_ends", width=168, height=126, fit="crop", min_visible=2, min_pixels=6),
    "squash": View(
        frames=64, sampling="fps", fps=1.0, width=200, height=100, fit="squash", min_visible=2, min_pixels=6
    ),
    "too few for fps": View(frames=12, sampling="fps", fps=2.0, width=168, height=168, min_visible=2, min_pixels=6),
    "three times": View(frames=10, width=100, height=200, fit="crop", min_visible=3, min_pixels=5),
    "LongVA": View(frames=32, sampling="linspace_ends", width=196, height=196, fit="squash", min_pixels=10),
    # The casts' clips are about 30 pixels wide: these make grids of up to 4 x 3 tiles, the larger the shorter a video.
    "tiles": View(frames=48, sampling="fps", fps=1.0, width=12, height=12, tiles=48 * 4, min_pixels=3),
    "cropped tiles": View(
        frames=40, sampling="fps", fps=1.0, width=10, height=8, tiles=40 * 5, fit="crop", min_visible=2, min_pixels=2
    ),
    "native": View(frames=16, sampling="fps", fps=2.0, width=210, height=120, fit="native", multiple=14, min_pixels=4),
}
TOKENS = View(frames=8, width=168, height=168, min_pixels=6)


def settings() -> list[tuple[str, dict[str, object]]]:
    """Every augmentation as it is, and with each of its switches and choices set otherwise."""
    found: list[tuple[str, dict[str, object]]] = []
    for name, augment_type in sorted(REGISTRY.items()):
        found.append((name, {}))
        hints = typing.get_type_hints(augment_type)
        for field in dataclasses.fields(augment_type):
            values = (True, False) if hints[field.name] is bool else typing.get_args(hints[field.name])
            if hints[field.name] is bool or typing.get_origin(hints[field.name]) is typing.Literal:
                found += [(name, {field.name: value}) for value in values if value != field.default]
    return found


SETTINGS = settings()
every = pytest.mark.parametrize("name", sorted(REGISTRY))
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def some_params(augment: Augment, cast: Cast, view: View, seed: int) -> Params:
    """What the first of a few draws that succeeds chooses."""
    for attempt in range(16):
        try:
            return augment.draw(np.random.default_rng([seed, attempt]), cast, view)
        except CannotComposeError:
            continue
    return pytest.fail(f"{augment.name}: 16 draws failed")


def times_of(view: View, sample: Sample) -> tuple[Fraction, ...]:
    return view.times(sample.video.duration, sample.video.frame_measure)


def area(view: View, sample: Sample, evidence: Evidence) -> tuple[slice, slice]:
    pixels = view.pixels(sample.video.size, evidence.box, len(times_of(view, sample)))
    return slice(pixels.top, pixels.bottom), slice(pixels.left, pixels.right)


def fine_times(sample: Sample) -> list[Fraction]:
    """Even times over the whole video, and both sides of every edge of the evidence."""
    duration = sample.video.duration
    times = {duration * Fraction(2 * i + 1, 2 * NUM_TIMES) for i in range(NUM_TIMES)}
    for edge in {edge for evidence in sample.evidence for edge in (evidence.span.start, evidence.span.end)}:
        times |= {edge - EPSILON, edge}
    return sorted(time for time in times if 0 <= time < duration)


def is_all(sample: Sample, evidence: Evidence) -> bool:
    """Whether all of a video of several clips has to be seen: to find that something is not in it."""
    whole = (evidence.span, evidence.box) == (Span(0, sample.video.duration), Box())
    return whole and len({clip.path for clip in sample.video.clips()}) > 1


def mixed(sample: Sample, view: View, times: list[Fraction]) -> torch.Tensor:
    """Where pictures are seen through one another, [T, H, W]: of no clip's colour, or nearly."""
    width, height = view.canvas(sample.video.size, len(times_of(view, sample)))
    mixed_THW = torch.zeros((len(times), height, width), dtype=torch.bool)
    match sample.video:
        case Concat(fade_seconds=soft) | Overlay(soft_edge=soft) if soft:
            asked = requests(sample.video, times, (width, height), view.paint)
        case _:
            asked = []
    for request in asked:
        if request.blend:
            area = request.blend.area(request.window)
            weights_HW = torch.from_numpy(request.blend.weights(area))
            inside_HW = mixed_THW[request.frame, area.top : area.bottom, area.left : area.right]
            inside_HW |= (weights_HW > 0) & (weights_HW < 1)
    return mixed_THW


def check_nowhere(sample: Sample, view: View, times: list[Fraction], numbers: set[int]) -> None:
    """No pixel has the colour of a clip that is asked about and not shown."""
    frames_TCHW = render(sample.video, times, view.canvas(sample.video.size, len(times_of(view, sample))), view.paint)
    assert numbers
    for number in numbers:
        assert not (frames_TCHW == torch.tensor(COLOURS[number], dtype=torch.uint8)[:, None, None]).all(dim=1).any()


def check_pixels(sample: Sample, cast: Cast, view: View, times: list[Fraction]) -> set[int]:
    """Each colour that evidence shows is seen where and when evidence says, and nowhere else.

    Returns the numbers of the clips that have these colours.
    """
    canvas = view.canvas(sample.video.size, len(times_of(view, sample)))
    frames_TCHW, mixed_THW = render(sample.video, times, canvas, view.paint), mixed(sample, view, times)
    # When a fade begins, the first picture is alone for a last instant, which no half-open span holds.
    later = [min(time + EPSILON, sample.video.duration - EPSILON) for time in times]
    begun_THW = mixed_THW | mixed(sample, view, later)
    expected: dict[tuple[int, ...], torch.Tensor] = {}
    for evidence in sample.evidence:
        if is_all(sample, evidence):
            continue
        shown = torch.tensor([time in evidence.span for time in times])
        rows, columns = area(view, sample, evidence)
        first = int(shown.nonzero()[0])
        middle = ((rows.start + rows.stop) // 2, (columns.start + columns.stop) // 2)
        colour = tuple(frames_TCHW[first, :, middle[0], middle[1]].tolist())
        mask_THW = expected.setdefault(colour, torch.zeros_like(frames_TCHW[:, 0], dtype=torch.bool))
        mask_THW[shown, rows, columns] = True
        assert not mixed_THW[shown][:, rows, columns].any()
    for colour, mask_THW in expected.items():
        found_THW = (frames_TCHW == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(dim=1)
        assert torch.equal(found_THW & ~begun_THW, mask_THW & ~begun_THW), (
            f"{colour}: {int((found_THW ^ mask_THW).sum())} pixels differ"
        )
    clips = [clip for role in cast.values() for clip in role]
    colours = {tuple(clip.frames_TCHW[0, :, 0, 0].tolist()): number for number, clip in enumerate(clips)}
    return {colours[colour] for colour in expected}


@every_view
@pytest.mark.parametrize("number", range(len(SETTINGS)), ids=[f"{name} {changed}" for name, changed in SETTINGS])
def test_evidence_is_what_the_pixels_show_and_the_words_say(number, view, coloured, composed, told) -> None:
    name, changed = SETTINGS[number]
    sample, cast = composed(REGISTRY[name](**changed), coloured, view, seed=number)
    shown = check_pixels(sample, cast, view, fine_times(sample))
    if any(is_all(sample, evidence) for evidence in sample.evidence):
        assert (len(sample.evidence), shown) == (1, set())
        check_nowhere(sample, view, fine_times(sample), set(told(sample)))
    else:
        assert shown == set(told(sample))
    width, height = sample.video.size
    # Of its own shape, and large enough that a small inset has a middle.
    own = View(width=3 * width, height=3 * height, fit="squash")
    starts = [evidence.span.start for evidence in sample.evidence]
    assert check_pixels(sample, cast, own, starts + fine_times(sample)[:: NUM_TIMES // 3]) == shown


@every
@every_view
def test_evidence_is_seen_long_and_large_enough(name, view, coloured, composed) -> None:
    for seed in range(4):
        sample, _ = composed(REGISTRY[name](), coloured, view, 100 + seed)
        times = times_of(view, sample)
        frames_TCHW = render_view(sample.video, times, view)
        width, height = view.canvas(sample.video.size, len(times))
        assert frames_TCHW.shape == (len(times), 3, height, width)
        for evidence in sample.evidence:
            if is_all(sample, evidence):
                assert len(times) >= view.min_visible
                continue
            rows, columns = area(view, sample, evidence)
            assert min(rows.stop - rows.start, columns.stop - columns.start) >= view.min_pixels
            inside_TC = frames_TCHW[:, :, rows, columns].flatten(2)
            # Plain where the clip is shown; elsewhere another colour, or more than one.
            clip = inside_TC[[time in evidence.span for time in times]][0, :, 0]
            seen = (inside_TC == clip[:, None]).flatten(1).all(dim=1)
            assert int(seen.sum()) >= view.min_visible


@every
def test_what_is_not_seen_is_not_made(name, coloured, composed) -> None:
    sample, cast = composed(REGISTRY[name](), coloured, TOKENS, 0)
    times = times_of(TOKENS, sample)
    check_seen(sample, TOKENS, times)
    hidden = [time for time in times if time not in sample.evidence[0].span]
    demanding = dataclasses.replace(TOKENS, min_pixels=169)
    for view, shown in ((TOKENS, hidden), (demanding, times)):
        with pytest.raises(CannotComposeError, match=rf"{name}: what is asked about, .* is not on 1 of"):
            check_seen(sample, view, shown)
    with pytest.raises(CannotComposeError, match="px"):
        REGISTRY[name]()(np.random.default_rng(0), cast, demanding)


@every
@every_view
def test_sampled_times_do_not_depend_on_what_was_drawn(name, view, named) -> None:
    augment = REGISTRY[name]()
    cast = named(augment, np.random.default_rng(0))
    lengths, evidences = set(), set()
    for seed in range(20):
        try:
            sample = augment(np.random.default_rng(seed), cast, view)
        except CannotComposeError:
            continue
        lengths.add((sample.video.duration, sample.video.frame_measure))
        evidences.add(sample.evidence)
    assert len(lengths) == 1
    assert evidences


@every
def test_the_draw_is_all_there_is_of_chance(name, coloured) -> None:
    augment = REGISTRY[name]()
    cast = coloured(augment, np.random.default_rng(3))
    params = some_params(augment, cast, TOKENS, seed=5)
    assert params == some_params(augment, cast, TOKENS, seed=5)
    assert any(params != some_params(augment, cast, TOKENS, seed) for seed in range(6, 12))
    before = str(params), dict(cast)
    sample = augment.apply(cast, params)
    assert augment.apply(cast, params) == sample
    assert (str(params), dict(cast)) == before
    sooner, later = (augment(np.random.default_rng(9), cast, TOKENS) for _ in range(2))
    assert sooner == later


@every
def test_no_global_generator_is_touched(name, coloured, composed) -> None:
    def states() -> tuple[object, ...]:
        return (random.getstate(), np.random.get_state()[1:3], torch.get_rng_state().tolist())

    before = str(states())
    sample, _ = composed(REGISTRY[name](), coloured, TOKENS, 0)
    assert str(states()) == before
    for generator in (random.random, np.random.random, torch.rand):
        generator(1) if generator is not random.random else generator()
    assert str(states()) != before
    assert composed(REGISTRY[name](), coloured, TOKENS, 0)[0] == sample


@every
def test_the_draw_sees_no_pixels_and_chooses_numbers(name, coloured) -> None:
    augment = REGISTRY[name]()
    cast = coloured(augment, np.random.default_rng(3))
    blind = {role: tuple(dataclasses.replace(clip, frames_TCHW=None) for clip in cast[role]) for role in cast}
    params = some_params(augment, cast, TOKENS, seed=5)
    assert params == some_params(augment, blind, TOKENS, seed=5)
    stack = list(params.values())
    while stack:
        value = stack.pop()
        if isinstance(value, tuple | list):
            stack += value
        elif isinstance(value, Mapping):
            stack += value.values()
        else:
            assert value is None or isinstance(value, int | float | Fraction | Box | Wording), value


@every
def test_an_augmentation_is_frozen_and_keeps_nothing(name, coloured, composed) -> None:
    augment = REGISTRY[name]()
    assert dataclasses.is_dataclass(augment)
    before = dict(vars(augment))
    composed(augment, coloured, TOKENS, 0)
    assert vars(augment) == before
    assert augment == REGISTRY[name]()
    assert hash(augment) == hash(REGISTRY[name]())
    for field in (*before, "anything"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(augment, field, None)


@every
def test_a_sample_is_replayed_from_json(name, from_world, composed, world: Path) -> None:
    view = View(frames=4, width=56, height=56, min_pixels=3)
    for seed in range(3):
        sample, _ = composed(REGISTRY[name](), from_world, view, seed)
        again = Sample.from_json(json.loads(json.dumps(sample.to_json())))
        assert again == sample
        assert again.to_json() == sample.to_json()
    times = times_of(view, sample)
    assert times == times_of(view, again)
    frames_TCHW = render_view(sample.video, times, view, world)
    assert frames_TCHW.float().std() > 10
    assert torch.equal(render_view(again.video, times, view, world), frames_TCHW)


@every
@pytest.mark.parametrize("max_tokens", [4096, 2000])
def test_the_plan_counts_what_is_encoded(name, max_tokens, coloured, composed) -> None:
    codec = load_family("tiny", {"max_tokens": max_tokens}, TOKENS).codec
    video_id = codec.tokenizer.convert_tokens_to_ids("<video>")
    for seed in range(2):
        sample, _ = composed(REGISTRY[name](), coloured, TOKENS, seed)
        plan = codec.plan(sample)
        frames_TCHW = render_view(sample.video, plan.times, TOKENS)
        encoded = codec.encode(sample, plan, frames_TCHW, position=7)
        assert len(encoded.input_ids) == plan.tokens <= max_tokens
        # 168 pixels are 12 patches, 6 of which are left by the pooling.
        assert int((encoded.input_ids == video_id).sum()) == len(plan.times) * 36
        assert encoded.num_labels == plan.labels > 0
        assert len(encoded.frames_TCHW) == len(plan.times)
        assert encoded.kind == name
        sampled = times_of(TOKENS, sample)
        assert plan.times == sampled or (max_tokens == 2000 and len(plan.times) < len(sampled))


@every
def test_the_conversation_is_a_question_and_its_answer(name, coloured, composed) -> None:
    for seed in range(20):
        sample, _ = composed(REGISTRY[name](), coloured, TOKENS, seed)
        assert [message.role for message in sample.messages] == ["user", "assistant"]
        for message in sample.messages:
            assert message.content == message.content.strip()
            assert not set("{}") & set(message.content)
            assert "  " not in message.content
        assert sample.kind == name
        assert sample.evidence


@every
def test_a_missing_role_is_named(name, coloured) -> None:
    augment = REGISTRY[name]()
    cast = coloured(augment, np.random.default_rng(0))
    for role in augment.roles:
        few = cast | {role.name: cast[role.name][: role.min_count - 1]} if role.min_count else cast
        if role.relation == "caption_only":
            assert augment.apply(cast | {role.name: ()}, some_params(augment, cast, TOKENS, 0)).kind == name
            continue
        with pytest.raises(CannotComposeError, match=rf"{name} needs {role.min_count} clips as '{role.name}', not"):
            augment(np.random.default_rng(0), few, TOKENS)


@every
def test_a_clip_without_words_is_refused_by_name(name, coloured) -> None:
    augment = REGISTRY[name]()
    cast = coloured(augment, np.random.default_rng(0))
    params = some_params(augment, cast, TOKENS, 0)
    silent = {role: tuple(dataclasses.replace(clip, caption=" ") for clip in cast[role]) for role in cast}
    with pytest.raises(CannotComposeError, match=r"clip memory:\w+ has no caption"):
        augment.apply(silent, params)


@every
def test_roles_and_fields_can_be_read_by_a_recipe(name) -> None:
    augment_type = REGISTRY[name]
    augment = augment_type()
    assert augment_type.name == name
    assert augment.roles
    assert len({role.name for role in augment.roles}) == len(augment.roles)
    assert augment.roles[0].relation != "caption_only"
    hints = typing.get_type_hints(augment_type)
    for field in dataclasses.fields(augment):
        assert field.name in hints
        documented = inspect.getsource(augment_type).split(f"    {field.name}: ")[1].splitlines()[1]
        assert documented.strip().startswith('"""'), f"{field.name} says nothing of itself"


@every
def test_a_class_fits_on_a_screen(name) -> None:
    assert len(inspect.getsource(REGISTRY[name]).rstrip().splitlines()) <= 40
    assert inspect.getdoc(REGISTRY[name])


def test_files_stay_short() -> None:
    folder = Path(vista_train.augment.__file__).parent
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")}
    assert len(lengths) >= 7
    assert max(lengths.values()) <= 300, lengths


def test_defining_a_class_registers_it() -> None:
    name = "never_used_twice"
    try:
        made = type("NeverUsedTwice", (Augment,), {})
        assert made.name == name
        assert REGISTRY[name] is made
        with pytest.raises(TypeError, match=r"NeverUsedTwice must define draw\(rng, clips, view\)"):
            made().draw(np.random.default_rng(0), {}, View())
        with pytest.raises(TypeError, match=r"NeverUsedTwice must define apply\(clips, params\)"):
            made().apply({}, {})
    finally:
        REGISTRY.pop(name, None)


def test_clips_in_memory_are_enough_without_a_trainer() -> None:
    def clip(value: int, seconds: int) -> Clip:
        return Clip.from_frames(
            torch.full((seconds * 2, 3, 12, 16), value, dtype=torch.uint8), seconds, f"Grey {value}."
        )

    cast = {"haystack": [clip(50, 40)], "needle": [clip(200, 6)], "distractor": [clip(v, 1) for v in (1, 2, 3)]}
    sample = REGISTRY["temporal_needle"]()(np.random.default_rng(0), cast, View(width=28, height=28, fit="squash"))
    (evidence,) = sample.evidence
    before, during = render(sample.video, [Fraction(0), evidence.span.start], (16, 12))
    assert (int(before.max()), int(during.min())) == (50, 200)
