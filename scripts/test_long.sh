#!/usr/bin/env bash
# What takes too long for every day: 10,000 samples held to their promises, 10,000 more out of a folder with bad, hanging
# and crashing files, 20 kills survived bit by bit, the slow tests, and every planted bug caught.
# Each stage that ended well is remembered in out/test_long and not run again; `rm -r out/test_long` starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. scripts/activate.sh
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
mkdir -p out/test_long

stage() {
    local name=$1
    shift
    if [ -f "out/test_long/$name.done" ]; then
        echo "test_long: $name was done before"
        return
    fi
    echo "test_long: $name"
    "$@"
    touch "out/test_long/$name.done"
}

stage world python scripts/make_clips.py --out out/test_long/clips
stage samples python scripts/check_samples.py recipes/quickstart.yaml data.root=out/test_long/clips --count 10000
stage bad_media python tests/data/bad_media.py --clips out/test_long/clips --out out/test_long/bad_media
clips=${VISTA_TRAIN_SHARED:-../shared}/clips
if [ -d "$clips" ]; then
    stage real_samples python scripts/check_samples.py recipes/real_clips.yaml "data.root=$clips" --count 2000
else
    echo "test_long: no real clips in $clips; left out"
fi
for engine in cpu_2 zero2; do
    stage "kills_$engine" python scripts/check_kills.py --engines "$engine" --kills 10 --out out/test_long/kills
done
stage no_hang python tests/training/random_rows.py --engines zero3 fsdp2 --steps 200
stage slow python -m pytest -q --timeout 900 -m slow
stage mutants python tests/mutants.py
echo "test_long: all stages done"
