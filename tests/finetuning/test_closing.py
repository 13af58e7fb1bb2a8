"""What a run says at its end is true: the selected metric with its interval, beside what one answer would give."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.finetuning.conftest import texts, write

NEVER = ["optimizer.peak_lr=1e-9", "trainer.max_steps=4", "trainer.val_every=2", "trainer.log_every=2"]
SHORT = [*NEVER, "task.inputs.max_tokens=32", "task.dropout=0"]


@pytest.fixture
def skewed(tmp_path):
    """Three classes, of which 'sport' has 20 of 30: a head that has learnt little answers nothing else."""
    for split, seed in (("train", 0), ("validation", 1), ("test", 2)):
        rows = texts(30, seed)
        rows["label"] = ["sport" if place % 3 else ("trade", "weather")[place % 2] for place in range(30)]
        write(tmp_path / "skewed" / f"{split}.parquet", rows)
    return tmp_path / "skewed"


def numbers(run):
    return json.loads((run / "metrics.json").read_text())


def test_a_class_that_is_always_given_is_named_with_its_share(finetune, text_handoff, skewed, capfd):
    learnt = ["optimizer.peak_lr=1e-3", "trainer.max_steps=12", "mode=frozen", "mode.cache=false"]
    run = finetune("task=text_classification", f"handoff={text_handoff}", f"data.path={skewed}", *SHORT, *learnt)
    assert set(pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()) == {"sport"}
    found, said = numbers(run), capfd.readouterr().err
    assert found["test/majority_accuracy"] == pytest.approx(20 / 30) == found["test/accuracy"]
    assert found["test/classes_predicted"] == 1 and found["validation/majority_accuracy"] == pytest.approx(20 / 30)
    low, high = found["test/accuracy_low"], found["test/accuracy_high"]
    assert f"test accuracy 0.667 [{low:.3f}, {high:.3f}]; always 'sport' would give 0.667" in said.splitlines()
    assert "every prediction is 'sport': nothing was told apart" in said.splitlines()


@pytest.mark.parametrize("select", ["entity_f1", "accuracy"])
def test_a_tagger_that_only_says_o_does_not_shine(select, finetune, text_handoff, tmp_path, capfd):
    """Its accuracy is the share of O, and its own metric, of entities, is 0."""
    generator = np.random.default_rng(0)
    tags = [["B-LOC" if place == row % 10 else "O" for place in range(10)] for row in range(30)]
    for split in ("train", "validation", "test"):
        words = [[str(word) for word in generator.choice(["bada", "kefe", "logo"], 10)] for _ in tags]
        write(tmp_path / "tags" / f"{split}.parquet", {"tokens": words, "tags": tags})
    learnt = ["optimizer.peak_lr=1e-3", "trainer.max_steps=30", "trainer.val_every=30"]
    data = f"data.path={tmp_path / 'tags'}"
    run = finetune("task=tagging", f"handoff={text_handoff}", data, f"task.select={select}", *SHORT, *learnt)
    found, said = numbers(run), capfd.readouterr().err
    assert (found["test/entity_f1"], found["test/accuracy"]) == (0.0, pytest.approx(0.9))
    last = next(line for line in said.splitlines() if line.startswith("test "))
    both = {"entity_f1": "entity_f1 0.000 [0.000, 0.000]", "accuracy": "accuracy 0.900 [0.900, 0.900]"}
    other = next(text for name, text in both.items() if name != select)
    assert last == f"test {both[select]}, {other}; always 'O' would give accuracy 0.900"
    assert "every prediction is 'O': nothing was told apart" in said


def test_what_is_told_apart_is_not_called_degenerate(finetune, text_handoff, topics, capfd):
    run = finetune(
        *("task=text_classification", f"handoff={text_handoff}", f"data.path={topics}", "task.inputs.max_tokens=32"),
        *("trainer.max_steps=40", "trainer.val_every=20", "trainer.log_every=20", "optimizer.peak_lr=3e-3"),
        "logger.progress=true",
    )
    said, found = capfd.readouterr().err, numbers(run)
    assert "nothing was told apart" not in said and found["test/classes_predicted"] == 3
    assert "always " in said and found["test/majority_accuracy"] == pytest.approx(1 / 3, abs=0.01)
    assert re.search(r"step 20/40  loss [\d.]+  validation accuracy [\d.]+ \(always one class: 0\.\d+\)", said)
    assert "schedule: peak rate 0.003 after 4 of 40 steps" in said, "warm-up is a tenth of the run by default"


def test_a_warm_up_that_the_epochs_do_not_buy_is_cut_and_said(finetune, text_handoff, topics, capfd):
    finetune(
        *("task=text_classification", f"handoff={text_handoff}", f"data.path={topics}", "task.inputs.max_tokens=32"),
        *("trainer.max_steps=10", "optimizer.warmup_steps=20"),
    )
    assert (
        "warmup_steps=20 is longer than the run of 10 steps: warm-up takes 1, a tenth of them" in capfd.readouterr().err
    )
