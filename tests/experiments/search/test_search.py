"""A search over a pretraining's settings: shared by workers, ended early where hopeless, continued after a kill."""

import csv
import json
import math
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pretraining.launch
from experiments.search import __main__ as search
from experiments.search.__main__ import parse_space
from experiments.search.worker import Plan, Worker
from experiments.study.spec import StudyError
from pretraining.cli.compose import compose
from pretraining.errors import RunError

pytest.importorskip("optuna", reason="needs the extra tune")
RATE = {"optimizer.peak_lr": {"low": 1e-4, "high": 1e-1, "log": True, "int": False}}


def plan(directory, **changes):
    known = {
        "fixed": ("objective=simclr",),
        "space": RATE,
        "trials": 6,
        "metric": "validation/loss",
        "goal": "minimize",
    }
    return Plan(**({"directory": directory, "pruner": "none", "seed": 0} | known | changes))


def loss_at(rate):
    return abs(math.log10(rate) + 2.5)


def pretend(config, overrides, observers):
    """Be a pretraining whose loss depends on the rate alone, measured ten times on the way."""
    values = dict(word.split("=", 1) for word in overrides)
    run_dir, rate = Path(values["run_dir"]), float(values["optimizer.peak_lr"])
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "begun").open("a") as file:
        file.write("x")
    for step in range(10, 101, 10):
        for observer in observers:
            observer.log_metrics({"validation/loss": loss_at(rate) + 1 / step}, step)
    (run_dir / "metrics.json").write_text(json.dumps({"validation/loss": loss_at(rate)}))


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    monkeypatch.setattr(pretraining.launch, "main", pretend)
    monkeypatch.setattr(pretraining.launch, "compose", lambda overrides: overrides)


def begun(directory):
    return [len(path.read_text()) for path in directory.glob("runs/*/begun")]


def test_what_varies_is_told_from_what_stands():
    varied = [
        "optimizer.peak_lr=tag(log, interval(1e-4, 1e-1))",
        "seed=1,2",
        "optimizer.warmup_steps=int(interval(1, 9))",
    ]
    space, fixed = parse_space(["objective=simclr", *varied])
    assert space == {**RATE, "seed": [1, 2], "optimizer.warmup_steps": {"low": 1, "high": 9, "log": False, "int": True}}
    assert fixed == ("objective=simclr",)
    with pytest.raises(StudyError, match="nothing varies"):
        parse_space(["objective=simclr"])
    with pytest.raises(StudyError, match="places and resumes its trials itself"):
        parse_space(["seed=1,2", "run_dir=here"])


def test_a_new_key_is_searched_as_it_is_set(tmp_path):
    space, fixed = parse_space(["+logger.note=a,b", "objective=simclr", "+data.more={x: 1}"])
    assert space == {"+logger.note": ["a", "b"]} and fixed == ("objective=simclr", "+data.more={x: 1}")
    search.check(plan(tmp_path, fixed=fixed, space=space))


@pytest.mark.parametrize(
    ("varied", "words"),
    [
        ("tag(log, interval(0, 1))", "optimizer.peak_lr=tag(log, interval(0, 1)): a logarithm needs bounds above 0"),
        ("tag(log, interval(-1, 1))", "a logarithm needs bounds above 0"),
        ("interval(1e-1, 1e-4)", "optimizer.peak_lr=interval(1e-1, 1e-4): from 0.1 to 0.0001 is no interval"),
        ("int(interval(9, 1))", "from 9 to 1 is no interval"),
        ("interval(0, inf)", "from 0.0 to inf is no interval"),
        ("[1, 2", "close brackets and quotes"),
    ],
)
def test_an_interval_that_cannot_be_drawn_from_is_refused_in_a_line(varied, words):
    with pytest.raises((StudyError, RunError)) as caught:
        parse_space([f"optimizer.peak_lr={varied}", "seed=1,2"])
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        ["optimizer.peak_lr=interval(1e-3, 1)", "optimizer.momentum=interval(0, 2)", "optimizer=sgd"],
        ["optimizer.peak_lr=1e-3,-1"],
        ["optimizer=adamw,adamm"],
    ],
)
def test_every_choice_and_both_ends_are_checked_before_any_trial(given, tmp_path):
    space, fixed = parse_space(given)
    with pytest.raises(RunError, match=r"momentum=2|peak_lr=-1|optimizer=adamm"):
        search.check(plan(tmp_path, fixed=fixed, space=space))


@pytest.mark.parametrize("option", ["--trials=0", "--trials=-3", "--seed=-1"])
def test_an_option_out_of_its_range_is_refused(option):
    with pytest.raises(RunError, match=rf"{option}: give a whole number"):
        search.parse([option, "seed=1,2"])


NAMES = ["a b", "it's", "1", "true", "x=y", "plain", "$HOME", "1e-3"]


def test_the_printed_command_is_what_the_best_trial_ran(tmp_path, capsys):
    names = ",".join("'{}'".format(name.replace("'", "\\'")) for name in NAMES)
    varied = [f"name={names}", "optimizer.betas=[0.9,0.98],[0.8, 0.9]", "logger.wandb.tags=[new],['of two','1']"]
    fixed = ["objective=simclr", "group='a group'", "optimizer.peak_lr=0.01"]
    space, fixed = parse_space([*fixed, *varied])
    assert space["name"] == NAMES and space["logger.wandb.tags"] == [["new"], ["of two", "1"]]
    for name in NAMES:
        only = {**space, "name": [name]}
        worker = Worker(plan(tmp_path / str(NAMES.index(name)), fixed=fixed, space=only, trials=3))
        worker.work()
        search.report(worker)
        best = capsys.readouterr().out.splitlines()[-1].removeprefix("best: ")
        row = search.list_results(worker)[0]
        command, config = shlex.split(best), compose(shlex.split(best)[3:])
        assert command[:3] == ["python", "-m", "pretraining"] and config.group == "a group"
        assert config.name == name and config.optimizer.betas == row["optimizer.betas"]
        assert config.logger.wandb.tags == row["logger.wandb.tags"]


@pytest.mark.parametrize("change", [{"fixed": ("objective=mae",)}, {"space": {"seed": [1, 2]}}, {"goal": "maximize"}])
def test_another_search_in_its_directory_is_refused_and_the_same_goes_on(tmp_path, change):
    Worker(plan(tmp_path)).work()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(StudyError, match="holds another search") as caught:
            Worker(plan(tmp_path, **change))
        assert str(tmp_path) in str(caught.value) and "--directory" in str(caught.value)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    Worker(plan(tmp_path, trials=8, seed=3, pruner="median")).work()
    assert begun(tmp_path) == [1] * 8


def test_the_best_trial_is_the_best_that_ran_and_the_table_is_sorted(tmp_path, capsys):
    worker = Worker(plan(tmp_path, trials=12))
    worker.work()
    search.report(worker)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    losses = [float(row["validation/loss"]) for row in rows]
    assert len(rows) == 12 and losses == sorted(losses)
    assert losses == pytest.approx([loss_at(float(row["optimizer.peak_lr"])) for row in rows])
    assert losses[0] < 0.3 < losses[-1]
    best = capsys.readouterr().out.splitlines()[-1]
    assert best == f"best: python -m pretraining objective=simclr optimizer.peak_lr={rows[0]['optimizer.peak_lr']}"


def test_a_second_worker_adds_no_trial_to_a_search_that_has_enough(tmp_path):
    Worker(plan(tmp_path)).work()
    Worker(plan(tmp_path)).work()
    assert begun(tmp_path) == [1] * 6


def test_hopeless_trials_end_early(tmp_path):
    worker = Worker(plan(tmp_path, trials=20, pruner="median"))
    worker.work()
    rows = search.list_results(worker)
    states = [row["state"] for row in rows]
    assert len(rows) == 20 and 0 < states.count("pruned") < 16
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert all(row["steps"] < 100 for row in pruned) and all(
        row["steps"] == 100 for row in rows if row["state"] == "complete"
    )
    assert min(loss_at(row["optimizer.peak_lr"]) for row in pruned) > loss_at(rows[0]["optimizer.peak_lr"])


def test_a_setting_that_cannot_be_trained_with_is_a_failed_trial(tmp_path, monkeypatch):
    def fails(config, overrides, observers):
        if "seed=2" in overrides:
            raise RuntimeError("out of <luck>")
        pretend(config, [*overrides, "optimizer.peak_lr=1e-3"], observers)

    monkeypatch.setattr(pretraining.launch, "main", fails)
    worker = Worker(plan(tmp_path, space={"seed": [1, 2]}, trials=8))
    worker.work()
    rows = search.list_results(worker)
    assert {row["said"] for row in rows if row["state"] == "fail"} == {"RuntimeError: out of <luck>"}
    assert {row["seed"] for row in rows if row["state"] == "complete"} == {1}


def in_process(directory, hold):
    def slow(config, overrides, observers):
        if hold:
            Path(dict(word.split("=", 1) for word in overrides)["run_dir"]).mkdir(parents=True)
            (directory / "held").write_text("\n".join(overrides))
            time.sleep(60)
        pretend(config, overrides, observers)
        time.sleep(0.05)

    pretraining.launch.main = slow
    Worker(plan(directory, trials=8)).work()


def test_a_killed_worker_s_trial_is_carried_out_with_its_settings_by_another(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=in_process, args=(tmp_path, True))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "held").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    worker = Worker(plan(tmp_path, trials=8))
    worker.work()
    held = dict(word.split("=", 1) for word in (tmp_path / "held").read_text().splitlines())
    assert (Path(held["run_dir"]) / "begun").exists()
    assert len(search.list_results(worker)) == 8 and begun(tmp_path) == [1] * 8


def test_workers_share_a_search_and_none_repeats_another_s_trial(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=in_process, args=(tmp_path, False)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert begun(tmp_path) == [1] * 8
    assert len(search.list_results(Worker(plan(tmp_path, trials=8)))) == 8


@pytest.mark.slow
def test_a_real_search_trains_and_prints_its_best(tmp_path, cache_dir):
    tiny = [
        "data=digits",
        f"data.cache_dir={cache_dir}",
        "trainer.max_steps=8",
        "trainer.val_every=2",
        "trainer.checkpoint_every=4",
    ]
    quiet = ["logger.wandb.mode=disabled", "trainer.precision=fp32"]
    command = [
        sys.executable,
        "-m",
        "experiments.search",
        "--trials",
        "3",
        "--directory",
        str(tmp_path / "search"),
        "objective=simclr",
    ]
    varied = ["optimizer.peak_lr=tag(log, interval(1e-4, 1e-2))"]
    done = subprocess.run([*command, *tiny, *quiet, *varied], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "best: python -m pretraining objective=simclr data=digits" in done.stdout
    assert len(list(tmp_path.glob("search/runs/*/metrics.json"))) == 3
    mistaken = subprocess.run(
        [*command, "trainer.max_step=3", *varied], capture_output=True, text=True, timeout=300, check=False
    )
    assert mistaken.returncode == 2 and "max_step" in mistaken.stderr
