"""A real pretraining and a finetuning of its hand-off, offline: all that a dashboard draws is in W&B's own files."""

import json

import pytest

from finetuning import launch as finetuning
from pretraining import launch as pretraining
from tests.experiments import wandb_files

PRETRAIN = [
    "objective=simclr", "data=digits", "backbone.width=8", "data.batch_size=32", "trainer.max_steps=12", "seed=3",
    "trainer.log_every=4", "trainer.val_every=6", "trainer.precision=fp32", "optimizer.warmup_steps=2",
    "logger.progress=false",
]  # fmt: skip
FINETUNE = ["task=digits", "mode=linear_probe", "shots=5", "trainer.precision=fp32", "logger.progress=false"]
AXES = {"step", "examples", "images", "flops", "time"}


@pytest.mark.slow
def test_the_files_of_offline_runs_hold_metrics_columns_and_the_way_from_one_to_the_other(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    pre = [*PRETRAIN, "group=study", "name='temperature 0.5'", f"run_dir={tmp_path / 'pre'}"]
    pretraining.main(pretraining.compose(pre), pre)
    start = f"handoff={tmp_path / 'pre' / 'handoff' / 'last'}"
    fine = [*FINETUNE, "group=study", start, f"run_dir={tmp_path / 'fine'}"]
    finetuning.main(finetuning.compose(fine), fine)
    made, used = (wandb_files.read(tmp_path / name) for name in ("pre", "fine"))
    with (tmp_path / "pre" / "metrics.csv").open() as file:
        columns = set(file.readline().strip().split(","))
    assert columns <= {key for row in made["history"] for key in row}
    evaluated = [row for row in made["history"] if "validation/loss" in row]
    assert [row["step"] for row in evaluated] == [6, 12] and all(set(row) >= AXES for row in evaluated)
    assert any("throughput/images_per_second" in row for row in made["history"])
    assert made["config"]["objective"]["temperature"] == 0.5 and made["config"]["environment"]["git_commit"]
    (artifact,) = made["artifacts"]
    card = json.loads((tmp_path / "pre" / "handoff" / "last" / "handoff.json").read_text())
    assert artifact["metadata"]["flops"] == card["origin"]["flops"] > 0
    assert card["origin"]["unit"] == "images" and used["config"]["pretrain"]["images"] == card["origin"]["images"] > 0
    assert card["origin"]["device"] == used["config"]["environment"]["cpu"]
    assert used["job_type"] == "finetune" and used["group"] == made["group"] == "study"
    assert used["config"]["pretrain"]["name"] == made["config"]["pretrain"]["name"] == "temperature 0.5"
    assert used["config"]["pretrain"]["artifact"] == f"pretraining/{artifact['name']}:latest"
    assert "test/accuracy" in used["summary"]
