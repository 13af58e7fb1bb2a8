"""Lightning's loggers beside metrics.csv: the same numbers, also after a run was cut; what they raise costs no run."""

import csv
import functools
import json
import os
import shutil
from typing import ClassVar

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import Logger

from finetuning import launch as finetuning
from pretraining.cli.configuration import compose, make_loggers
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.runs.other_logger import OtherHistory

RUN = ["objective=simclr", "probe=none", "backbone.width=4", "trainer.max_steps=4", "trainer.checkpoint_every=2"]
RUN += ["trainer.log_every=1", "trainer.val_every=2", "trainer.precision=fp32", "data.batch_size=16"]
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false"]


def table(path):
    """Read metrics.csv as {metric: {step: number}}."""
    found = {}
    with (path / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value:
                    found.setdefault(name, {})[int(row["step"])] = float(value)
    return found


def events(path):
    """Read TensorBoard's files as {metric: [(step, number), ...]}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(path / "loggers" / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_the_same(found, wanted):
    """Hold that a logger has each number once, in the precision of its files."""
    assert found.keys() == wanted.keys() and len(found) > 3
    for name, values in wanted.items():
        assert [step for step, _ in found[name]] == list(values), name
        np.testing.assert_allclose([value for _, value in found[name]], list(values.values()), rtol=1e-6, err_msg=name)


def cut(path):
    """Take back what a run did behind its first checkpoint, but for what it had logged, as a kill leaves it."""
    for part in [*path.glob("checkpoints/step-0000004.*"), path / "metrics.json"]:
        part.unlink()
    shutil.rmtree(path / "handoff")


def test_tensorboard_has_the_numbers_of_metrics_csv_once_also_after_a_cut(tmp_path, cache_dir):
    pytest.importorskip("tensorboard")
    run = [*RUN, *QUIET, "logger=tensorboard", f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}"]
    main(compose(run))
    assert_the_same(events(tmp_path / "run"), table(tmp_path / "run"))
    cut(tmp_path / "run")
    main(compose([*run, "resume=auto"]))
    assert len(list((tmp_path / "run" / "loggers" / "tensorboard").glob("events*"))) == 2
    assert_the_same(events(tmp_path / "run"), table(tmp_path / "run"))
    start = [f"handoff={tmp_path / 'run' / 'handoff' / 'last'}", "task=digits", "shots=5", "trainer.max_steps=2"]
    start += ["trainer.val_every=1", "trainer.log_every=1"]
    fine = [*start, *QUIET, "logger=tensorboard", "trainer.precision=fp32", f"run_dir={tmp_path / 'fine'}"]
    finetuning.main(finetuning.compose(fine), fine)
    found = events(tmp_path / "fine")
    assert_the_same(found, table(tmp_path / "fine"))
    assert [step for step, _ in found["test/accuracy"]] == [2]


class Numbered(Logger):
    """Keeps what it gets by the run that it continues, as MLflow's and Comet's do."""

    kept: ClassVar = {}
    name = "numbered"
    version = ""

    def __init__(self, run_id=None):
        super().__init__()
        self.version = run_id or f"run-{len(self.kept)}"

    def log_hyperparams(self, params):
        self.kept.setdefault(self.version, []).append(params)

    def log_metrics(self, metrics, step):
        self.kept.setdefault(self.version, []).append((step, metrics))


def test_a_logger_with_runs_goes_on_in_the_same_one(tmp_path):
    lives = []
    for steps in ((1, 2), (2, 3)):
        life = OtherHistory("mine", make=functools.partial(Numbered), directory=tmp_path, settings={"seed": 1})
        life.cut_back(steps[0] - 1)
        for step in steps:
            life.log_metrics({"loss": 0.5}, step)
        life.finalize("success")
        lives.append(life)
    assert Numbered.kept == {"run-0": [{"seed": 1}, *((step, {"loss": 0.5}) for step in (1, 2, 2, 3))]}
    assert json.loads((tmp_path / "loggers" / "runs.json").read_text()) == {"mine": "run-0"}


def test_variables_of_loggers_are_set_where_there_are_none(tmp_path, monkeypatch):
    retries, timeout = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
    for name in (retries, timeout):
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv(timeout)
    for logger, wanted in (("csv", None), ("mlflow", "10")):
        config = compose([*RUN, *QUIET, f"logger={logger}", "name=n", f"run_dir={tmp_path}"])
        config.logger.others = {"mine": {"_target_": f"{__name__}.Numbered"}}
        make_loggers(config, tmp_path, job_type="pretrain", tags=[], origin={})
        assert (os.environ[retries], os.environ.get(timeout)) == ("7", wanted)


def test_variables_are_those_of_the_last_run_of_a_process_as_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("OF_THE_SHELL", "7")
    names = ("A", "B", "OF_THE_SHELL")

    def seen(**values):
        config = compose([*RUN, *QUIET, "name=n", f"run_dir={tmp_path}"])
        config.logger.others = {"mine": {"_target_": f"{__name__}.Numbered"}}
        config.logger.environment = values
        make_loggers(config, tmp_path, job_type="pretrain", tags=[], origin={})
        return [os.environ.get(name) for name in names]

    assert seen(A=True, B=0.5, OF_THE_SHELL=1) == ["true", "0.5", "7"]
    assert seen(A="other") == ["other", None, "7"]
    for odd in ([1, 2], {"C": 1}, None):
        with pytest.raises(RunError, match=r"got logger\.environment\.A=.*environment variables are texts") as caught:
            seen(A=odd)
        assert "\n" not in str(caught.value) and os.environ["A"] == "other"
    with pytest.raises(RunError, match="illegal environment variable name"):
        seen(**{"A=B": 1})
    assert seen() == [None, None, "7"]


@pytest.mark.slow  # its first database takes seconds
def test_mlflow_goes_on_in_the_same_run(tmp_path, cache_dir):
    pytest.importorskip("mlflow")
    run = [*RUN, *QUIET, "logger=mlflow", f"data.cache_dir={cache_dir}", f"run_dir={tmp_path / 'run'}", "name=first"]
    main(compose(run))
    cut(tmp_path / "run")
    main(compose([*run, "resume=auto"]))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'loggers' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'pretraining'")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.status == "FINISHED" and stored.info.run_name == "first"
    assert stored.data.params["objective/temperature"] == "0.5" and stored.data.params["seed"] == "1"
    for name, values in table(tmp_path / "run").items():
        last = {metric.step: metric.value for metric in client.get_metric_history(stored.info.run_id, name)}
        if name.startswith(("train/", "validation/")):
            np.testing.assert_allclose([last[step] for step in values], list(values.values()), rtol=1e-9)


class Broken(CSVLogger):
    """Takes two rows."""

    def log_metrics(self, metrics, step=None):
        if step > 2:
            raise OSError("no room\nat all")
        super().log_metrics(metrics, step)


def others(tmp_path, node):
    config = compose([*RUN, *QUIET, f"+logger.others.mine={node}", "name=n", f"run_dir={tmp_path}"])
    return make_loggers(config, tmp_path, job_type="pretrain", tags=[], origin={})


def test_a_logger_of_one_s_own_that_fails_is_said_once_and_costs_nothing(tmp_path, capsys):
    node = f"{{_target_: {__name__}.Broken, save_dir: '{{run_dir}}/loggers', name: own, version: ''}}"
    _, mine = others(tmp_path, node)
    assert isinstance(mine, OtherHistory) and mine.name == "mine"
    for step in (1, 2, 3, 4):
        mine.log_metrics({"train/loss": step / 8, "drawn": object()}, step)
    mine.finalize("success")
    assert capsys.readouterr().err == "logger mine: the rest of this run is left out: no room at all\n"
    with (tmp_path / "loggers" / "own" / "metrics.csv").open() as file:
        assert [(row["step"], row["train/loss"]) for row in csv.DictReader(file)] == [("1", "0.125"), ("2", "0.25")]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("{_target_: nowhere.Logger}", r"logger\.others\.mine cannot be made: .*nowhere.*"),
        ("{save_dir: x}", r"mine=\{'save_dir': 'x'\} has no _target_"),
        ("abc", r"=abc has no _target_"),
        ("{_target_: pytorch_lightning.loggers.CSVLogger, place: x}", r"mine cannot be made: .*place.*: mend its arg"),
        (f"{{_target_: {__name__}.lacking}}", r"No module named 'comet'.*: pip install 'pretraining\[loggers\]'"),
    ],
)
def test_a_logger_that_cannot_be_made_is_a_mistake_in_a_line(tmp_path, node, message):
    with pytest.raises(RunError, match=message) as caught:
        others(tmp_path, node)
    assert "\n" not in str(caught.value)


def lacking():
    raise ModuleNotFoundError("No module named 'comet'")


def test_csv_is_metrics_csv_alone(tmp_path):
    config = compose([*RUN, "logger=csv", "name=n", f"run_dir={tmp_path}"])
    (history,) = make_loggers(config, tmp_path, job_type="pretrain", tags=[], origin={})
    assert history.path == tmp_path / "metrics.csv" and config.logger.progress
