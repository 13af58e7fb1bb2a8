"""A finetuning run that is stopped or dies, and resumed, ends like one that never was."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from finetuning.watch import Watch
from pretraining.engine.checkpoints import EXIT_PREEMPTED
from pretraining.runs.checkpoint_files import MARKER
from tests.finetuning.conftest import Finetune

RUN = [
    "task=text_classification",
    "task.inputs.max_tokens=32",
    "trainer.max_steps=24",
    "trainer.val_every=6",
    "trainer.log_every=4",
]
TIMES = {"time", "seconds"}


class DiedError(Exception):
    """What a test raises in a run."""


def history(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def result(run: Path) -> tuple[dict, list, bytes, dict]:
    values = {
        name: value for name, value in json.loads((run / "metrics.json").read_text()).items() if name not in TIMES
    }
    weights = [load_file(run / "model" / "last" / name) for name in ("model.safetensors", "heads.safetensors")]
    return values, history(run), (run / "predictions.parquet").read_bytes(), weights[0] | weights[1]


@pytest.mark.parametrize(
    ("mode", "how"), [("full mode.head_steps=16", "dies"), ("gradual_unfreezing", "is asked to stop"), ("lora", "dies")]
)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    mode: str, how: str, finetune: Finetune, text_handoff: Path, topics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [
        *RUN,
        f"handoff={text_handoff}",
        f"data.path={topics}",
        *f"mode={mode}".split(),
        "trainer.checkpoint_every=5",
    ]
    whole = finetune(*common, name="whole")
    log = Watch.on_train_batch_end

    def stop(self: Watch, trainer, module, outputs, batch, number) -> None:
        log(self, trainer, module, outputs, batch, number)
        if trainer.global_step == 13:
            if how == "dies":
                raise DiedError
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_train_batch_end", stop)
        with pytest.raises(DiedError if how == "dies" else SystemExit) as left:
            finetune(*common, name="stopped")
    directory = whole.parent / "stopped"
    if how != "dies":
        assert left.value.code == EXIT_PREEMPTED and (directory / MARKER).exists()
    assert not (directory / "metrics.json").exists()
    stopped = finetune(*common, "resume=auto", name="stopped")
    (values, rows, table, weights), (values_, rows_, table_, weights_) = result(whole), result(stopped)
    assert values == values_ and rows == rows_ and table == table_
    assert weights.keys() == weights_.keys() and all(weights[name].equal(weights_[name]) for name in weights)
