#!/usr/bin/env bash
# From nothing to a trained tiny model: installs, renders a small world of clips, trains on it, and draws what came of it.
#
#   bash scripts/quickstart.sh [key=value ...]      recipe overrides, such as train.steps=50 or output=out/another
#
# VISTA_TRAIN_SKIP_INSTALL=1   take the python on PATH and install nothing
# QUICKSTART_SOURCES, QUICKSTART_CLIPS   size of the world: sources (25), and clips of each (8)
# QUICKSTART_DATA, QUICKSTART_OUT        folders for clips (out/quickstart_clips) and results (out/quickstart)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

recipe=recipes/quickstart.yaml
default_out=out/quickstart
out=${QUICKSTART_OUT:-$default_out}
data=${QUICKSTART_DATA:-out/quickstart_clips}
overrides=()
for override in "$@"; do
    case $override in
        output=*) out=${override#output=} ;;
        data.root=*) data=${override#data.root=} ;;
        *) overrides+=("$override") ;;
    esac
done
overrides+=("output=$out" "data.root=$data")

. scripts/activate.sh

# Only what an earlier quickstart left behind is emptied: it carries this mark.
if [ -n "$(ls -A "$out" 2>/dev/null)" ] && [ ! -f "$out/.quickstart" ]; then
    echo "quickstart: $out holds files that no quickstart left there; name an empty folder, it would be emptied" >&2
    exit 1
fi
rm -rf "$out"
mkdir -p "$out"
touch "$out/.quickstart"

python scripts/make_clips.py --out "$data" \
    --sources "${QUICKSTART_SOURCES:-25}" --clips-per-source "${QUICKSTART_CLIPS:-8}"

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -eq 0 ]; then
    launch=(--num_processes 1 --mixed_precision no)
elif [ "$gpus" -eq 1 ]; then
    launch=(--num_processes 1 --mixed_precision bf16)
else
    launch=(--num_processes "$gpus" --mixed_precision bf16 --multi_gpu)
fi
accelerate launch "${launch[@]}" --num_machines 1 --dynamo_backend no \
    -m vista_train.train "$recipe" "${overrides[@]}"

python scripts/plot_loss.py "$out/log.jsonl" "$out/loss.png"
python -m vista_train.preview "$recipe" "${overrides[@]}" --count 12 --out "$out/contact_sheet.png"

checkpoints=("$out"/step-*)
echo "quickstart: checkpoint in ${checkpoints[${#checkpoints[@]} - 1]}, log in $out/log.jsonl, loss in $out/loss.png, samples in $out/contact_sheet.png"
