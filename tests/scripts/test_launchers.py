"""The launch scripts: what each machine runs, and how a signal to them becomes a save, a requeue, or a failure.

The cluster is stubs on PATH. `srun` runs its command once for every node and forwards signals to each, as SLURM does;
`accelerate` and `torchrun` write down their command line and start two ranks that write down the signals they get.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("launchers")
REPO = Path(__file__).parents[2]
SCRIPTS = ("train_multinode.sh", "train_torchrun.sh", "train_slurm.sbatch")

# It dies of USR1 and TERM where it is not shielded, as the real ones do.
LAUNCHER = """#!/usr/bin/env bash
me=${MACHINE_RANK:-0}
echo "$(basename "$0") $*" >>"$RECORDS/launch.$me"
env >"$RECORDS/environment.$me"
trap 'kill -s KILL "${ranks[@]}"; exit 1' INT
for rank in 0 1; do
    "$PYTHON" -S "$RECORDS/rank.py" "$me.$rank" &
    ranks+=($!)
done
code=0
for rank in "${ranks[@]}"; do wait "$rank" || code=1; done
exit $code
"""
# A rank says when it listens, then runs for RUN_SECONDS, or until it is asked to stop; then it saves, as ranks do.
RANK = """
import os, pathlib, signal, sys, time
records, me, told = pathlib.Path(os.environ["RECORDS"]), sys.argv[1], []
time.sleep(float(os.environ.get("IMPORT_SECONDS", "0")))
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(signal.Signals(number).name))
(records / f"listens.{me}").touch()
end = time.monotonic() + float(os.environ.get("RUN_SECONDS", "0"))
while not told and time.monotonic() < end:
    time.sleep(0.02)
if told:
    (records / f"signals.{me}").write_text(told[0])
    if "STOPPED" in os.environ:
        stopped = pathlib.Path(os.environ["STOPPED"])
        stopped.parent.mkdir(parents=True, exist_ok=True)
        stopped.touch()
# As runs do: Python gives the signals up as it ends, and one that comes then would kill.
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.exit(int(os.environ.get("RANK_CODE", "0")))
"""
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$RECORDS/srun"
while [ "$1" != bash ]; do
    case $1 in --nodes) nodes=$2; shift 2 ;; --ntasks* | --cpu-bind) shift 2 ;; *) shift ;; esac
done
forward() { for task in "${tasks[@]}"; do kill -s "$1" "$task" 2>/dev/null; done; }
trap 'forward USR1' USR1
trap 'forward TERM' TERM
for ((node = 0; node < nodes; node++)); do
    SLURM_NODEID=$node SLURM_PROCID=$node SLURM_LOCALID=0 "$@" &
    tasks+=($!)
done
code=0
for task in "${tasks[@]}"; do
    while :; do
        wait "$task"
        got=$?
        kill -0 "$task" 2>/dev/null || break
    done
    wait "$task"
    got=$?
    [ $got -le $code ] || code=$got
done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$RECORDS/scontrol"
[ "$1 $2" != "show hostnames" ] || printf '%s\\n' node-a7 node-b1
"""
# In the batch script python reads where the recipe's output lies; the real one needs seconds for that.
PYTHON = """#!/usr/bin/env bash
echo "python $*" >>"$RECORDS/python"
echo out/run
"""


class Cluster:
    """A working copy of the scripts, with a recipe, and stubs in the place of everything they start."""

    def __init__(self, root: Path) -> None:
        self.root, self.records = root / "copy", root / "records"
        self.records.mkdir(parents=True)
        for name in ("scripts", "ds_configs", "recipes", "bin"):
            (self.root / name).mkdir(parents=True)
        for name in SCRIPTS:
            shutil.copy(REPO / "scripts" / name, self.root / "scripts" / name)
        for engine in ("zero2", "zero3"):
            (self.root / "ds_configs" / f"{engine}.yaml").touch()
        (self.root / "recipes/a.yaml").touch()
        stubs = {"accelerate": LAUNCHER, "torchrun": LAUNCHER, "srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}
        for name, text in stubs.items():
            stub = root / "bin" / name
            stub.parent.mkdir(exist_ok=True)
            stub.write_text(text)
            stub.chmod(0o755)
        own = {"NUM_MACHINES", "MACHINE_RANK", "MAIN_ADDRESS", "MAIN_PORT", "GPUS_PER_MACHINE", "ENGINE", "LAUNCHER"}
        kept = {name: value for name, value in os.environ.items() if name not in own and not name.startswith("SLURM")}
        (self.records / "rank.py").write_text(RANK)
        self.stopped = self.root / "out/run/stopped.json"
        own_path = f"{root / 'bin'}:{os.environ['PATH']}"
        self.environment = {**kept, "PATH": own_path, "RECORDS": str(self.records), "PYTHON": sys.executable}

    def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start a script in the background; `variables` go into its environment."""
        return subprocess.Popen(
            ["bash", f"scripts/{script}", *arguments],
            cwd=self.root,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """What SLURM does for `sbatch --nodes 2 --gpus-per-node 2 scripts/train_slurm.sbatch`: run a copy elsewhere."""
        spooled = self.root / "scripts/slurm_script"
        shutil.copy(self.root / "scripts/train_slurm.sbatch", spooled)
        job = {
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node-[a7,b1]",
            "SLURM_GPUS_ON_NODE": "2",
            "SLURM_SUBMIT_DIR": str(self.root),
        }
        return self.start("slurm_script", *arguments, **{**job, **variables})

    def wait_for(self, pattern: str, count: int, seconds: float = 10) -> None:
        """Wait until so many records match."""
        end = time.monotonic() + seconds
        while len(list(self.records.glob(pattern))) < count:
            assert time.monotonic() < end, f"no {count} records {pattern} in {seconds} s: {os.listdir(self.records)}"
            time.sleep(0.02)

    def told(self, name: str) -> str:
        """What was recorded under a name; nothing, if nothing was."""
        path = self.records / name
        return path.read_text() if path.exists() else ""

    def signals(self) -> dict[str, str]:
        """Each rank's signals, by `machine.rank`."""
        return {path.suffixes[0][1:] + path.suffixes[1]: path.read_text() for path in self.records.glob("signals.*")}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def line(rank: int, *, machines: int = 2, address: str = "node-a7", port: int = 24567, engine: str = "zero2") -> str:
    """What `accelerate` must be told on a machine with two GPUs."""
    return (
        f"accelerate launch --config_file ds_configs/{engine}.yaml --num_machines {machines} "
        f"--num_processes {2 * machines} --machine_rank {rank} --main_process_ip {address} --main_process_port {port} "
        "--rdzv_backend static --deepspeed_multinode_launcher standard "
        "-m vista_train.train recipes/a.yaml train.steps=9 name=two words\n"
    )


ARGUMENTS = ("recipes/a.yaml", "train.steps=9", "name=two words")
EVERY_RANK = {f"{machine}.{rank}": "SIGUSR1" for machine in (0, 1) for rank in (0, 1)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    done = subprocess.run(["bash", "-n", REPO / "scripts" / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_slurm_launches_exactly_this_on_each_node(cluster: Cluster) -> None:
    job = cluster.submit(*ARGUMENTS)
    assert job.wait(20) == 0, job.communicate()
    assert [cluster.told("launch.0"), cluster.told("launch.1")] == [line(0), line(1)]
    assert cluster.told("scontrol") == "scontrol show hostnames node-[a7,b1]\n"
    assert cluster.told("srun") == (
        "srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1 --wait=60 bash -c "
        'MACHINE_RANK=$SLURM_NODEID exec bash scripts/train_multinode.sh "$@" train_multinode '
        "recipes/a.yaml train.steps=9 name=two words\n"
    )
    assert cluster.told("python").endswith("recipes/a.yaml train.steps=9 name=two words\n")


def test_slurm_asks_for_what_a_requeue_needs() -> None:
    wanted = (REPO / "scripts/train_slurm.sbatch").read_text().splitlines()
    for option in ("--ntasks-per-node=1", "--signal=B:USR1@300", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {option}" in wanted


def test_time_limit_reaches_every_rank_and_requeues(cluster: Cluster) -> None:
    job = cluster.submit(*ARGUMENTS, RUN_SECONDS="20", STOPPED=str(cluster.stopped))
    cluster.wait_for("listens.*", 4)
    job.send_signal(signal.SIGUSR1)
    printed, errors = job.communicate(timeout=20)
    assert job.returncode == 0, errors
    assert cluster.signals() == EVERY_RANK
    assert cluster.told("scontrol").splitlines()[1:] == ["scontrol requeue 1234567"]
    assert "job 1234567 goes back in the queue" in printed


@pytest.mark.parametrize(
    ("sent", "code", "saves"),
    [
        pytest.param(signal.SIGUSR1, 1, True, id="ranks failed after saving"),
        pytest.param(signal.SIGUSR1, 0, False, id="run was finished as the signal came"),
        pytest.param(signal.SIGTERM, 0, True, id="somebody cancelled the job"),
    ],
)
def test_everything_else_is_not_requeued(cluster: Cluster, sent: signal.Signals, code: int, saves: bool) -> None:
    stopped = {"STOPPED": str(cluster.stopped)} if saves else {}
    job = cluster.submit(*ARGUMENTS, RUN_SECONDS="20", RANK_CODE=str(code), **stopped)
    cluster.wait_for("listens.*", 4)
    job.send_signal(sent)
    assert job.wait(20) == code, job.communicate()
    assert cluster.signals() == EVERY_RANK
    assert "requeue" not in cluster.told("scontrol")


def test_a_failure_is_passed_on(cluster: Cluster) -> None:
    cluster.stopped.parent.mkdir(parents=True)
    cluster.stopped.touch()
    job = cluster.submit(*ARGUMENTS, RANK_CODE="7")
    assert job.wait(20) == 1, job.communicate()
    assert "requeue" not in cluster.told("scontrol")


@pytest.mark.parametrize("script", ["train_multinode.sh", "train_torchrun.sh"])
@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_to_script_reaches_ranks_not_launcher(cluster: Cluster, script: str, sent: signal.Signals) -> None:
    (cluster.root.parent / "bin/python").write_text("#!/usr/bin/env bash\n")
    run = cluster.start(script, "recipes/a.yaml", GPUS_PER_MACHINE="2", RUN_SECONDS="20")
    cluster.wait_for("listens.*", 2)
    run.send_signal(sent)
    assert run.wait(20) == 0, run.communicate()
    assert cluster.signals() == {"0.0": "SIGUSR1", "0.1": "SIGUSR1"}


def test_real_launcher_returns_0_after_a_stop(cluster: Cluster) -> None:
    """Two processes of the real accelerate, on a CPU: told by SIGTERM to script and launcher, as a scheduler may."""
    (cluster.root / "vista_train").mkdir()
    (cluster.root / "vista_train/__init__.py").touch()
    (cluster.root / "vista_train/train.py").write_text('import os, sys\nsys.argv[1] = os.environ["RANK"]\n' + RANK)
    shutil.copy(REPO / "ds_configs/cpu_2.yaml", cluster.root / "ds_configs")
    variables = {"ENGINE": "cpu_2", "GPUS_PER_MACHINE": "2", "MAIN_PORT": str(_free_port()), "RUN_SECONDS": "20"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = cluster.start("train_multinode.sh", "recipes/a.yaml", PATH=path, ACCELERATE_USE_CPU="1", **variables)
    cluster.wait_for("listens.*", 2, seconds=60)
    for process in (*_children(run.pid), run.pid):
        os.kill(process, signal.SIGTERM)
    assert run.wait(30) == 0, run.communicate()
    assert sorted(path.name for path in cluster.records.glob("signals.*")) == ["signals.0", "signals.1"]


def test_a_rank_still_importing_is_asked_again(cluster: Cluster) -> None:
    run = cluster.start(
        "train_multinode.sh", "recipes/a.yaml", GPUS_PER_MACHINE="2", RUN_SECONDS="20", IMPORT_SECONDS="1"
    )
    cluster.wait_for("launch.0", 1)
    run.send_signal(signal.SIGUSR1)
    assert run.wait(20) == 0, run.communicate()
    assert cluster.signals() == {"0.0": "SIGUSR1", "0.1": "SIGUSR1"}


def test_signal_to_the_whole_step_stops_ranks_alone(cluster: Cluster) -> None:
    """`scancel --signal=USR1 <job>` may reach every process: script, launcher and ranks."""
    run = cluster.start("train_multinode.sh", "recipes/a.yaml", GPUS_PER_MACHINE="2", RUN_SECONDS="20")
    cluster.wait_for("listens.*", 2)
    launcher = _children(run.pid)
    for process in (*launcher, *(rank for parent in launcher for rank in _children(parent)), run.pid):
        # A rank that the launcher has told may have ended by now.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGUSR1)
    assert run.wait(20) == 0, run.communicate()
    assert sorted(cluster.signals()) == ["0.0", "0.1"]


def test_interrupt_ends_the_launcher(cluster: Cluster) -> None:
    run = cluster.start("train_multinode.sh", "recipes/a.yaml", GPUS_PER_MACHINE="2", RUN_SECONDS="20")
    cluster.wait_for("listens.*", 2)
    run.send_signal(signal.SIGINT)
    assert run.wait(20) == 1
    assert cluster.signals() == {}


def test_one_machine_needs_no_address(cluster: Cluster) -> None:
    run = cluster.start("train_multinode.sh", *ARGUMENTS, GPUS_PER_MACHINE="2")
    assert run.wait(20) == 0, run.communicate()
    assert cluster.told("launch.0") == line(0, machines=1, address="127.0.0.1", port=29500)


def test_torchrun_has_the_same_variables(cluster: Cluster) -> None:
    (cluster.root.parent / "bin/python").write_text("#!/usr/bin/env bash\necho export ACCELERATE_SEEN=\"'a b'\"\n")
    where = {"NUM_MACHINES": "3", "MACHINE_RANK": "2", "MAIN_ADDRESS": "10.0.0.1", "MAIN_PORT": "31000"}
    run = cluster.start("train_torchrun.sh", *ARGUMENTS, GPUS_PER_MACHINE="2", **where)
    assert run.wait(20) == 0, run.communicate()
    assert cluster.told("launch.2") == (
        "torchrun --nnodes 3 --nproc-per-node 2 --node-rank 2 --master-addr 10.0.0.1 --master-port 31000 "
        "--rdzv-backend static --max-restarts 0 -m vista_train.train recipes/a.yaml train.steps=9 name=two words\n"
    )
    assert "ACCELERATE_SEEN=a b\n" in cluster.told("environment.2")


def test_torchrun_sets_what_accelerate_sets(cluster: Cluster) -> None:
    """For a ZeRO engine, by the real accelerate."""
    (cluster.root.parent / "bin/python").unlink()
    (cluster.root / "ds_configs/zero3.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\nnum_machines: 1\nnum_processes: 8\n"
        "mixed_precision: bf16\ndeepspeed_config:\n  deepspeed_config_file: ds_configs/zero3.json\n"
        "  zero3_init_flag: false\n"
    )
    path = f"{cluster.root.parent / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = cluster.start("train_torchrun.sh", "recipes/a.yaml", PATH=path, GPUS_PER_MACHINE="2", ENGINE="zero3")
    assert run.wait(30) == 0, run.communicate()
    seen = cluster.told("environment.0").splitlines()
    assert {
        "ACCELERATE_USE_DEEPSPEED=true",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE=ds_configs/zero3.json",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT=false",
        "ACCELERATE_CONFIG_DS_FIELDS=deepspeed_config_file,zero3_init_flag,mixed_precision",
        "ACCELERATE_MIXED_PRECISION=bf16",
    } <= set(seen)


def test_environment_is_set_only_where_the_user_did_not(cluster: Cluster) -> None:
    users = {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "3", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}
    run = cluster.start("train_multinode.sh", "recipes/a.yaml", GPUS_PER_MACHINE="2", **users)
    assert run.wait(20) == 0, run.communicate()
    seen = cluster.told("environment.0").splitlines()
    assert {f"{name}={value}" for name, value in users.items()} <= set(seen)
    assert "PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT" in seen
    assert not any(entry.startswith("PYTORCH_ALLOC_CONF=") for entry in seen)


SEVERAL = {"NUM_MACHINES": "2", "GPUS_PER_MACHINE": "2"}


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        ((), {}, "no recipe given; usage: bash scripts/train_multinode.sh recipe.yaml [key=value ...]"),
        (("recipes/b.yaml",), {}, "there is no recipe 'recipes/b.yaml' (paths are taken from {root})"),
        (("recipes/a.yaml",), SEVERAL, "MACHINE_RANK is not set; give each of 2 machines its own, from 0"),
        (
            ("recipes/a.yaml",),
            {**SEVERAL, "MACHINE_RANK": "1"},
            "MAIN_ADDRESS is not set; name machine 0 as the others reach it",
        ),
        (
            ("recipes/a.yaml",),
            {**SEVERAL, "MACHINE_RANK": "2", "MAIN_ADDRESS": "a"},
            "MACHINE_RANK is '2'; with NUM_MACHINES 2 it is a number from 0 to 1",
        ),
        (
            ("recipes/a.yaml",),
            {**SEVERAL, "MACHINE_RANK": "$SLURM_NODEID", "MAIN_ADDRESS": "a"},
            "MACHINE_RANK is '$SLURM_NODEID'; with NUM_MACHINES 2 it is a number from 0 to 1",
        ),
        (("recipes/a.yaml",), {"NUM_MACHINES": "two"}, "NUM_MACHINES is 'two'; it says how many machines take part"),
        (("recipes/a.yaml",), {"ENGINE": "zero9"}, "ENGINE is 'zero9', but there is no ds_configs/zero9.yaml"),
        (
            ("recipes/a.yaml",),
            {"GPUS_PER_MACHINE": "0"},
            "GPUS_PER_MACHINE is '0'; it says how many processes run here (unset: the GPUs that nvidia-smi lists)",
        ),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(
    cluster: Cluster, arguments: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    run = cluster.start("train_multinode.sh", *arguments, **variables)
    printed, errors = run.communicate(timeout=20)
    assert (run.returncode, printed) == (2, "")
    assert errors == f"train_multinode: {sentence.format(root=cluster.root)}\n"
    assert cluster.told("launch.0") == ""


@pytest.mark.parametrize(
    ("submit", "sentence"),
    [
        (lambda cluster: cluster.submit(), "no recipe given; usage: sbatch --nodes 2 "),
        (
            lambda cluster: cluster.submit("recipes/b.yaml"),
            "there is no recipe 'recipes/b.yaml' (paths are taken from ",
        ),
        (lambda cluster: cluster.submit("recipes/a.yaml", SLURM_GPUS_ON_NODE=""), "SLURM gave the job no GPUs; "),
        (
            lambda cluster: cluster.submit("recipes/a.yaml", SLURM_SUBMIT_DIR="/"),
            "no scripts/train_multinode.sh in /; submit from the repository's root",
        ),
        (lambda cluster: cluster.start("train_slurm.sbatch", "recipes/a.yaml"), "this is not a SLURM job; submit it: "),
    ],
)
def test_a_bad_submission_is_told_in_a_sentence(
    cluster: Cluster, submit: Callable[[Cluster], subprocess.Popen[str]], sentence: str
) -> None:
    job = submit(cluster)
    errors = job.communicate(timeout=20)[1]
    assert job.returncode == 2
    assert errors.startswith(f"train_slurm: {sentence}")
    assert errors.count("\n") == 1
    assert cluster.told("srun") == ""


def test_a_faulty_recipe_stops_the_job_before_any_node_starts(cluster: Cluster) -> None:
    stub = "#!/usr/bin/env bash\necho 'train_slurm: train.stepz is not a key' >&2\nexit 1\n"
    (cluster.root.parent / "bin/python").write_text(stub)
    job = cluster.submit(*ARGUMENTS)
    errors = job.communicate(timeout=20)[1]
    assert (job.returncode, errors) == (2, "train_slurm: train.stepz is not a key\n")
    assert cluster.told("srun") == ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
