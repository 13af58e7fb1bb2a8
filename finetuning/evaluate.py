"""`python -m finetuning.evaluate run_dir=DIR data.path=DIR_OR_FILE [data.KEY=...] [output=FILE]`: a run on other data.

Measures it on the data's test split where there is one, else on all of it; prints the metrics as json.
"""

from __future__ import annotations

from finetuning.commands import EVALUATE

if __name__ == "__main__":  # before anything slow is imported
    EVALUATE.answer(__doc__)

import json
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from finetuning.data.base import LabelledData
from finetuning.data.splits import tested_on
from finetuning.launch import load_run
from finetuning.metrics.bootstrap import Numbers
from finetuning.task import Task
from finetuning.training import measure
from pretraining.cli.configuration import exit_cleanly, instantiate
from pretraining.errors import RunError


def evaluate(task: Task, data: LabelledData) -> Numbers:
    """Measure the model on the test split, or whatever single split there is."""
    found, names = data.found()
    examples = task.inputs.as_learnt(tested_on(found), names, task.labels)
    return measure(task, task.encode(examples), data).metrics | {"test_examples": examples.size}


def with_data(config: DictConfig, changes: dict[str, str]) -> DictConfig:
    """Copy a run's configuration with changes of its data part."""
    config = config.copy()
    OmegaConf.set_struct(config, True)
    for name, value in changes.items():
        try:
            OmegaConf.update(config, name, OmegaConf.create(f"value: {value}").value)
        except OmegaConfBaseException as error:
            raise RunError(f"{name}={value}: the run's data has no such key, only {', '.join(config.data)}") from error
    return config


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = EVALUATE.read(sys.argv[1:])
        config, task = load_run(Path(given["run_dir"]))
        config = with_data(config, {name: value for name, value in given.items() if name.startswith("data.")})
        text = json.dumps(evaluate(task, instantiate(config.data)), indent=2) + "\n"
        if "output" in given:
            Path(given["output"]).write_text(text, encoding="utf-8")
        sys.stdout.write(text)


if __name__ == "__main__":
    cli()
