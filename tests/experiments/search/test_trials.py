"""The driver that both searches share: what it draws, what it does with trials that were lost, how it ends them."""

import json

import pytest

from experiments.search.trials import Trials, read_result
from experiments.study.spec import StudyError

pytest.importorskip("optuna", reason="needs the extra tune")
SPACE = {"layers": {"low": 1, "high": 3}, "rate": {"low": 1e-4, "high": 1, "log": True}, "norm": ["pre", "post"]}


def trials(directory, name="search", goal="minimize"):
    found = Trials(directory / "sub" / "trials.log", name, SPACE, goal=goal)
    found.sample_with(seed=0)
    return found


def test_settings_are_whole_where_both_ends_are_and_else_between_them(tmp_path):
    search = trials(tmp_path)
    drawn = [search.ask().params for _ in range(12)]
    assert {type(params["layers"]) for params in drawn} == {int} and {params["layers"] for params in drawn} == {1, 2, 3}
    assert all(isinstance(params["rate"], float) and 1e-4 <= params["rate"] <= 1 for params in drawn)
    assert {params["norm"] for params in drawn} == {"pre", "post"}


def test_a_trial_is_over_once_it_was_told_and_others_see_that(tmp_path):
    search = trials(tmp_path, goal="maximize")
    for value in (0.25, 0.75, 0.5):
        search.tell(search.ask(), f"reached {value}", value)
    search.tell(search.ask(), "out of luck", state=search.states.FAIL)
    search.ask()
    again = trials(tmp_path, goal="maximize")
    assert len(again.known()) == 5 and len(again.ended) == 4 and again.study.best_trial.value == 0.75
    assert [trial.value for trial in again.known(again.states.COMPLETE)] == [0.25, 0.75, 0.5]
    assert trials(tmp_path, name="another").known() == []


def test_the_settings_of_a_lost_trial_are_tried_again(tmp_path):
    lost = trials(tmp_path).ask().params
    search = trials(tmp_path)
    (found,) = search.known(search.states.RUNNING)
    search.repeat(found)
    assert search.known(search.states.RUNNING) == [] and search.ended == []
    assert search.ask().params == lost


def test_a_metric_that_was_not_measured_is_named_with_those_that_were(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"validation/loss": 2, "steps": 3}))
    assert read_result(tmp_path, "validation/loss", "--metric") == 2.0
    with pytest.raises(StudyError, match=r"--metric=loss is not among .*\['steps', 'validation/loss'\]"):
        read_result(tmp_path, "loss", "--metric")
