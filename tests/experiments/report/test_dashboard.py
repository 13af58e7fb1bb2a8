"""The dashboard of a study as wandb-workspaces builds it, written offline or saved to a stand-in of the server."""

import json

import pytest
import wandb

from experiments import dashboard, wandb_sweep
from experiments.study.collect import collect, save_study
from experiments.study.graph import expand
from experiments.study.runner import Here, run_study
from experiments.study.spec import StudyError, exit_code
from tests.experiments import fabricated, wandb_stub

KEY = "0123456789" * 4
PRETRAIN = {"mlm": {"overrides": ["objective=mlm", "backbone=bert"], "grid": {"collate.fraction": [0.15, 0.4]}}}


def workspaces():
    return pytest.importorskip("wandb_workspaces", reason="needs the extra dashboard")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    changes = {
        "pretrain": PRETRAIN,
        "finetune": {"docs_topic": {"overrides": ["task=docs_topic"], "modes": ["full", "frozen"]}},
    }
    study = expand(fabricated.spec(**changes, finetuning_seeds=[1, 2]), directory=directory, resolve=fabricated.resolve)
    save_study(study)
    run_study(study, executor=Here(directory, fabricated.run), watch=fabricated.Silent(), retry_failed=False)
    return study


@pytest.fixture
def server(tmp_path, monkeypatch):
    stub = wandb_stub.Server()
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    for name, value in {"BASE_URL": stub.url, "API_KEY": KEY, "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()
    yield stub
    wandb.teardown()
    stub.close()


def panels(node, kind):
    """Every panel of a kind in a specification, wherever it hangs."""
    if isinstance(node, dict):
        return ([node] if node.get("viewType") == kind else []) + [
            p for value in node.values() for p in panels(value, kind)
        ]
    return [p for value in node for p in panels(value, kind)] if isinstance(node, list) else []


def test_offline_the_specification_is_written_and_nobody_is_asked(study, monkeypatch):
    workspaces()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert "wandb login" in dashboard.make(study.directory)
    written = json.loads((study.directory / "dashboard.json").read_text())
    assert set(written) == {"workspace", "report"}
    for part in written.values():
        axes = {panel["config"].get("xAxis") for panel in panels(part, "Run History Line Plot")}
        assert axes == {"step", "examples", "tokens", "flops", "time"}
        assert {tuple(panel["config"]["metrics"]) for panel in panels(part, "Run History Line Plot")} >= {
            ("train/loss",),
            ("validation/loss",),
        }
        assert len(panels(part, "Bar Chart")) >= 1
        (parallel,) = panels(part, "Parallel Coordinates Plot")
        assert "config:collate.value.fraction" in json.dumps(parallel)
    text = json.dumps(written["report"])
    assert "fraction 0.15" in text and "95 % interval" in text and "docs_topic, frozen, all labels" in text


def test_online_it_is_saved_once_and_then_over_itself(study, server):
    workspaces()
    for path in study.directory.glob("dashboard_saved.json"):
        path.unlink()
    first = dashboard.make(study.directory)
    assert server.url in first or "workspace:" in first
    assert len(server.views) == 2
    dashboard.make(study.directory)
    assert len(server.views) == 2
    assert server.unknown == []
    kinds = sorted(view["type"] for view in server.views.values())
    assert kinds == ["project-view", "runs"]


def test_a_place_without_a_study_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="holds no study"):
        dashboard.make(tmp_path)


def test_runs_that_have_not_finished_make_an_empty_dashboard(tmp_path):
    workspaces()
    study = expand(fabricated.spec(), directory=tmp_path, resolve=fabricated.resolve)
    assert dashboard.specification(collect(study), dashboard.Project("", "ssl"))["report"]


def test_a_hydra_sweep_becomes_one_whose_agents_run_our_command(capsys):
    found = wandb_sweep.sweep(
        "pretraining", ["objective=simclr", "optimizer.peak_lr=1e-3,3e-3", "seed=range(1,4)", "ema=interval(0.9,0.99)"]
    )
    assert found["parameters"] == {
        "optimizer.peak_lr": {"values": [1e-3, 3e-3]},
        "seed": {"values": [1, 2, 3]},
        "ema": {"min": 0.9, "max": 0.99},
    }
    assert found["command"] == ["${env}", "python", "-m", "pretraining", "objective=simclr", "${args_no_hyphens}"]
    assert found["metric"] == {"name": "validation/loss", "goal": "minimize"}
    assert wandb_sweep.main(["pretraining", "seed=1,2"]) == 0
    assert "${args_no_hyphens}" in capsys.readouterr().out
    assert exit_code("wandb_sweep", lambda: wandb_sweep.main(["pretraining", "seed=1"])) == 2
    assert "wandb_sweep: nothing varies" in capsys.readouterr().err
