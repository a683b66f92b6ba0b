"""The mix in numbers is what the dataset plans, and every value is in the bin that its edges say."""

from __future__ import annotations

import numpy as np
import pytest

from vista_train.augment import CannotComposeError
from vista_train.config import load_recipe
from vista_train.preview import Planned, histogram, mix_view, planned


def test_shares_and_histograms_are_those_of_the_dataset(recipe):
    loaded = load_recipe(recipe, ["augment.plain.weight=2"])
    dataset = loaded.make_dataset(loaded.make_family().codec)
    view = mix_view(list(planned(dataset, range(60)).values()), dataset.mix)
    composed = [dataset.planned(position) for position in range(60)]
    assert (view.num_positions, view.num_lost) == (60, 0)
    assert [share.kind for share in view.shares] == ["plain", "spatial_needle", "temporal_needle"]
    assert [share.asked for share in view.shares] == [0.5, 0.25, 0.25]
    tokens = sum(one.plan.tokens for one in composed)
    for share in view.shares:
        own = [one for one in composed if one.sample.kind == share.kind]
        assert (share.samples, share.tokens) == (len(own), sum(one.plan.tokens for one in own))
        assert share.of_samples == len(own) / 60
        assert share.of_tokens == share.tokens / tokens
        assert share.seconds == pytest.approx(np.mean([float(one.sample.shown.duration) for one in own]))
        for found, values in (
            (view.tokens, [one.plan.tokens for one in own]),
            (view.seconds, [float(one.sample.shown.duration) for one in own]),
        ):
            assert found.counts[share.kind] == tuple(np.histogram(values, found.edges)[0])
    assert sum(share.of_samples for share in view.shares) == pytest.approx(1)


def test_what_cannot_be_composed_is_counted_apart(recipe, monkeypatch):
    loaded = load_recipe(recipe)
    dataset = loaded.make_dataset(loaded.make_family().codec)
    whole = dataset.planned

    def missing(position):
        if position == 2:
            raise CannotComposeError("no")
        return whole(position)

    monkeypatch.setattr(dataset, "planned", missing)
    plans = planned(dataset, range(5))
    assert plans[2] == Planned(2, "", 0, 0, 0, 0.0, None)
    view = mix_view(list(plans.values()), dataset.mix)
    assert view.num_lost == 1
    assert sum(share.samples for share in view.shares) == 4
    assert sum(sum(counts) for counts in view.tokens.counts.values()) == 4


def test_words_alone_have_tokens_and_no_duration():
    view = mix_view([Planned(0, "talk", 40, 0, 8, 1.0, None)], [])
    assert view.seconds is None
    assert (view.shares[0].seconds, view.shares[0].tokens) == (None, 40)
    assert sum(view.tokens.counts["talk"]) == 1


@pytest.mark.parametrize(
    ("values", "is_log"),
    [([5.0], False), ([3.0, 3.0, 90.0], False), ([3.0, 91.0], True), ([0.04, 3600.0, 7.0, 0.04, 512.0], True)],
)
def test_every_value_is_counted_once_where_it_lies(values, is_log):
    found = histogram({"a": values, "b": []}, 10)
    assert found.is_log == is_log
    assert len(found.edges) == 11
    assert (np.diff(found.edges) > 0).all()
    assert sum(found.counts["a"]) == len(values)
    assert sum(found.counts["b"]) == 0
    for value in values:
        near = [n for n, count in enumerate(found.counts["a"]) if count]
        assert any(found.edges[n] * 0.999999 <= value <= found.edges[n + 1] for n in near)
    assert found.edges[-1] == max(values)


def test_an_axis_has_round_values_where_they_lie():
    assert histogram({"a": [100.0, 1000.0]}).ticks == ((0.0, 0.0), (500.0, 0.5), (1000.0, 1.0))
    values, places = zip(*histogram({"a": [1.0, 100.0]}).ticks, strict=True)
    assert values == (1, 2, 5, 10, 20, 50, 100)
    assert places[3] == pytest.approx(0.5)
    assert histogram({"a": []}) is None
