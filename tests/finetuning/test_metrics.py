"""Metrics and their intervals against other libraries and against slow resampling."""

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn import metrics as sk

from finetuning.metrics import classification as metrics
from finetuning.metrics import generation, squad, tagging
from finetuning.metrics.bootstrap import share_interval
from finetuning.metrics.regression import regression
from finetuning.tasks.classification import Classification
from finetuning.tasks.generation import Generation
from finetuning.tasks.multi_label import MultiLabel
from finetuning.tasks.question_answering import QuestionAnswering
from finetuning.tasks.regression import Regression
from finetuning.tasks.tagging import Tagging

WORDS = ["the", "a", "An", "cat", "Cat.", "sat,", "on", "mat!", "42", "42nd", "U.S.", "naïve", "—", "re-do", "x", ""]


def drawn(count: int = 60, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    powers = np.exp(logits)
    return labels, powers / powers.sum(1, keepdims=True)


def resampled(metric, size: int, resamples: int = 400) -> tuple[float, float]:
    generator = np.random.default_rng(7)
    return tuple(np.percentile([metric(generator.integers(0, size, size)) for _ in range(resamples)], [2.5, 97.5]))


def test_each_task_names_what_it_measures() -> None:
    labels, scores = drawn()
    pairs = [["B-A", "O"], ["O", "B-A"]]
    golds = [["a"], []]
    found = {
        Classification: metrics.classification(labels, scores) | {"accuracy_top": 0.0},
        MultiLabel: metrics.multi_label(np.eye(4, dtype=int)[labels], scores),
        Regression: regression(scores[:, 0], scores[:, 1]),
        Tagging: metrics.label_metrics(labels, scores.argmax(1)) | tagging.entities(pairs, pairs),
        QuestionAnswering: squad.summary(golds, ["a", "b"]),
        Generation: generation.summary([["a b"], ["c d"]], ["a b", "c e"]),
    }
    assert {task: sorted(task.measures) for task in found} == {
        task: sorted(["loss", *numbers]) for task, numbers in found.items()
    }


def test_calibration_and_the_best_five_equal_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

    labels, scores = drawn(400, 9)
    given = torch.tensor(scores), torch.tensor(labels)
    assert metrics.calibration_error(labels, scores) == pytest.approx(
        float(MulticlassCalibrationError(9, n_bins=15)(*given)), abs=1e-5
    )
    assert metrics.top_k(labels, scores, 5) == pytest.approx(
        float(MulticlassAccuracy(9, top_k=5, average="micro")(*given))
    )


@pytest.mark.parametrize("name", ["accuracy", "mcc", "f1_macro", "precision_macro", "recall_macro"])
def test_intervals_of_labels_are_those_of_resampled_examples(name: str) -> None:
    labels, scores = drawn(80)
    guess = scores.argmax(1)
    functions = {
        "accuracy": sk.accuracy_score,
        "mcc": sk.matthews_corrcoef,
        "f1_macro": lambda a, b: sk.f1_score(a, b, average="macro", zero_division=0),
        "precision_macro": lambda a, b: sk.precision_score(a, b, average="macro", zero_division=0),
        "recall_macro": lambda a, b: sk.recall_score(a, b, average="macro", zero_division=0),
    }
    slow = resampled(lambda rows: functions[name](labels[rows], guess[rows]), 80)
    found = metrics.label_intervals(labels, guess)[name]
    assert found == pytest.approx(slow, abs=0.25 * (slow[1] - slow[0]))


def test_intervals_of_scores_are_those_of_resampled_examples() -> None:
    labels, scores = drawn(90, 5)
    found = metrics.score_intervals(labels, scores)
    assert found.keys() == {"calibration_error", "log_loss"}
    slow = resampled(lambda rows: sk.log_loss(labels[rows], scores[rows], labels=np.arange(5)), 90)
    assert found["log_loss"] == pytest.approx(slow, abs=0.25 * (slow[1] - slow[0]))
    slow = resampled(lambda rows: metrics.calibration_error(labels[rows], scores[rows]), 90)
    assert found["calibration_error"] == pytest.approx(slow, abs=0.25 * (slow[1] - slow[0]))


def test_the_interval_of_a_share_is_that_of_resampled_examples() -> None:
    right = np.random.default_rng(0).random(90) < 0.7
    slow = resampled(lambda rows: right[rows].mean(), 90)
    assert share_interval(right.mean(), 90) == pytest.approx(slow, abs=0.03)


def tags(generator: np.random.Generator, scheme: str, count: int = 12) -> list[list[str]]:
    """Draw tags without any regard to what may follow what."""
    known = ["O", *(f"{mark}-{kind}" for mark in scheme for kind in ("PER", "LOC"))]
    return [generator.choice(known, generator.integers(1, 9)).tolist() for _ in range(count)]


@pytest.mark.parametrize("scheme", ["BI", "BIES", "I"])
@pytest.mark.parametrize("seed", range(5))
def test_entities_of_malformed_tags_equal_seqeval(scheme: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = tags(generator, scheme)
    guesses = [
        [tag if generator.random() < 0.6 else str(generator.choice(tags(generator, scheme, 1)[0])) for tag in row]
        for row in labels
    ]
    values = tagging.entities(labels, guesses)
    assert values["entity_f1"] == pytest.approx(f1_score(labels, guesses)) and values["entity_f1"] < 1
    counts = np.array([tagging.tag_counts(*row, True) for row in zip(labels, guesses, strict=True)]).sum(0)
    assert counts[2] / counts[3] == pytest.approx(precision_score(labels, guesses))
    assert counts[2] / counts[4] == pytest.approx(recall_score(labels, guesses))


def test_exact_match_and_f1_equal_torchmetrics_on_awkward_answers() -> None:
    from torchmetrics.text import SQuAD

    generator, judge = np.random.default_rng(0), SQuAD()
    pick = lambda: " ".join(generator.choice(WORDS, generator.integers(1, 5)))  # noqa: E731
    golds = [[pick() for _ in range(generator.integers(1, 4))] for _ in range(200)]
    guesses = [known[0].upper() if number % 3 == 0 else pick() for number, known in enumerate(golds)]
    # The v1 script, which torchmetrics follows, gives two empty answers no F1; v2, followed here, gives them 1.
    kept = [row for row, known in enumerate(golds) if all(squad.normalized(text) for text in (*known, guesses[row]))]
    assert len(kept) > 100
    judge.update(
        [{"prediction_text": guesses[row], "id": str(row)} for row in kept],
        [{"answers": {"text": golds[row], "answer_start": [0] * len(golds[row])}, "id": str(row)} for row in kept],
    )
    expected, ours = judge.compute(), squad.summary([golds[row] for row in kept], [guesses[row] for row in kept])
    assert ours["exact_match"] * 100 == pytest.approx(float(expected["exact_match"]), abs=1e-3)
    assert (
        ours["f1"] * 100 == pytest.approx(float(expected["f1"]), abs=1e-3) and 0 < ours["exact_match"] < ours["f1"] < 1
    )
