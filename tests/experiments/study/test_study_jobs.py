"""A study's runs as Slurm jobs, against commands that answer as Slurm's do; tests/slurm has the real one."""

import json
import stat
import sys

import pytest

from experiments.study.graph import expand
from experiments.study.runner import Journal, run_study
from experiments.study.slurm import queue
from experiments.study.slurm_jobs import SlurmJobs
from experiments.study.spec import StudyError
from tests.experiments import fabricated

COMMAND = f"""#!{sys.executable} -S
import json, os, pathlib, sys
place = pathlib.Path(os.environ["FAKE_SLURM"])
jobs = json.loads((place / "jobs.json").read_text())
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if name == "sbatch":
    if (place / "closed").exists():
        sys.exit("sbatch: error: Invalid partition name specified")
    options = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    overrides = dict(word.partition("=")[::2] for word in words if not word.startswith("--"))
    number = str(len(jobs) + 1)
    needed = options.get("dependency", "").removeprefix("afterok:")
    state = "COMPLETED" if not needed or jobs[needed]["state"] == "COMPLETED" else "CANCELLED"
    if (place / "broken").exists() and options["job-name"] in (place / "broken").read_text():
        state = "FAILED"
    if (place / "waiting").exists():
        state = "PENDING"
    jobs[number] = dict(state=state, options=options, overrides=overrides, words=words)
    if state == "COMPLETED":
        run_dir = pathlib.Path(overrides["run_dir"])
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "metrics.json").write_text('{{"test/accuracy": 0.5, "validation/loss": 1.0}}')
    (place / "jobs.json").write_text(json.dumps(jobs))
    print(number + ";cluster")
else:
    for number, job in jobs.items():
        print(f"{{number}}|{{job['state']}}|1-02:03:04|None")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Put a Slurm in the path that keeps its jobs in a file; give its directory."""
    place = tmp_path / "slurm"
    place.mkdir()
    (place / "jobs.json").write_text("{}")
    for name in ("sbatch", "squeue"):
        (place / name).write_text(COMMAND)
        (place / name).chmod(0o755 | stat.S_IEXEC)
    monkeypatch.setenv("FAKE_SLURM", str(place))
    monkeypatch.setenv("PATH", str(place), prepend=":")
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture
def study(tmp_path):
    return expand(fabricated.spec(finetuning_seeds=[1, 2]), directory=tmp_path / "study", resolve=fabricated.resolve)


def carry_out(study, **options):
    settings = {
        "pretraining": {"partition": "gpu", "time": "08:00:00", "qos": None},
        "finetuning": {},
        "at_once": 100,
        "poll_seconds": 0.01,
    }
    executor = SlurmJobs(study.directory, **(settings | options))
    return run_study(study, executor=executor, watch=fabricated.Silent(), retry_failed=False), executor


def jobs(slurm):
    return json.loads((slurm / "jobs.json").read_text())


def test_every_run_is_a_job_that_waits_for_the_one_it_needs(slurm, study):
    status, _ = carry_out(study)
    assert set(status.values()) == {"done"}
    by_name = {job["options"]["job-name"]: (number, job) for number, job in jobs(slurm).items()}
    assert list(by_name) == [node.name for node in study.nodes]
    for node in study.nodes:
        _, job = by_name[node.name]
        assert job["overrides"]["run_dir"] == str(study.run_dir(node)) and job["words"][-1] == "resume=auto"
        if node.needs is None:
            assert (
                job["options"]["partition"] == "gpu"
                and job["options"]["time"] == "08:00:00"
                and "qos" not in job["options"]
            )
        else:
            assert job["options"]["dependency"] == f"afterok:{by_name[node.needs][0]}"
            assert "partition" not in job["options"]
    assert Journal(study.directory).read(study.nodes[0])["seconds"] == 86400 + 2 * 3600 + 3 * 60 + 4
    carry_out(study)
    assert len(jobs(slurm)) == len(study.nodes), "what is done was submitted again"


def test_a_failed_job_is_told_and_what_needs_it_is_skipped(slurm, study):
    broken = study.nodes[0]
    (slurm / "broken").write_text(broken.name)
    status, _ = carry_out(study)
    children = [node.name for node in study.nodes if node.needs == broken.name]
    assert status[broken.name] == "failed" and children
    assert {status[name] for name in children} == {"skipped"}
    assert "Slurm job 1 ended as FAILED" in Journal(study.directory).read(broken)["error"]
    rest = set(status) - {broken.name, *children}
    assert {status[name] for name in rest} == {"done"}


def test_a_second_start_finds_the_jobs_of_the_first(slurm, study):
    (slurm / "waiting").touch()
    executor = SlurmJobs(study.directory, pretraining={}, finetuning={}, at_once=2, poll_seconds=0.01)
    executor.submit(study.nodes[0])
    (slurm / "waiting").unlink()
    again = SlurmJobs(study.directory, pretraining={}, finetuning={}, at_once=2, poll_seconds=0.01)
    again.submit(study.nodes[0])
    assert list(jobs(slurm)) == ["1"] and again.busy == 1
    state = jobs(slurm)
    state["1"]["state"] = "FAILED"
    (slurm / "jobs.json").write_text(json.dumps(state))
    assert again.next()[0][1]["status"] == "failed"
    assert queue()["1"].state == "FAILED"


def test_no_more_jobs_are_queued_than_asked_for(slurm, study):
    most = 0
    executor = SlurmJobs(study.directory, pretraining={}, finetuning={}, at_once=2, poll_seconds=0.01)
    submit = executor.submit

    def counted(node):
        nonlocal most
        submit(node)
        most = max(most, executor.busy)

    executor.submit = counted
    status = run_study(study, executor=executor, watch=fabricated.Silent(), retry_failed=False)
    assert set(status.values()) == {"done"} and most == 2


def test_what_slurm_refuses_is_told_in_its_words(slurm, study):
    (slurm / "closed").touch()
    with pytest.raises(StudyError, match="sbatch says: sbatch: error: Invalid partition name specified"):
        carry_out(study)


def test_without_slurm_the_executor_says_what_it_needs(study, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="this needs a Slurm cluster, but squeue cannot be run here"):
        SlurmJobs(study.directory, pretraining={}, finetuning={}, at_once=2, poll_seconds=0.01)
