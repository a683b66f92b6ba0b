"""Plants bugs one at a time and checks that the test each names turns red: `python tests/mutants.py [name ...]`.

Each mutant is one exact replacement in one file. The working tree's tracked files are copied, changed, and only the
named test is run there. A mutant that survives, a replacement that no longer applies, or a test that is red without
the bug, is a failure of the suite: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Mutant:
    """A bug, and the test that must catch it."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "cross_sample_attention",
        "vista_train/models/tiny.py",
        "            use_cache=False,\n            **packing",
        "            use_cache=True,\n            **packing",
        "tests/training/test_step.py::test_packed_equals_one_sample_a_row",
    ),
    Mutant(
        "positions_not_restarting",
        "vista_train/data/collate.py",
        "torch.cat([empty, *(torch.arange(length) for length in lengths)])",
        "torch.arange(sum(lengths))",
        "tests/training/test_step.py::test_packed_equals_one_sample_a_row",
    ),
    Mutant(
        "mean_of_means",
        "vista_train/training/loop.py",
        "averaging_factor(self.accelerator) / max(1, labels)",
        "averaging_factor(self.accelerator) / max(1, row.num_labels) / len(rows)",
        "tests/training/test_step.py::test_micro_steps_order_and_empty_rows_change_nothing",
    ),
    Mutant(
        "missing_world_factor",
        "vista_train/training/loop.py",
        "return float(accelerator.num_processes)",
        "return 1.0",
        "tests/training/test_two_processes.py::test_world_size_and_rows_change_nothing",
    ),
    Mutant(
        "labels_counted_per_rank",
        "vista_train/training/loop.py",
        "labels = int(counts[0])",
        "labels = sum(row.num_labels for row in rows)",
        "tests/training/test_two_processes.py::test_world_size_and_rows_change_nothing",
    ),
    Mutant(
        "label_off_by_one",
        "vista_train/training/loss.py",
        "targets = labels_L[1:]",
        "targets = labels_L[:-1]",
        "tests/training/test_loss.py",
    ),
    Mutant(
        "last_checkpoint_deleted_before_the_new_one_is_published",
        "vista_train/training/checkpoint.py",
        "        publish(folder)\n        prune(folder.parent, keep)",
        "        prune(folder.parent, keep - 1)\n        publish(folder)",
        "tests/training/test_checkpoint.py::test_older_checkpoints_are_pruned_only_after_the_new_one_is_published",
    ),
    Mutant(
        "unfinished_checkpoint_counts",
        "vista_train/training/checkpoint.py",
        " and not (path / IN_PROGRESS).exists()]",
        "]",
        "tests/training/test_checkpoint.py",
    ),
    Mutant(
        "optimizer_not_restored",
        "vista_train/training/checkpoint.py",
        "            optimizer.state[parameter] = state\n",
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "dropout_state_not_restored",
        "vista_train/training/checkpoint.py",
        '    torch.set_rng_state(state["cpu"])\n',
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "loader_draws_from_the_global_generator",
        "vista_train/data/rows.py",
        "        generator=torch.Generator(),\n",
        "",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "schedule_restarts_on_resume",
        "vista_train/training/loop.py",
        "        self.step_number = state.step\n        self.failures",
        "        self.step_number = state.step\n        self.num_steps -= state.step\n        self.failures",
        "tests/training/test_checkpoint.py::test_resumed_equals_uninterrupted_bit_by_bit",
    ),
    Mutant(
        "losses_after_the_checkpoint_forgotten",
        "vista_train/training/loop.py",
        "    return [failure for failure in ledger.read",
        "    return [] and [failure for failure in ledger.read",
        "tests/training/test_checkpoint.py::test_what_was_lost_after_the_checkpoint_is_lost_again",
    ),
    Mutant(
        "frozen_part_trains",
        "vista_train/training/optimizer.py",
        "return self.lr if asked is True else float(asked)",
        "return self.lr",
        "tests/training/test_step.py::test_parts_that_train_move_and_frozen_ones_do_not",
    ),
    Mutant(
        "frozen_part_costs_gradients",
        "vista_train/training/optimizer.py",
        "parameter.requires_grad_(rate > 0)",
        "parameter.requires_grad_(True)",
        "tests/training/test_step.py::test_parts_that_train_move_and_frozen_ones_do_not",
    ),
)


def run(mutant: Mutant | None, test: str) -> tuple[bool, str]:
    """Whether the test passes in a copy with the bug in it, and its last line."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "repo"
        _copy_tracked(copy)
        if mutant is not None:
            path = copy / mutant.file
            text = path.read_text(encoding="utf-8")
            if text.count(mutant.old) != 1:
                return True, f"does not apply: found {text.count(mutant.old)} times in {mutant.file}"
            path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "200", test],
            cwd=copy,
            env={**os.environ, **_environment(copy)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    summary = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error|skipped)", line)]
    last = summary[-1].strip("= ") if summary else f"pytest ended with {done.returncode}"
    if done.returncode not in (0, 1):
        return True, f"not run: {last}"
    return done.returncode == 0, last


def _environment(copy: Path) -> dict[str, str]:
    shared = os.environ.get("VISTA_TRAIN_SHARED", str(REPO.parent / "shared"))
    return {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "VISTA_TRAIN_SHARED": shared,
    }


def _copy_tracked(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, target / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the table; 0 if every bug was caught, and every test is green without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants to run; default, all")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {sorted(unknown)[0]}")
    chosen = [mutant for mutant in MUTANTS if not arguments.names or mutant.name in arguments.names]
    began = time.monotonic()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tests = list(dict.fromkeys(mutant.test for mutant in chosen))
        green = dict(zip(tests, pool.map(lambda test: run(None, test), tests), strict=True))
        results = list(pool.map(lambda mutant: run(mutant, mutant.test), chosen))
    caught = 0
    for mutant, (passed, line) in zip(chosen, results, strict=True):
        is_caught = not passed and green[mutant.test][0]
        caught += is_caught
        verdict = "caught" if is_caught else "SURVIVED" if passed else "RED WITHOUT IT"
        print(f"{verdict:14}  {mutant.name:58}  {mutant.test}  [{line}]")
    print(f"{caught} of {len(chosen)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
