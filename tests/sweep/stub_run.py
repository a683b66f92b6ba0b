"""Stands for a launcher and its run: writes the log of one at the recipe's rate, in the time of a Python without torch.

Started as a launcher is (`stub_run.py -m vista_train.train recipe.yaml`), it starts itself again in a session of its
own, as torchrun starts ranks. What a rate does, $STUB tells: `{"1e-05": "fails"}`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    recipe = Path(sys.argv[-1]).read_text()
    if "--rank" not in sys.argv:
        return subprocess.call([sys.executable, __file__, "--rank", *sys.argv[1:]], start_new_session=True)
    output = Path(re.search(r"^output: (.+)$", recipe, re.MULTILINE)[1])
    rate = float(re.search(r"^  lr: (.+)$", recipe, re.MULTILINE)[1])
    steps = int(re.search(r"^  steps: (.+)$", recipe, re.MULTILINE)[1])
    what = json.loads(os.environ.get("STUB", "{}")).get(repr(rate), "")
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    (output / "stopped.json").unlink(missing_ok=True)
    with (output / "starts.txt").open("a") as stream:
        stream.write(f"{what}\n")
    log = output / "log.jsonl"
    done = len(log.read_text().splitlines()) if log.exists() else 0
    for step in range(done + 1, steps + 1):
        if what == "fails" and step == 2:
            print("vista_train: data.root is 'nowhere'; it must be a folder", file=sys.stderr)
            print("launcher: rank 0 failed", file=sys.stderr)
            return 2
        line = {"step": step, "loss": 8 - 1e4 * rate * step, "grad_norm": 1.0 + step, "labels": 4}
        with log.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        until = time.monotonic() + 60
        while what in ("waits", "is deaf") and time.monotonic() < until and not (told and what == "waits"):
            time.sleep(0.02)
        if told or (what == "is stopped" and step == 2):
            (output / "stopped.json").write_text("{}")
            return 0
    (output / f"step-{steps:06d}").mkdir(exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
