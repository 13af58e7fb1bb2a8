"""Whole runs, from a hand-off to metrics.json."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from sklearn import metrics as sk

from tests.finetuning.conftest import Finetune

SHORT = [
    "task=text_classification",
    "task.inputs.max_tokens=32",
    "trainer.max_steps=40",
    "trainer.val_every=20",
    "trainer.log_every=20",
]


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def test_a_run_writes_everything_it_promises(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "optimizer.peak_lr=3e-3")
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert {
        "config.yaml",
        "overrides.txt",
        "metrics.csv",
        "metrics.json",
        "predictions.parquet",
        "lineage.json",
        "model",
        "test_report.json",
    } == names
    lineage = json.loads((run / "lineage.json").read_text())
    assert (
        lineage["path"] == str(text_handoff)
        and len(lineage["sha256"]) == 64
        and lineage["origin"]["objective"] == "none"
    )
    assert numbers(run)["test/accuracy"] > 0.8


def test_metrics_equal_scikit_learn_on_the_saved_predictions(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=frozen", "trainer.max_steps=20")
    values, table = numbers(run), pq.read_table(run / "predictions.parquet")
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    assert len(labels) == 60 and labels == pq.read_table(topics / "test.parquet")["label"].to_pylist()
    assert values["test/accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions))
    for average in ("macro", "micro"):
        for name, function in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            assert values[f"test/{name}_{average}"] == pytest.approx(
                function(labels, predictions, average=average, zero_division=0)
            )
    scores = np.array(table["scores"].to_pylist())
    assert np.allclose(scores.sum(1), 1, atol=1e-5)
    assert np.array(["sport", "trade", "weather"])[scores.argmax(1)].tolist() == predictions
    assert values["test/accuracy_low"] <= values["test/accuracy"] <= values["test/accuracy_high"]
    report = json.loads((run / "test_report.json").read_text())
    assert report["confusion_matrix"] == sk.confusion_matrix(labels, predictions).tolist()


@pytest.mark.parametrize("mode", ["frozen", "frozen mode.cache=false", "linear_probe", "knn"])
def test_a_frozen_backbone_ends_bitwise_as_it_began(
    mode: str, finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    run = finetune(
        *SHORT, f"handoff={text_handoff}", f"data.path={topics}", *f"mode={mode}".split(), "trainer.max_steps=20"
    )
    before, after = (
        load_file(text_handoff / "model.safetensors"),
        load_file(run / "model" / "last" / "model.safetensors"),
    )
    assert before and before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert numbers(run)["test/accuracy"] > 0.5  # chance is 1 in 3


def test_cached_vectors_train_the_same_head_as_the_backbone_in_each_step(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    heads = [
        load_file(
            finetune(
                *SHORT,
                f"handoff={text_handoff}",
                f"data.path={topics}",
                "mode=frozen",
                "trainer.max_steps=10",
                f"mode.cache={cache}",
                name=cache,
            )
            / "model"
            / "last"
            / "heads.safetensors"
        )
        for cache in ("true", "false")
    ]
    assert heads[0] and all(np.allclose(heads[0][name], heads[1][name], atol=1e-5) for name in heads[0])


def test_the_seed_decides_subset_head_and_never_pretrained_weights(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    common = [*SHORT, f"handoff=random:{text_handoff}", f"data.path={topics}", "mode=linear_probe", "shots=5"]
    first, again, other = (
        finetune(*common, f"seed={seed}", name=name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    weights = [load_file(run / "model" / "last" / "model.safetensors") for run in (first, again, other)]
    name = next(name for name in weights[0] if "query.weight" in name)
    assert weights[0][name].equal(weights[1][name]) and not weights[0][name].equal(weights[2][name])
    assert numbers(first) | {"seconds": 0} == numbers(again) | {"seconds": 0}
    assert numbers(first)["train_examples"] == 15


def test_the_tested_weights_are_the_best_on_validation(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    run = finetune(
        *SHORT, f"handoff={text_handoff}", f"data.path={topics}", "trainer.val_every=5", "optimizer.peak_lr=3e-2"
    )
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("validation/accuracy")
    measured = {int(row[0]): float(row[column]) for row in rows[1:] if row[column]}
    assert len(measured) == 8
    values = numbers(run)
    assert values["validation/accuracy"] == pytest.approx(max(measured.values()))
    assert values["best_step"] == min(step for step, value in measured.items() if value == max(measured.values()))


def test_sixteen_examples_are_learnt_by_heart(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    from tests.finetuning.conftest import texts, write

    for split in ("train", "validation", "test"):
        write(tmp_path / "few" / f"{split}.parquet", texts(16, 7, kinds=4))
    run = finetune(
        "task=text_classification",
        "task.inputs.max_tokens=32",
        f"handoff={text_handoff}",
        f"data.path={tmp_path / 'few'}",
        "trainer.max_steps=60",
        "trainer.val_every=20",
        "optimizer.peak_lr=3e-3",
        "task.dropout=0",
    )
    assert numbers(run)["test/accuracy"] == 1.0


def test_early_stopping_ends_a_run_that_no_longer_improves(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    run = finetune(
        *SHORT,
        f"handoff={text_handoff}",
        f"data.path={topics}",
        "mode=frozen",
        "optimizer.peak_lr=1e-9",
        "trainer.max_steps=500",
        "trainer.val_every=2",
        "early_stopping=3",
    )
    assert numbers(run)["steps"] == 8  # the first evaluation is the best, and three follow it


def test_epochs_become_steps(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    run = finetune(*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=frozen", "epochs=2", "shots=10")
    assert numbers(run)["steps"] == 4  # 2 * 30 examples in batches of 16, rounded up
    assert "max_steps: 4" in (run / "config.yaml").read_text()


def test_a_finished_run_is_not_run_again(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    common = [*SHORT, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn"]
    run = finetune(*common)
    before = (run / "metrics.json").read_bytes()
    assert finetune(*common, "resume=auto") == run and (run / "metrics.json").read_bytes() == before
