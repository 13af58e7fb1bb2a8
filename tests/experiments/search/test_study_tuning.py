"""The same tuning effort for each arm, and hours that become steps before anything runs."""

import json
import math

import pytest

from experiments import launch
from experiments.search.tuning import decide, tune_arms
from experiments.study.graph import expand, list_arms
from experiments.study.runner import Here
from experiments.study.spec import StudyError
from tests.experiments import fabricated

pytest.importorskip("optuna", reason="needs the extra tune")

SPACE = {"optimizer.peak_lr": {"low": 1e-4, "high": 1e-1, "log": True}, "optimizer.warmup_steps": [10, 100]}
TUNE = {"trials": 6, "space": SPACE}


def arms(**changes):
    return list(list_arms(fabricated.spec(**changes), fabricated.resolve))


def search(directory, tune=TUNE, run=fabricated.run):
    said = []
    chosen = tune_arms(arms(), tune, directory, Here(directory, run), said.append)
    return {arm: fabricated.resolve("pretraining", overrides)["optimizer"] for arm, overrides in chosen.items()}, said


def calls(directory):
    return (directory / "calls.txt").read_text().split()


def test_each_arm_gets_as_many_trials_and_its_own_best(tmp_path):
    chosen, said = search(tmp_path, {**TUNE, "trials": 12})
    assert len(calls(tmp_path)) == 2 * 12
    assert abs(-2 - math.log10(chosen["masked_language"]["peak_lr"])) < 0.5
    assert abs(-3 - math.log10(chosen["simclr"]["peak_lr"])) < 0.5
    assert sum("trial 12 of 12" in line for line in said) == 2
    written = json.loads((tmp_path / "tuning.json").read_text())
    assert {arm: found["trials"] for arm, found in written.items()} == {"masked_language": 12, "simclr": 12}


def test_the_best_is_the_best_of_all_that_ran(tmp_path):
    search(tmp_path)
    losses = {}
    for path in tmp_path.glob("runs/trial-*/metrics.json"):
        losses.setdefault(path.parent.name.startswith("trial-simclr"), []).append(
            json.loads(path.read_text())["validation/loss"]
        )
    written = json.loads((tmp_path / "tuning.json").read_text())
    assert written["simclr"]["validation/loss"] == min(losses[True])
    assert written["masked_language"]["validation/loss"] == min(losses[False])


def test_a_search_that_was_killed_goes_on_and_makes_no_trial_twice(tmp_path):
    def killed(command, overrides):
        if len(calls(tmp_path) if (tmp_path / "calls.txt").exists() else []) == 5:
            raise KeyboardInterrupt
        fabricated.run(command, overrides)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, run=killed)
    search(tmp_path)
    assert len(calls(tmp_path)) == len(set(calls(tmp_path))) == 2 * 6
    search(tmp_path)
    assert len(calls(tmp_path)) == 2 * 6


def test_a_trial_that_fails_counts_and_all_failing_is_an_error(tmp_path):
    (tmp_path / "sabotage.json").write_text('{"trial-simclr": "raise"}')
    with pytest.raises(StudyError, match="all 6 trials of simclr failed"):
        search(tmp_path)
    assert len([name for name in calls(tmp_path) if "trial-simclr" in name]) == 6


def test_a_metric_that_nothing_measures_is_named_with_those_that_are(tmp_path):
    with pytest.raises(StudyError, match=r"metric=test/bleu is not among what pretraining measures: \['examples'"):
        search(tmp_path, {**TUNE, "metric": "test/bleu"})


def test_hours_become_steps_once_per_arm_before_any_run(tmp_path):
    measured = []

    def measure(overrides):
        measured.append(overrides)
        return 100 + len(measured)

    spec = fabricated.spec(budget={"hours": 0.5})
    for _ in range(2):
        decided = decide(spec, arms(budget={"hours": 0.5}), tmp_path, lambda: None, measure, print)
    assert decided.steps == {"masked_language": 101, "simclr": 102} and len(measured) == 2
    study = expand(spec, directory=tmp_path, resolve=fabricated.resolve, decided=decided)
    pretraining = [node for node in study.nodes if node.cell is None]
    assert ["budget.steps=101" in node.overrides for node in pretraining] == [True, False]
    assert not any(part.startswith("budget.hours") for node in pretraining for part in node.overrides)
    assert study.budget == {"hours": 0.5}


def test_a_study_with_tuning_runs_its_arms_with_what_won(tmp_path, monkeypatch):
    spec = fabricated.spec(finetuning_seeds=[1], tune={"trials": 8, "space": {"optimizer.peak_lr": [1e-3, 1e-2]}})
    conf = fabricated.write_conf(tmp_path / "conf", launch.CONF, spec)
    monkeypatch.setattr(launch, "CONF", conf)
    monkeypatch.chdir(tmp_path)
    assert launch.main(["study=invented"], fabricated.COMMANDS) == 0
    study = json.loads((tmp_path / "studies" / "invented" / "study.json").read_text())
    rates = {
        node["source"][0]: [o for o in node["overrides"] if o.startswith("optimizer.peak_lr")]
        for node in study["nodes"]
        if not node["cell"]
    }
    assert rates == {"masked_language": ["optimizer.peak_lr=0.01"], "simclr": ["optimizer.peak_lr=0.001"]}
    before = len(calls(tmp_path / "studies" / "invented"))
    assert launch.main(["study=invented"], fabricated.COMMANDS) == 0
    assert len(calls(tmp_path / "studies" / "invented")) == before


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        ({"trials": 0, "space": SPACE}, "study.tune.trials=0: give a whole number of at least 1"),
        ({"trials": 2, "space": {}}, "at least one"),
        ({"trials": 2, "space": {"a": 3}}, "study.tune.space.a=3: give a list"),
        ({"trials": 2, "space": {"a": {"low": 1}}}, "give a list of values, or"),
        ({"trials": 2, "space": {"a": {"low": 0, "high": 1, "log": True}}}, "a logarithm needs bounds above 0"),
        ({"trials": 2, "space": {"a": {"low": 2, "high": 1}}}, "from 2 to 1 is no interval"),
        ({"trials": 2, "space": {"a": {"low": "x", "high": 1}}}, "from x to 1 is no interval"),
        ({"trials": 2, "space": {"a": []}}, "give a list of values"),
        ({"trials": 2, "space": [1]}, "study.tune.space"),
        ({"trials": True, "space": SPACE}, "give a whole number of at least 1"),
        ({"trials": 2, "spaces": SPACE}, "unknown key 'spaces'"),
        ({"trials": 2, "space": SPACE, "goal": "best"}, "choose minimize or maximize"),
    ],
)
def test_a_misspelt_search_is_refused(tune, words):
    with pytest.raises(StudyError, match=words):
        expand(fabricated.spec(tune=tune), directory=launch.CONF, resolve=fabricated.resolve)
