"""Sixteen examples are learnt by heart, whatever the task; a frozen probe is as good as scikit-learn's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetuning.launch import load_run
from finetuning.training import evaluation
from pretraining.cli.configuration import instantiate
from tests.finetuning.conftest import WORDS, Finetune, texts, write
from tests.finetuning.test_text_tasks import tagged

FAST = ["trainer.val_every=30", "trainer.log_every=30", "optimizer.peak_lr=5e-3"]
Table = dict[str, list]


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def sixteen() -> Table:
    return texts(16, 7, kinds=4)


def paired() -> Table:
    table = sixteen()
    return {"sentence1": table["text"], "sentence2": texts(16, 8)["text"], "label": table["label"]}


def real() -> Table:
    return {"text": sixteen()["text"], "label": np.random.default_rng(0).normal(3, 1, 16).tolist()}


def several() -> Table:
    generator = np.random.default_rng(1)
    return {
        "text": sixteen()["text"],
        "labels": [generator.choice(["x", "y", "z"], number % 4, replace=False).tolist() for number in range(16)],
    }


@pytest.mark.parametrize(
    ("task", "make", "metric", "least", "options"),
    [
        ("text_pair_classification", paired, "accuracy", 1.0, ["task.dropout=0"]),
        ("text_regression", real, "pearson", 0.99, ["task.dropout=0"]),
        ("text_multi_label", several, "accuracy", 1.0, ["task.dropout=0"]),
        ("tagging", lambda: tagged(16, 3), "entity_f1", 1.0, ["task.dropout=0", "task.select=entity_f1"]),
    ],
)
def test_sixteen_texts_are_learnt_by_heart(
    task: str,
    make: Callable[[], Table],
    metric: str,
    least: float,
    options: list[str],
    finetune: Finetune,
    text_handoff: Path,
    tmp_path: Path,
) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / "few" / f"{split}.parquet", make())
    run = finetune(
        f"task={task}",
        "task.inputs.max_tokens=32",
        *FAST,
        *options,
        f"handoff={text_handoff}",
        f"data.path={tmp_path / 'few'}",
        "trainer.max_steps=150",
    )
    assert numbers(run)[f"test/{metric}"] >= least


def test_sixteen_images_are_learnt_by_heart(finetune: Finetune, image_handoff: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(16):
        pixels = generator.integers(0, 255, (8, 8)).astype(np.uint8)
        for split in ("train", "validation", "test"):
            path = tmp_path / "few" / split / str(number % 4) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    run = finetune(
        "task=image_classification",
        *FAST,
        f"handoff={image_handoff}",
        f"data.path={tmp_path / 'few'}",
        "data.decoding.channels=1",
        "data.batch_size=16",
        f"data.cache_dir={tmp_path / 'cache'}",
        "trainer.max_steps=90",
    )
    assert numbers(run)["test/accuracy"] == 1.0


def test_a_linear_probe_is_scikit_learn_s_logistic_regression_on_the_backbone_s_vectors(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    for seed, (split, count) in enumerate((("train", 150), ("validation", 90), ("test", 400))):
        write(tmp_path / "d" / f"{split}.parquet", texts(count, seed, kinds=4))
    run = finetune(
        "task=text_classification",
        "task.inputs.max_tokens=32",
        f"handoff={text_handoff}",
        f"data.path={tmp_path / 'd'}",
        "mode=linear_probe",
    )
    config, task = load_run(run)
    data = instantiate(config.data)
    train, _, test = (task.cache_vectors(evaluation(task.encode(part), data)) for part in data.splits()[:3])
    with (run / "metrics.csv").open(newline="") as file:
        rows = [
            (float(row["validation/accuracy"]), float(row["penalty"])) for row in csv.DictReader(file) if row["penalty"]
        ]
    penalty = next(penalty for value, penalty in rows if value == max(rows)[0])
    scale = StandardScaler().fit(train.flat.double().numpy())
    theirs = LogisticRegression(C=1 / (penalty * 150), max_iter=5000, tol=1e-8)
    theirs.fit(scale.transform(train.flat.double().numpy()), train.all_targets())
    score = theirs.score(scale.transform(test.flat.double().numpy()), test.all_targets())
    assert abs(numbers(run)["test/accuracy"] - score) <= 0.005 and 0.3 < score < 1


def test_balanced_weights_give_each_class_the_same_share_of_the_loss(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    import torch

    table = {
        "text": [f"{WORDS[number]} {WORDS[number + 1]}" for number in range(40)],
        "label": ["rare"] * 8 + ["common"] * 32,
    }
    run = finetune(
        "task=text_classification",
        "task.inputs.max_tokens=32",
        "task.class_weights=balanced",
        *FAST,
        f"handoff={text_handoff}",
        f"data.path={write(tmp_path / 't.parquet', table)}",
        "trainer.max_steps=2",
    )
    task = load_run(run)[1]
    counts = dict(zip(task.labels["values"], task.labels["counts"], strict=True))
    assert counts["rare"] < counts["common"]
    logits, targets = (
        torch.zeros(sum(counts.values()), 2),
        torch.tensor([0] * task.labels["counts"][0] + [1] * task.labels["counts"][1]),
    )
    assert [
        float(task.class_weights[number]) * count for number, count in enumerate(task.labels["counts"])
    ] == pytest.approx([len(targets) / 2] * 2)
    term = task.loss_of(logits, {"targets": targets}).terms["cross_entropy"]
    assert float(term.total / term.count) == pytest.approx(np.log(2)) and float(term.count) == pytest.approx(
        len(targets)
    )
