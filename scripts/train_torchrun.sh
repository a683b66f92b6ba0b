#!/usr/bin/env bash
# train_multinode.sh with torchrun in the place of `accelerate launch`: the same variables, engines and signals.
#
#   bash scripts/train_torchrun.sh recipe.yaml [key=value ...]
#
# Every option of torchrun is a variable too: PET_TEE=3 PET_LOG_DIR=out/logs keeps each rank's output in a file.
#
#   GPUS_PER_MACHINE=8 ENGINE=zero3 bash scripts/train_torchrun.sh recipes/vista_longva.yaml
#
# Machines meet by static rendezvous: ranks follow MACHINE_RANK. By c10d they follow arrival, and machines whose own
# name resolves to 127.0.0.1 never meet. Nothing is restarted in place (--max-restarts 0): a run goes on by being
# started again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=ds_configs/${ENGINE:-zero2}.yaml
if [ ! -f "$config" ]; then
    echo "train_torchrun: ENGINE is '${ENGINE:-zero2}', but there is no $config" >&2
    exit 2
fi
# An engine reaches the ranks as variables, and which ones is accelerate's business: its own code names them.
settings=$(
    python - "$config" <<'PYTHON'
import os, shlex, sys
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

arguments = ["--config_file", sys.argv[1], "--num_machines", "1", "--main_process_port", "0", "-m", "vista_train.train"]
args, defaults, says_precision = _validate_launch_command(launch_command_parser().parse_args(arguments))
if args.use_deepspeed:
    fields = [*defaults.deepspeed_config, *(["mixed_precision"] if says_precision else [])]
    args.deepspeed_fields_from_accelerate_config = ",".join(fields)
    environment = prepare_deepspeed_cmd_env(args)[1]
else:
    environment = prepare_multi_gpu_env(args)
for name, value in environment.items():
    if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")) and os.environ.get(name) != value:
        print(f"export {name}={shlex.quote(value)}")
PYTHON
)
eval "$settings"
LAUNCHER=torchrun exec bash scripts/train_multinode.sh "$@"
