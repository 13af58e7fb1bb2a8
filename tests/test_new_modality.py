"""A modality is a folder of its own: tests/new_modality goes from pretraining to a report, and edits nothing else."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pretraining import handoff
from pretraining.budget import affordable_steps
from pretraining.cli.configuration import compose, instantiate
from pretraining.errors import HandoffError, RunError
from pretraining.launch import build, main
from tests.forked import run_module
from tests.new_modality.signals import SAMPLES, SIGNAL, made

HERE = Path(__file__).parent / "new_modality"
ROOT = Path(__file__).resolve().parents[1]
SEARCH = f"hydra.searchpath=[file://{HERE / 'conf'}]"
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
PRETRAIN = [SEARCH, "objective=fill_in", *QUIET, "trainer.max_steps=150", "trainer.val_every=75"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return main(compose([*PRETRAIN, f"run_dir={tmp_path_factory.mktemp('signals') / 'run'}"]))


def test_a_modality_is_a_folder_of_at_most_200_lines():
    files = [path for path in HERE.rglob("*") if path.suffix in (".py", ".yaml")]
    lines = [line for path in files for line in path.read_text().splitlines() if line.strip()]
    assert len(files) > 5 and len(lines) <= 200, len(lines)
    packages = ["pretraining", "finetuning", "experiments", "conf"]
    command = ["git", "grep", "-lE", "new_modality|SignalInputs", "--", *packages, ":!pretraining/templates"]
    named = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert named == ""


def test_it_is_pretrained_and_counted_in_its_own_unit(pretrained):
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert metrics["validation/fill_in"] < 0.8 * metrics["validation/variance"]  # what predicting the mean would cost
    assert metrics["samples"] == 150 * 24 * SAMPLES and metrics["throughput/samples_per_second"] > 0
    assert metrics["flops"] > 0 and 0.4 < metrics["probe/knn_accuracy"] <= 1.0
    header = (pretrained / "metrics.csv").read_text().splitlines()[0]
    assert ",samples," in header and "tokens" not in header


def test_budgets_are_given_in_its_unit():
    config = compose([*PRETRAIN, "budget.units=76800"])
    settings = instantiate(config.trainer)
    assert affordable_steps(config.budget, settings, build(config)) == 100
    with pytest.raises(RunError, match=r"budget\.tokens .*give budget\.units \(samples\)"):
        affordable_steps({"tokens": 5}, settings, build(config))


def test_a_dry_run_shows_its_examples(tmp_path, capsys):
    main(compose([*PRETRAIN, "dry_run=true", f"run_dir={tmp_path / 'run'}"]))
    assert capsys.readouterr().out.count("signal      [") == 3 and not list(tmp_path.iterdir())


def test_its_hand_off_is_read_by_those_who_ask_for_it_and_by_nobody_else(pretrained):
    last = str(pretrained / "handoff" / "last")
    given = handoff.read(last, modality=SIGNAL)
    assert given.card["towers"]["signal"]["modality"] == "signal" and given.preprocess.std != 1.0
    with pytest.raises(HandoffError, match=r"SignalBackbone|Convolutions.*refused, it may run foreign code"):
        handoff.read(last)


def run(*words, cwd):
    ended = run_module(*words, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_it_is_finetuned_and_predicts_by_the_command_lines(pretrained, tmp_path):
    words = [SEARCH, f"handoff={pretrained / 'handoff' / 'last'}", "task=frequency", "optimizer.peak_lr=1e-2", *QUIET]
    run("finetuning", *words, f"run_dir={tmp_path / 'tuned'}", cwd=ROOT)
    metrics = json.loads((tmp_path / "tuned" / "metrics.json").read_text())
    assert metrics["test/accuracy"] > 0.8  # of three classes
    np.save(tmp_path / "new.npy", made("test")[0])
    said = run("finetuning.predict", f"run_dir={tmp_path / 'tuned'}", f"input={tmp_path / 'new.npy'}", cwd=ROOT)
    expected = pq.read_table(tmp_path / "tuned" / "predictions.parquet").to_pydict()["prediction"]
    assert [json.loads(line)["prediction"] for line in said.splitlines()] == expected


@pytest.mark.slow
def test_a_study_of_it_ends_in_a_report(tmp_path):
    given = ["study=signals", SEARCH, f"study_dir={tmp_path / 'study'}"]
    said = run("experiments", *given, cwd=ROOT)
    assert "Does filling in teach a network to tell frequencies?" in said
    report = (tmp_path / "study" / "report.md").read_text()
    assert "fill_in" in report and (tmp_path / "study" / "report.html").exists()
    rows = (tmp_path / "study" / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2 * 2  # modes, finetuning seeds, and the never-pretrained twins
    assert run("experiments", *given, cwd=ROOT).count("report:") == 1  # what is done is not done again
