#!/usr/bin/env bash
# Makes a virtual environment with vista_train and its test tools, once: .venv, or the folder VISTA_TRAIN_VENV names.
# PYTHON may name the interpreter to make it with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VISTA_TRAIN_VENV:-.venv}
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    echo "install: no '$python' on PATH; vista_train needs Python 3.11 or newer (PYTHON may name one)" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "install: '$python' is $("$python" -V 2>&1); vista_train needs Python 3.11 or newer (PYTHON may name one)" >&2
    exit 1
fi

wanted=$("$python" -c 'import hashlib, pathlib
files = [pathlib.Path(name).read_bytes() for name in ("requirements.txt", "setup.py", "scripts/install.sh")]
print(hashlib.sha256(b"".join(files)).hexdigest())')
stamp=$venv/vista_train.stamp
if [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    echo "install: $venv is up to date"
    exit 0
fi

said=$(mktemp)
trap 'rm -f "$said"' EXIT

stage() {
    local name=$1 began=$SECONDS
    shift
    printf 'install: %s ... ' "$name"
    if ! "$@" >"$said" 2>&1; then
        printf 'failed\n'
        cat "$said" >&2
        exit 1
    fi
    printf '%d s\n' $((SECONDS - began))
}

has_nvidia_gpu() {
    command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep '^GPU ' >/dev/null
}

rm -f "$stamp"
stage "virtual environment in $venv" "$python" -m venv "$venv"
stage "pip" "$venv/bin/python" -m pip install --quiet --upgrade pip
# torch comes first and at one version, so that nothing below can draw in a newer one.
has_nvidia_gpu || stage "torch for a machine without an NVIDIA GPU" "$venv/bin/python" -m pip install --quiet torch==2.13.0
stage "vista_train and its requirements" "$venv/bin/python" -m pip install --quiet --editable ".[test]"
# Tests compare with transformers' own processors, which need torchvision where there is video. The library does without
# it, so it lies in a folder that only those tests look into. Torch 2.13 goes with torchvision 0.28, and so on.
torchvision=$("$venv/bin/python" -c 'import torch; print(f"0.{int(torch.__version__.split(chr(46))[1]) + 15}.*")')
rm -rf "$venv/references"
stage "torchvision, to compare with" "$venv/bin/python" -m pip install --quiet --no-deps --target "$venv/references" \
    "torchvision==$torchvision" num2words
echo "$wanted" >"$stamp"
