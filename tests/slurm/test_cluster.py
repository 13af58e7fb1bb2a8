"""Real jobs on a real Slurm: two virtual nodes on this machine, from Debian's packages; skipped without them."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import assert_same_end, finish, text_overrides, write_corpus

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TWO = ["trainer=ddp", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start a cluster of its own, in a directory of its own; give the environment in which to use it."""
    state = tmp_path_factory.mktemp("cluster")
    state.chmod(0o755)
    environment = os.environ | {"LOCAL_CLUSTER_DIR": str(state), "LOCAL_CLUSTER_PORT": "17817", "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "slurm" / "local_cluster.sh")
    started = subprocess.run([script, "start"], env=environment, capture_output=True, text=True, check=False)
    if started.returncode:
        subprocess.run([script, "stop"], env=environment, check=False)
        # Where Slurm is installed and may be started, a cluster that does not come up is our script's fault.
        able = os.geteuid() == 0 and shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("munged")
        (pytest.fail if able else pytest.skip)(f"no local Slurm cluster: {started.stderr.strip().splitlines()[-1]}")
    yield environment | {
        "SLURM_CONF": str(state / "etc" / "slurm.conf"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    for log in sorted(state.glob("log/slurm*.log")):
        print(f"--- {log.name}", *log.read_text().splitlines()[-15:], sep="\n")
    subprocess.run([script, "stop", "--purge"], env=environment, check=True)
    assert not state.exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Give a directory to submit from."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    extra = ["trainer.accumulate=2", "trainer.max_steps=60", "trainer.val_every=30", "trainer.handoff_every=30"]
    return [*text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir), *extra]


@pytest.fixture(scope="module")
def uninterrupted(overrides, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run"
    assert finish([*overrides, f"run_dir={path}"]) == 0
    return path


def ask(cluster, *command):
    return subprocess.run(command, env=cluster, capture_output=True, text=True, check=True).stdout.strip()


def submit(cluster, place, overrides, *options, **environment):
    """Submit slurm/pretrain.sbatch; returns the job's number."""
    command = [
        "sbatch",
        "--parsable",
        "--cpus-per-task=1",
        *options,
        str(ROOT / "slurm" / "pretrain.sbatch"),
        *overrides,
    ]
    snapshot = {"PRETRAINING_SNAPSHOT": str(ROOT)}  # the scripts beside these tests; nobody edits while they run
    done = subprocess.run(
        command, env=cluster | snapshot | environment, cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def slow(seconds):
    """Give the environment in which checkpoints take so much longer to write."""
    return {"SLOW_WRITES": str(seconds), "PYTHONPATH": f"{ROOT / 'tests' / 'slurm' / 'slow_start'}:{ROOT}"}


def state(cluster, job):
    """Give a job's state and how often it has been requeued."""
    facts = dict(word.partition("=")[::2] for word in ask(cluster, "scontrol", "show", "job", job).split())
    return facts["JobState"], int(facts["Restarts"])


def wait_until(condition, seconds=240, say=lambda: ""):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds} s\n{say()}"
        time.sleep(0.1)


def ended(cluster, place, job, seconds=240):
    """Wait for a job's end; give its last state, its requeues and what it printed."""
    output = place / f"slurm-{job}.out"

    def lasts():  # a job that is being requeued passes through other states for a moment
        found = state(cluster, job)
        if found[0] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"):
            return False
        time.sleep(3)
        return state(cluster, job) == found

    wait_until(lasts, seconds, say=lambda: (state(cluster, job), output.read_text() if output.exists() else ""))
    return *state(cluster, job), output.read_text() if output.exists() else ""


def saved(run_dir, step):
    return (run_dir / "checkpoints" / f"step-{step:07d}.json").exists()


def history(path, columns=("train/loss", "validation/loss", "learning_rate", "examples")):
    with (path / "metrics.csv").open() as file:
        return [[float(row[column]) if row[column] else None for column in columns] for row in csv.DictReader(file)]


def test_two_nodes_with_a_task_each_train_what_one_process_does(cluster, place, overrides, tmp_path):
    exact = [
        "trainer.precision=fp64",
        "backbone.config.hidden_dropout_prob=0",
        "backbone.config.attention_probs_dropout_prob=0",
    ]
    job = submit(cluster, place, [*TWO, *overrides, *exact], "--nodes=2", "--ntasks-per-node=1")
    one = tmp_path / "one"
    assert finish([*overrides, *exact, f"run_dir={one}"]) == 0
    status, _, said = ended(cluster, place, job)
    assert status == "COMPLETED", said
    for ours, theirs in zip(history(place / f"runs/slurm-{job}"), history(one), strict=True):
        assert ours == [None if value is None else pytest.approx(value, abs=1e-9) for value in theirs]


def test_a_preempted_job_requeues_itself_and_ends_the_same(cluster, place, overrides, uninterrupted):
    job = submit(cluster, place, overrides, **slow(0.3))
    path = place / f"runs/slurm-{job}"
    wait_until(lambda: saved(path, 5), say=lambda: (state(cluster, job), (place / f"slurm-{job}.out").read_text()))
    ask(cluster, "scancel", "--signal=USR1", job)
    wait_until(lambda: state(cluster, job)[1] == 1 and saved(path, 20))
    ask(cluster, "scancel", "--signal=USR1", job)
    status, requeues, said = ended(cluster, place, job)
    assert (status, requeues) == ("COMPLETED", 2), said
    assert said.count("stopped by SIGUSR1") == 2 and "is saved: requeued" in said
    assert_same_end(uninterrupted, path)


def test_a_job_that_meets_its_time_limit_goes_on_in_another_life_and_ends_the_same(
    cluster, place, overrides, uninterrupted
):
    # The limit is the shortest there is; Slurm signals at its own pace, here some seconds after the start.
    job = submit(cluster, place, overrides, "--time=1", "--signal=USR1@30", **slow(3))
    status, requeues, said = ended(cluster, place, job, seconds=480)
    assert status == "COMPLETED" and requeues >= 1, said
    assert "stopped by SIGUSR1" in said and "is saved: requeued" in said
    assert_same_end(uninterrupted, place / f"runs/slurm-{job}")


def test_a_job_whose_node_dies_is_requeued_and_ends_the_same(cluster, place, overrides, uninterrupted):
    job = submit(cluster, place, overrides, "--nodelist=n2", **slow(0.5))
    path, folder = place / f"runs/slurm-{job}", Path(cluster["LOCAL_CLUSTER_DIR"])
    wait_until(lambda: saved(path, 5))
    slurmd = int((folder / "run" / "slurmd.n2.pid").read_text())
    for process in [slurmd, *descendants_of_job(job)]:
        os.kill(process, 9)
    ask(cluster, "scontrol", "update", "nodename=n2", "state=down", "reason=died")
    wait_until(lambda: state(cluster, job)[1] == 1)
    ask(cluster, str(ROOT / "slurm" / "local_cluster.sh"), "node", "n2")
    subprocess.run(["scontrol", "update", "nodename=n2", "state=resume"], env=cluster, check=False)
    status, _, said = ended(cluster, place, job)
    assert status == "COMPLETED", said
    assert_same_end(uninterrupted, path)


def descendants_of_job(job):
    """List the processes of a job: those that have its number in their environment, and the slurmstepd above them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            mine = f"SLURM_JOB_ID={job}".encode() in (entry / "environ").read_bytes().split(b"\0")
            step = f"slurmstepd: [{job}.".encode() in (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and (mine or step):
            found.append(int(entry.name))
    return found


def test_a_mistake_is_not_requeued_and_a_crash_a_bounded_number_of_times(cluster, place, overrides):
    mistaken = submit(cluster, place, [*overrides, "trainer.max_step=3"])
    crashing = submit(cluster, place, overrides, PYTHON="/bin/false", MAX_CRASHES="1")
    mismatched = submit(cluster, place, [*overrides, "trainer.devices=1"], "--ntasks-per-node=2")
    status, requeues, said = ended(cluster, place, mistaken)
    assert (status, requeues) == ("FAILED", 0) and "max_step" in said and "not requeued" in said
    status, requeues, said = ended(cluster, place, mismatched)
    assert (status, requeues) == (
        "FAILED",
        0,
    ) and "2 processes were started for trainer.devices=1 x trainer.num_nodes=1" in said
    status, requeues, said = ended(cluster, place, crashing)
    assert (status, requeues) == ("FAILED", 1) and "crashed 2 times" in said


def test_a_sweep_is_a_job_array_whose_jobs_requeue(cluster, place, overrides, uninterrupted, tmp_path):
    launcher = ["hydra/launcher=slurm_cpu", "hydra.launcher.timeout_min=30", "hydra.launcher.cpus_per_task=1"]
    command = [sys.executable, "-m", "pretraining", "-m", *overrides, "seed=1,2", *launcher]
    environment = cluster | slow(0.3)
    sweep = subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(
            lambda: list(place.glob("runs/sweep-*/0-seed-1/checkpoints/step-0000005.json")) or sweep.poll() is not None
        )
        first = next(iter(place.glob("runs/sweep-*/0-seed-1")))
        array = ask(cluster, "squeue", "-h", "-o", "%F").split()[0]
        ask(cluster, "scancel", "--signal=USR2", f"{array}_0")
        _, said = sweep.communicate(timeout=240)
    finally:
        if sweep.poll() is None:
            sweep.kill()
            ask(cluster, "scancel", "--me")
    assert sweep.returncode == 0, said
    assert (first.with_name("1-seed-2") / "metrics.json").exists()  # which may have begun after all of this
    assert ended(cluster, place, f"{array}_0")[:2] == ("COMPLETED", 1)
    log = "".join(path.read_text() for path in sorted(place.glob(f"runs/.submitit/{array}_0/*.out")))
    assert "stopped by SIGUSR2" in log and log.count("Starting with") == 2
    assert_same_end(uninterrupted, first)


def test_a_study_is_jobs_that_wait_for_each_other(cluster, place, cache_dir):
    tiny = [
        "objective=simclr",
        "data=digits",
        f"data.cache_dir={cache_dir}",
        "trainer.max_steps=20",
        "trainer.precision=fp32",
    ]
    quiet = "logger.wandb.mode=disabled"
    parts = ["~study.pretrain.masked_language", "~study.finetune.docs_topic", "study.finetuning_seeds=[1]"]
    parts += [f"study.pretrain.simclr.overrides={[*tiny, quiet]}", "study.finetune.digits.modes=[linear_probe]"]
    parts += [f"study.finetune.digits.overrides={['task=digits', 'trainer.precision=fp32', quiet]}", "study_dir=study"]
    cpu = [f"executor.{kind}.cpus-per-task=1" for kind in ("pretraining", "finetuning")]
    command = [sys.executable, "-m", "experiments", "study=first_look", *parts, "executor=slurm", *cpu]
    running = subprocess.Popen(
        command, cwd=place, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    reasons = set()
    try:
        deadline = time.monotonic() + 240
        while running.poll() is None and time.monotonic() < deadline:
            reasons.update(ask(cluster, "squeue", "-h", "-o", "%r").splitlines())
            time.sleep(0.5)
    finally:
        if running.poll() is None:
            running.kill()
            ask(cluster, "scancel", "--me")
    said, _ = running.communicate()
    logs = "".join(path.read_text() for path in sorted(place.glob("study/logs/*.txt")))
    assert running.returncode == 0, said + logs
    assert "Dependency" in reasons
    assert len(list(place.glob("study/runs/*/metrics.json"))) == 3 and (place / "study" / "report.html").exists()
    again = subprocess.run(command, cwd=place, env=cluster, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "3 of 3 runs are done already" in again.stdout


def test_a_search_is_shared_by_an_array_whose_tasks_requeue(cluster, place, cache_dir):
    tiny = [
        "objective=simclr",
        f"data.cache_dir={cache_dir}",
        "trainer.max_steps=30",
        "trainer.val_every=10",
        "trainer.checkpoint_every=5",
    ]
    quiet = ["trainer.precision=fp32", "logger.wandb.mode=disabled", "optimizer.peak_lr=tag(log, interval(1e-4, 1e-2))"]
    options = ["sbatch", "--parsable", "--array=1-2", "--cpus-per-task=1", str(ROOT / "slurm" / "search.sbatch")]
    command = [*options, "--trials", "3", "--pruner", "none", "--directory", "search", *tiny, *quiet]
    array = subprocess.run(command, env=cluster | slow(0.5), cwd=place, capture_output=True, text=True, check=True)
    number = array.stdout.strip()
    wait_until(lambda: list(place.glob("search/runs/*/checkpoints/step-*.json")))
    ask(cluster, "scancel", "--batch", "--signal=USR1", f"{number}_1")

    def say():
        return "".join(path.read_text() for path in sorted(place.glob(f"slurm-{number}_*.out")))

    wait_until(
        lambda: all(state(cluster, f"{number}_{task}")[0] in ("COMPLETED", "FAILED") for task in (1, 2)), say=say
    )
    assert [state(cluster, f"{number}_{task}")[0] for task in (1, 2)] == ["COMPLETED"] * 2, say()
    assert state(cluster, f"{number}_1")[1] == 1 and "saved: requeued" in say()
    assert len(list(place.glob("search/runs/*/metrics.json"))) == 3 and "best: python -m pretraining" in say()
