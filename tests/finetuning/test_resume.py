"""A finetuning run that is stopped or dies, and resumed, ends like one that never was."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from finetuning.watch import Watch
from pretraining import handoff
from pretraining.engine.checkpoints import EXIT_PREEMPTED
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.runs.checkpoint_files import MARKER
from tests.finetuning.conftest import Finetune, write

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


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_over_labels_that_changed_is_refused_with_what_changed(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path, finished: bool
) -> None:
    data = shutil.copytree(topics, tmp_path / "data")
    common = [f"handoff={text_handoff}", "task=text_classification", f"data.path={data}", "mode=linear_probe"]
    common += ["task.inputs.max_tokens=16", "trainer.max_steps=2", "resume=auto"]
    run = finetune(*common)
    table = pq.read_table(data / "test.parquet")
    assert finetune(*common) == run
    if not finished:
        (run / "metrics.json").unlink()
    write(data / "test.parquet", table.slice(0, table.num_rows - 1).to_pydict())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RunError) as caught:
        finetune(*common)
    first, changed, _ = str(caught.value).splitlines()
    assert "reads other data than before" in first and changed.strip().startswith("fingerprint.data:")
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    write(data / "test.parquet", table.to_pydict())
    assert finetune(*common) == run and (run / "metrics.json").exists()
    with pytest.raises(RunError, match=r"ended after \d+ steps, without a checkpoint .* choose another run_dir"):
        finetune(*common, "trainer.max_steps=99")


def test_a_hand_off_that_changed_is_refused_and_one_changed_image_too(
    finetune: Finetune, image_handoff: Path, tmp_path: Path
) -> None:
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    weights = tmp_path / "last"
    weights.symlink_to(image_handoff)
    common = [f"handoff={weights}", "task=image_classification", f"data.path={tmp_path / 'photos'}", "mode=knn"]
    common += ["mode.k=3", "task.top=null", "resume=auto", f"data.cache_dir={tmp_path / 'cache'}"]
    run = finetune(*common)
    assert finetune(*common) == run
    torch.manual_seed(1)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=1)
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.3], std=[0.35])
    later = {"towers": IMAGE.towers(backbone, preprocess), "origin": {"objective": "none"}, "heads": {}}
    weights.unlink()
    weights.symlink_to(handoff.write(tmp_path / "later" / "step-0000002", **later))
    with pytest.raises(RunError, match=r"fingerprint\.handoff: "):
        finetune(*common)
    weights.unlink()
    weights.symlink_to(image_handoff)
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "photos" / "a" / "00.png")
    with pytest.raises(RunError, match=r"fingerprint\.data: "):
        finetune(*common)
