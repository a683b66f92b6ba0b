#!/usr/bin/env bash
# Trains on one machine or several: run it on each, by hand or by any scheduler, with a MACHINE_RANK of its own.
#
#   bash scripts/train_multinode.sh recipe.yaml [key=value ...]      paths are taken from the repository's root
#
#   NUM_MACHINES       machines in all (1)
#   MACHINE_RANK       this machine's number, from 0; needed where there are several
#   MAIN_ADDRESS       name or IP of machine 0, as the others reach it; needed where there are several
#   MAIN_PORT          a free port of machine 0, the same on all (29500)
#   GPUS_PER_MACHINE   processes here, one a GPU, the same on all (what nvidia-smi lists)
#   ENGINE             a name in ds_configs: ddp, zero2, zero3, fsdp2, ... (zero2)
#   LAUNCHER           accelerate or torchrun (accelerate); train_torchrun.sh sets it
#   ACCELERATE_USE_CPU=1 is passed on: processes on a CPU, with ENGINE=cpu_2
#
#   NUM_MACHINES=2 MACHINE_RANK=1 MAIN_ADDRESS=10.0.0.1 bash scripts/train_multinode.sh recipes/vista_longva.yaml
#
# SIGTERM or SIGUSR1 to this script asks the ranks to save and stop; it then returns 0, and <output>/stopped.json is
# there. SIGINT (ctrl-C) ends them at once, without a checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "train_multinode: $1" >&2
    exit 2
}

machines=${NUM_MACHINES:-1}
port=${MAIN_PORT:-29500}
engine=${ENGINE:-zero2}
if [ "$machines" = 1 ]; then
    rank=${MACHINE_RANK:-0}
    address=${MAIN_ADDRESS:-127.0.0.1}
else
    [[ $machines =~ ^[1-9][0-9]*$ ]] || fail "NUM_MACHINES is '$machines'; it says how many machines take part"
    rank=${MACHINE_RANK:-}
    address=${MAIN_ADDRESS:-}
    [ -n "$rank" ] || fail "MACHINE_RANK is not set; give each of $machines machines its own, from 0"
    [ -n "$address" ] || fail "MAIN_ADDRESS is not set; name machine 0 as the others reach it"
fi
[[ $rank =~ ^[0-9]+$ ]] && [ "$rank" -lt "$machines" ] ||
    fail "MACHINE_RANK is '$rank'; with NUM_MACHINES $machines it is a number from 0 to $((machines - 1))"
[ $# -gt 0 ] || fail "no recipe given; usage: bash scripts/train_multinode.sh recipe.yaml [key=value ...]"
[ -f "$1" ] || fail "there is no recipe '$1' (paths are taken from $PWD)"
[ -f "ds_configs/$engine.yaml" ] || fail "ENGINE is '$engine', but there is no ds_configs/$engine.yaml"
gpus=${GPUS_PER_MACHINE:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)}
[[ $gpus =~ ^[1-9][0-9]*$ ]] ||
    fail "GPUS_PER_MACHINE is '$gpus'; it says how many processes run here (unset: the GPUs that nvidia-smi lists)"

# Threads of each rank's own operations: DeepSpeed's Adam on the CPU needs them, and launchers would give it one.
cores=$(($(OMP_NUM_THREADS='' nproc) / gpus))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? cores : 1))}
# Rows differ in length from step to step; without this the allocator's cache falls into pieces too small to use.
[ -n "${PYTORCH_CUDA_ALLOC_CONF:-}" ] || export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
# A collective that timed out leaves a record of who waited in which one.
export TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
# The ranks save on SIGTERM; a launcher that handled it too would kill them after 30 s and call their stop a failure.
export PET_SIGNALS_TO_HANDLE=${PET_SIGNALS_TO_HANDLE:-SIGINT,SIGHUP,SIGQUIT}

case ${LAUNCHER:-accelerate} in
    accelerate)
        # Two flags say what is the default of some versions only: static takes ranks as they are given here, instead
        # of in order of arrival; standard keeps DeepSpeed from starting the other machines itself, over pdsh.
        launch=(accelerate launch --config_file "ds_configs/$engine.yaml"
            --num_machines "$machines" --num_processes "$((machines * gpus))" --machine_rank "$rank"
            --main_process_ip "$address" --main_process_port "$port"
            --rdzv_backend static --deepspeed_multinode_launcher standard)
        ;;
    torchrun)
        launch=(torchrun --nnodes "$machines" --nproc-per-node "$gpus" --node-rank "$rank"
            --master-addr "$address" --master-port "$port" --rdzv-backend static --max-restarts 0)
        ;;
    *) fail "LAUNCHER is '$LAUNCHER'; it is accelerate or torchrun" ;;
esac

# A process group of its own (set -m), so that ctrl-C reaches the launcher through this script alone, and once. What is
# ignored here stays ignored in launcher and ranks until a rank has a handler of its own: neither dies of a signal sent
# to everyone, or too early.
set -m
(
    trap '' USR1 TERM
    exec "${launch[@]}" -m vista_train.train "$@"
) &
launcher=$!
set +m

asked=
trap 'asked=1' USR1 TERM
trap 'kill -s INT "$launcher" 2>/dev/null || true' INT HUP
# A trapped signal ends `wait` early, so it is the launcher itself that says whether it is gone.
wait "$launcher" || true
while kill -0 "$launcher" 2>/dev/null; do
    if [ -n "$asked" ]; then
        # Its children are the ranks; their data workers are not asked. Again and again, since a rank that is still
        # importing does not listen.
        read -r -a ranks <"/proc/$launcher/task/$launcher/children" || true
        kill -s USR1 "${ranks[@]}" 2>/dev/null || true
        sleep 1
    else
        wait "$launcher" || true
    fi
done
wait "$launcher"
