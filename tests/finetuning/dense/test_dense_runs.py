"""Dense tasks from a hand-off to metrics.json: learnt by heart, resumed, on several ranks."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.finetuning.conftest import Finetune
from tests.finetuning.dense.made_up import write_one

PLAIN = ["task.inputs.scale=[1,1]", "task.inputs.flips=[]", "data.batch_size=1", "trainer.log_every=20"]


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize(("network", "decoder"), [("resnet", "fpn"), ("vit", "linear"), ("vit", "fpn")])
def test_one_label_map_is_learnt_by_heart(
    network: str, decoder: str, finetune: Finetune, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = finetune(
        "task=semantic_segmentation",
        f"handoff={request.getfixturevalue(network)}",
        f"data.path={write_one(tmp_path / 'd')}",
        f"task.decoder={decoder}",
        "task.dropout=0",
        *PLAIN,
        "trainer.max_steps=40",
        "trainer.val_every=20",
        "optimizer.peak_lr=5e-3",
    )
    values = numbers(run)
    assert values["test/miou"] > 0.97 and values["test/pixel_accuracy"] > 0.98
    assert values["test/miou_low"] <= values["test/miou"] <= values["test/miou_high"]
    report = json.loads((run / "test_report.json").read_text())
    assert report["classes"] == ["0", "1", "2"] and sum(map(sum, report["confusion_matrix"])) == 48 * 48
    assert len(pq.read_table(run / "predictions.parquet")["prediction"][0].as_py()) == 3
    assert (run / "pictures" / "0000.png").is_file()


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_one_image_s_objects_are_learnt_by_heart(
    network: str, finetune: Finetune, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = finetune(
        "task=detection",
        f"handoff={request.getfixturevalue(network)}",
        f"data.path={write_one(tmp_path / 'd')}",
        "task.width=32",
        *PLAIN,
        "trainer.max_steps=80",
        "trainer.val_every=20",
        "optimizer.peak_lr=3e-3",
    )
    print(numbers(run))
