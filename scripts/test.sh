#!/usr/bin/env bash
# Installs, then lints and checks types, then tests, all but the slow ones (test_long.sh). Arguments go to pytest. VISTA_TRAIN_SKIP_INSTALL=1 takes the python on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. scripts/activate.sh

# Two workers share the machine: one thread each, nothing fetched.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

ruff check .
ruff format --check .
mypy
python -m pytest -q -n 2 --dist loadgroup --timeout 600 -m "not slow" "$@"
