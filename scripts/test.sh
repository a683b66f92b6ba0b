#!/usr/bin/env bash
# Installs, then lints and checks types, then tests. Arguments go to pytest. VISTA_TRAIN_SKIP_INSTALL=1 takes the python on PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${VISTA_TRAIN_SKIP_INSTALL:-0}" != 1 ]; then
    bash scripts/install.sh
    bin=$(cd "${VISTA_TRAIN_VENV:-.venv}/bin" && pwd)
    export PATH="$bin:$PATH"
fi

# Two workers share the machine: one thread each, nothing fetched.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

ruff check .
ruff format --check .
mypy
python -m pytest -q -n 2 --dist loadgroup --timeout 300 "$@"
