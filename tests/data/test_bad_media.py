"""A folder with bad, hanging and crashing files: the same samples and losses with any number of workers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.data.bad_media import COSTLY, DAMAGE, WORKERS, broken, dataset_of, grown, run, spoil

SAMPLES = 400


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_400_samples_from_a_folder_with_bad_files(make_clips: ModuleType, tmp_path: Path) -> None:
    """The 10,000 of scripts/test_long.sh in short; what is slow is not judged here."""
    make_clips.make_world(tmp_path / "clips", make_clips.World(sources=20, clips_per_source=8))
    harm = spoil(tmp_path / "clips", tmp_path / "spoilt")
    assert len(harm) == len(COSTLY) + len(DAMAGE)
    outcomes = [run(dataset_of(tmp_path / "spoilt", tmp_path / "cache"), SAMPLES, workers) for workers in WORKERS]
    clean = run(dataset_of(tmp_path / "clips", tmp_path / "cache"), SAMPLES, 0)
    clean.seconds = float("inf")
    assert list(broken(outcomes, clean, harm, tmp_path)) == []
    assert clean.failures == []
    assert len(set(clean.digests)) == SAMPLES
    # Replaced samples are others; what is not lost is as it was.
    lost = {failure.position for failure in outcomes[0].failures}
    for position in range(SAMPLES):
        assert (clean.digests[position] == outcomes[0].digests[position]) == (position not in lost)
    # Of a short run this says little; a leak of a picture a sample would be a third.
    assert all(grown(outcome) < 0.2 for outcome in outcomes)
