"""Adding an objective takes one python file and one yaml file: tests/new_objective holds just these two."""

import json
from pathlib import Path

import pytest

from pretraining import evaluate, handoff
from pretraining.cli.configuration import compose
from pretraining.errors import HandoffError, RunError
from pretraining.launch import main

HERE = Path(__file__).parent / "new_objective"


SETTINGS = ["trainer.max_steps=30", "trainer.val_every=15", "trainer.log_every=10", "trainer.precision=fp32"]
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "optimizer.warmup_steps=1", "backbone.width=8"]
BRIGHTNESS = [f"hydra.searchpath=[file://{HERE / 'conf'}]", "objective=brightness", *SETTINGS, *QUIET]


def test_an_objective_is_one_python_file_and_one_yaml_file(tmp_path):
    written = sorted(
        path.relative_to(HERE).as_posix()
        for path in HERE.rglob("*")
        if path.suffix in (".py", ".yaml") and path.stat().st_size
    )
    assert written == ["brightness.py", "conf/objective/brightness.yaml"]
    path = main(compose([*BRIGHTNESS, "data.batch_size=16", f"run_dir={tmp_path / 'run'}"]))
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["steps"] == 30 and metrics["validation/brightness"] == metrics["validation/loss"] < 0.05
    last = path / "handoff" / "last"
    assert handoff.read(str(last)).card["origin"]["objective"] == "Brightness"
    config = ["data=digits", f"handoff={last}"]
    with pytest.raises(HandoffError, match=r"brightness\.Stack.*add trust=\[tests\]"):
        evaluate.evaluate(compose(config, root="evaluate"))
    measured = evaluate.evaluate(compose([*config, "trust=[tests]"], root="evaluate"))
    assert measured["validation/brightness"] == pytest.approx(metrics["validation/brightness"], rel=1e-5)


def test_its_dry_run_has_nothing_to_draw_and_a_probe_without_labels_says_so(tmp_path, capsys):
    main(compose([*BRIGHTNESS, "dry_run=true", f"run_dir={tmp_path / 'run'}"]))
    assert "FLOP per step" in capsys.readouterr().out
    with pytest.raises(RunError, match="needs the labels of its data, which this collate leaves out: set probe=none"):
        main(compose([*BRIGHTNESS, "probe=online", f"run_dir={tmp_path / 'probed'}"]))
