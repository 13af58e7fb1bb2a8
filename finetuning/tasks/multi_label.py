"""Any number of classes per example."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.labels import Classes, count_labels, name_classes, refuse_unseen
from finetuning.metrics import classification as metrics
from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap
from finetuning.metrics.reference import Answers
from finetuning.task import Predictions, Task, TaskParts
from pretraining.data.splits import SPLITS
from pretraining.engine.batch import Batch
from pretraining.errors import RunError


class MultiLabel(Task):
    """A linear layer on the pooled vector; each class is a yes or no of its own, with binary cross-entropy."""

    term = "binary_cross_entropy"
    transformers_class = "AutoModelForSequenceClassification"
    problem_type = "multi_label_classification"
    measures = ("loss", "accuracy", "hamming_loss", *metrics.AVERAGES)
    placeholder: Any = ()

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str, dropout: float = 0.1) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.classes = Classes(self.labels["values"], self.labels["names"])
        self.head = self.layers.head(self.classes.size, dropout)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect the classes that occur in training."""
        found = count_labels(splits, _listed)
        values = sorted(found["train"])
        if not values:
            raise RunError("got training examples without any class: name another data.label")
        refuse_unseen(found, values)
        for name in SPLITS:
            _refuse_indicators(getattr(splits, name), len(values))
        return {"values": values, "names": name_classes(values, splits.class_names)}

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Mark each example's classes. [1, classes] each"""
        targets = [np.zeros((1, self.classes.size), np.float32) for _ in range(examples.size)]
        for target, row in zip(targets, examples.column("label"), strict=True):
            target[0, self.classes.numbers(row)] = 1.0
        return targets

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum, over examples, the mean binary cross-entropy of the classes."""
        return F.binary_cross_entropy_with_logits(logits.float(), batch["targets"], reduction="none").mean(1).sum()

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Take each class that is more probable than not."""
        scores = 1 / (1 + np.exp(-np.concatenate(outputs).astype(float)))
        return Predictions(np.concatenate(split.targets).astype(int), (scores > 0.5).astype(int), scores)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute exact accuracy, precision, recall, F1 and Hamming loss."""
        return metrics.multi_label(predictions.labels, predictions.scores)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap all of them."""
        labels, _, scores = predictions
        return bootstrap(lambda rows: metrics.multi_label(labels[rows], scores[rows]), len(labels))

    def answers(self, predictions: Predictions) -> Answers:
        """Take each combination of classes for an answer."""
        names = np.array(self.classes.names)
        return Answers(*([", ".join(names[row == 1]) or "no class" for row in rows] for rows in predictions[:2]))

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Name the classes."""
        names = np.array(self.classes.names)
        labels, guesses = ([names[row == 1].tolist() for row in rows] for rows in predictions[:2])
        return {"label": labels, "prediction": guesses, "scores": list(predictions.scores)}

    def unlabelled_table(self, predictions: Predictions) -> dict[str, Any]:
        """Give each class's score by its name."""
        return super().unlabelled_table(predictions) | {"scores": self.classes.by_name(predictions.scores)}


def _refuse_indicators(examples: Examples, classes: int) -> None:
    """Refuse vectors of zeros and ones, which are no lists of classes."""
    remedy = "give each row the list of its classes (the indicator vector [1, 0, 0] is [0])"
    rows = examples.column("label")
    twice = next((row for row, label in enumerate(rows) if len(set(label)) < len(label)), None)
    if twice is not None:
        raise RunError(f"got {rows[twice]} as classes at {examples.place(twice)}, one of them twice: {remedy}")
    if classes == 2 and all(len(label) == 2 for label in rows):
        raise RunError(f"got both classes in every row, such as {rows[0]} at {examples.place(0)}: {remedy}")


def _listed(rows: list[Any]) -> list[Any]:
    single = [row for row in rows if not isinstance(row, list)]
    if single:
        raise RunError(f"got {single[0]!r} as a label, but a list of classes is needed: take task=text_classification")
    return [value for row in rows for value in row]
