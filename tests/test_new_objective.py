"""Adding an objective takes one python file and one yaml file: tests/new_objective holds just these two."""

import json
from pathlib import Path

from pretraining import handoff
from pretraining.cli.configuration import compose
from pretraining.launch import main

HERE = Path(__file__).parent / "new_objective"


def test_an_objective_is_one_python_file_and_one_yaml_file(tmp_path):
    written = sorted(
        path.relative_to(HERE).as_posix()
        for path in HERE.rglob("*")
        if path.suffix in (".py", ".yaml") and path.stat().st_size
    )
    assert written == ["brightness.py", "conf/objective/brightness.yaml"]
    settings = [
        "trainer.max_steps=30",
        "trainer.val_every=15",
        "trainer.log_every=10",
        "trainer.precision=fp32",
        "data.batch_size=16",
    ]
    quiet = ["logger.wandb.mode=disabled", "logger.progress=false", "optimizer.warmup_steps=1", "backbone.width=8"]
    config = compose(
        [
            f"hydra.searchpath=[file://{HERE / 'conf'}]",
            "objective=brightness",
            *settings,
            *quiet,
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    path = main(config)
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["steps"] == 30 and metrics["validation/brightness"] == metrics["validation/loss"] < 0.05
    assert handoff.read(str(path / "handoff" / "last")).card["origin"]["objective"] == "Brightness"
