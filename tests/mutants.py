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
from pathlib import Path

import planted.beside
import planted.composing
import planted.data
import planted.media
import planted.models
import planted.training
from planted import Mutant

REPO = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300


MUTANTS = (
    *planted.training.MUTANTS,
    *planted.data.MUTANTS,
    *planted.media.MUTANTS,
    *planted.composing.MUTANTS,
    *planted.models.MUTANTS,
    *planted.beside.MUTANTS,
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
    if done.returncode < 0:
        # It took the test's own process with it.
        return False, f"killed by signal {-done.returncode}"
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
