"""What `experiments.ls` tells of runs that are done, run, wait or have stopped; what it ends and submits again."""

import fcntl
import json
import os
import platform
import signal
import stat
import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from experiments import ls
from experiments.monitor.run_status import find_runs
from experiments.study.spec import StudyError
from pretraining.runs.directory import RunDirectory
from tests.experiments import fabricated

ROWS = "step,time,train/loss,validation/loss\n10,5.0,3.0,\n20,10.0,2.5,2.75\n30,15.0,2.25,\n"


def make_run(path, *, job=None, pid=None, log=None, done=False, task=None):
    path.mkdir(parents=True)
    trainer = {"max_steps": 50, "devices": 2, "num_nodes": 3, "accelerator": "cuda"}
    (path / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer} | ({"task": task} if task else {})))
    (path / "overrides.txt").write_text("objective=simclr\nrun_dir=elsewhere\nname='a b'\n")
    (path / "metrics.csv").write_text(ROWS)
    (path / ".lock").write_text(json.dumps({"host": platform.node(), "pid": pid, "job": job, "log": log}))
    if done:
        (path / "metrics.json").write_text(json.dumps({"validation/loss": 2.0}))
    return path


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Put commands in the path that note what they were asked, and a queue of three jobs."""
    place = tmp_path / "slurm"
    place.mkdir()
    script = (
        f'#!/bin/sh\necho "$(basename $0) $@" >> {place}/asked\n[ "$(basename $0)" != squeue ] || cat {place}/queue\n'
    )
    script += '[ "$(basename $0)" != sbatch ] || echo 77\n'
    for name in ("sbatch", "squeue", "scancel"):
        (place / name).write_text(script)
        (place / name).chmod(0o755 | stat.S_IEXEC)
    (place / "queue").write_text("11|RUNNING|0:10|None\n12_3|PENDING|0:00|Priority\n13|FAILED|1:00|None\n")
    monkeypatch.setenv("PATH", str(place), prepend=":")
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def found(directory):
    return {run.path.name: run for run in find_runs(directory, ls.slurm.queue() if ls.slurm.is_here() else {})}


def test_a_run_is_done_running_pending_or_stopped_and_says_how_far_it_is(tmp_path, queue):
    make_run(tmp_path / "runs" / "done", done=True)
    make_run(tmp_path / "runs" / "far", job="11")
    make_run(tmp_path / "runs" / "waits", job="12_3")
    make_run(tmp_path / "runs" / "dead", job="13", task={"_target_": "x"})
    runs = found(tmp_path / "runs")
    assert {name: run.status for name, run in runs.items()} == {
        "done": "done",
        "far": "running",
        "waits": "pending",
        "dead": "stopped",
    }
    assert runs["done"].value == "validation/loss 2.000" and runs["dead"].value == "train/loss 2.250"
    assert str(runs["far"].position) == "30 of 50" and runs["far"].seconds_left == pytest.approx(20 * 10 / 20)
    assert [runs[name].package for name in ("far", "dead")] == ["pretraining", "finetuning"]


TAGGER = {"test/accuracy": 0.926, "test/entity_f1": 0.0, "test/entity_f1_low": 0.0, "test/entity_f1_high": 0.0}
PAIRS = {"test/accuracy": 0.665, "test/accuracy_low": 0.64, "test/accuracy_high": 0.69, "test/f1_macro": 0.4}


def finished(path, numbers, select):
    run = make_run(path, done=True, task={"_target_": "x", "select": select})
    (run / "metrics.json").write_text(json.dumps(numbers))
    return run


def test_a_run_is_headed_by_the_metric_that_it_selects_by(tmp_path, no_slurm):
    finished(tmp_path / "runs" / "tags", TAGGER, "entity_f1")
    finished(tmp_path / "runs" / "pairs", PAIRS, "accuracy")
    finished(tmp_path / "runs" / "texts", {"test/loss": 2.5, "test/bleu": 1.0}, "-loss")
    make_run(tmp_path / "runs" / "goes_on", task={"_target_": "x", "select": "entity_f1"})
    rows = "step,time,validation/loss,validation/entity_f1\n10,5.0,3.0,0.25\n"
    (tmp_path / "runs" / "goes_on" / "metrics.csv").write_text(rows)
    assert {name: run.value for name, run in found(tmp_path / "runs").items()} == {
        "tags": "test/entity_f1 0.000 [0.000, 0.000]",
        "pairs": "test/accuracy 0.665 [0.640, 0.690]",
        "texts": "test/loss 2.500",
        "goes_on": "validation/entity_f1 0.250",
    }


def test_a_run_that_predicts_one_class_says_what_a_constant_gives(tmp_path, no_slurm, monkeypatch):
    run = finished(tmp_path / "runs" / "tags", TAGGER, "entity_f1")
    monkeypatch.setattr(fabricated, "CLASSES", ["O", "B-PER"])
    fabricated.write_predictions(run, [0] * 926 + [1] * 74, [0] * 1000)
    value = found(tmp_path / "runs")["tags"].value
    assert value == "test/entity_f1 0.000 [0.000, 0.000]; predicts 'O' alone; always 'O' would give accuracy 0.926"
    pairs = finished(tmp_path / "runs" / "pairs", PAIRS, "accuracy")
    monkeypatch.setattr(fabricated, "CLASSES", ["other", "equivalent"])
    fabricated.write_predictions(pairs, [1] * 665 + [0] * 335, [0] * 170 + [1] * 830)  # no better, though not constant
    value = found(tmp_path / "runs")["pairs"].value
    assert value == "test/accuracy 0.665 [0.640, 0.690]; always 'equivalent' would give accuracy 0.665"
    fabricated.write_predictions(pairs, [1] * 500 + [0] * 500, [0] * 170 + [1] * 830)
    assert found(tmp_path / "runs")["pairs"].value == "test/accuracy 0.665 [0.640, 0.690]"


def test_a_process_that_holds_the_lock_runs_and_can_be_ended(tmp_path, no_slurm, capsys):
    process = subprocess.Popen(["/bin/sleep", "60"])
    path = make_run(tmp_path / "runs" / "mine", pid=process.pid, log="logs/some.log")
    with (path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found(tmp_path / "runs")["mine"].status == "running"
        assert ls.main([str(tmp_path / "runs"), "--cancel"]) == 0
        assert process.wait(10) == -signal.SIGTERM
    assert found(tmp_path / "runs")["mine"].status == "stopped"
    assert ls.main([str(tmp_path / "runs")]) == 0
    told = capsys.readouterr().out
    assert "1 process(es)" in told and "output in logs/some.log" in told


def test_the_lock_of_a_real_run_directory_says_who_works_in_it(tmp_path, no_slurm):
    config = OmegaConf.create({"trainer": {"max_steps": 5}, "seed": 1})
    directory = RunDirectory.claim(tmp_path / "runs" / "mine", config, resume="none", overrides=["seed=1"])
    run = found(tmp_path / "runs")["mine"]
    assert (run.status, run.pid, run.job) == ("running", os.getpid(), None)
    (directory.path / "metrics.csv").write_text(ROWS)  # a directory without a step would be removed
    directory.release()
    assert found(tmp_path / "runs")["mine"].status == "stopped"


def test_jobs_are_cancelled_and_what_stopped_is_submitted_again_in_its_shape(tmp_path, queue, capsys):
    for name, job in {"far": "11", "waits": "12_3", "dead": "13"}.items():
        make_run(tmp_path / "runs" / name, job=job)
    assert ls.main(["runs", "--cancel"]) == 0
    assert "scancel 11 12_3" in (queue / "asked").read_text()
    assert ls.main(["runs", "--resubmit-failed", "--partition=gpu", "--nodes=4"]) == 0
    (line,) = [line for line in (queue / "asked").read_text().splitlines() if line.startswith("sbatch")]
    assert "--nodes=4 --ntasks-per-node=2 --gpus-per-node=2 --partition=gpu" in line
    assert line.endswith("slurm/pretrain.sbatch objective=simclr name='a b' run_dir=runs/dead resume=auto")
    assert "job 77: runs/dead" in capsys.readouterr().out


def test_without_slurm_the_command_that_continues_a_run_is_said(tmp_path, no_slurm, capsys):
    make_run(tmp_path / "runs" / "dead")
    assert ls.main(["--resubmit-failed"]) == 0
    assert (
        capsys.readouterr().out
        == "python -m pretraining objective=simclr 'name='\"'\"'a b'\"'\"'' run_dir=runs/dead resume=auto\n"
    )


def test_a_cluster_that_does_not_answer_is_said_and_needed_only_to_end_or_submit(tmp_path, queue, capsys):
    make_run(tmp_path / "runs" / "mine")
    (queue / "squeue").write_text("#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    assert ls.main(["runs"]) == 0
    said = capsys.readouterr()
    assert "mine" in said.out and said.err == "ls: squeue says: no such host: how jobs are doing is not known\n"
    for asked in ("--cancel", "--resubmit-failed"):
        with pytest.raises(StudyError, match=r"^squeue says: no such host$"):
            ls.main(["runs", asked])


def test_columns_are_chosen_and_sorted_by_settings_and_numbers(tmp_path, no_slurm, capsys):
    for rate, value in ((0.001, 2.5), (0.01, 1.5), (0.1, 9.0)):
        run = make_run(tmp_path / "runs" / f"rate_{rate}", done=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"optimizer": {"peak_lr": rate}, "trainer": {}}))
        (run / "metrics.json").write_text(json.dumps({"validation/loss": value}))
    make_run(tmp_path / "runs" / "goes_on")
    (make_run(tmp_path / "runs" / "begun") / "metrics.csv").unlink()
    assert ls.main(["--columns", "run,optimizer.peak_lr,validation/loss", "--sort", "validation/loss"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = lines.index(["run", "optimizer.peak_lr", "validation/loss"])
    assert lines[head + 2 : head + 7] == [
        ["rate_0.01", "0.01", "1.5"],
        ["rate_0.001", "0.001", "2.5"],
        ["goes_on", "2.75"],  # its latest
        ["rate_0.1", "0.1", "9"],
        ["begun"],  # what has no such number comes last
    ]
    assert ls.main(["--columns", "validation/loss"]) == 0  # whose is it?
    assert ["rate_0.01", "1.5"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ls.main(["--sort=-optimizer.peak_lr", "--columns=run"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "rate_" in line]
    assert [line.strip() for line in printed] == ["rate_0.1", "rate_0.01", "rate_0.001"]
    with pytest.raises(StudyError, match=r"optimiser\.peak_lr: no run has that"):
        ls.main(["--columns", "run,optimiser.peak_lr"])


def test_where_names_differ_is_never_cut(tmp_path, no_slurm, capsys):
    shared = "a-long-name-of-a-sweep-" * 4
    for end in ("seed-1", "seed-2"):
        make_run(tmp_path / "runs" / ("deep-" * 20) / f"{shared}{end}", done=True, task={"_target_": "x" * 60})
    assert ls.main([str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    joined = "".join(line.split("finetuning")[0].strip() for line in out.splitlines())
    assert f"{shared}seed-1" in joined and f"{shared}seed-2" in joined and "…" not in out


def test_what_is_asked_wrongly_is_refused(tmp_path, no_slurm, capsys):
    assert ls.main([str(tmp_path / "nowhere")]) == 1
    with pytest.raises(SystemExit):
        ls.main(["--partition=gpu"])
    assert "go with --resubmit-failed" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ls"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
        check=False,
    )
    assert done.returncode == 0 and "no runs or studies in runs and studies" in done.stdout
