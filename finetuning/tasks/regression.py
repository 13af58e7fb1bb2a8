"""A real number for each example."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap
from finetuning.metrics.regression import regression
from finetuning.task import Predictions, Task, TaskParts
from pretraining.data.splits import SPLITS
from pretraining.engine.batch import Batch
from pretraining.errors import RunError

LARGEST = float(np.finfo(np.float32).max)  # of what a network computes with


class Regression(Task):
    """A linear layer on the pooled vector; mean squared error. It starts at the mean of the training labels."""

    term = "squared_error"
    transformers_class = "AutoModelForSequenceClassification"
    problem_type = "regression"
    measures = ("loss", "pearson", "spearman", "mse", "mae")
    placeholder = 0.0

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str, dropout: float = 0.1) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.head = self.layers.head(1, dropout, bias=self.labels["mean"])

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Compute the mean of the training labels; labels that are no numbers are an error."""
        parts = {name: getattr(splits, name) for name in SPLITS}
        odd = [
            (_reads_as_number(label), label, name, row)
            for name, examples in parts.items()
            for row, label in enumerate(examples.column("label"))
            if not _is_number(label)
        ]
        if odd:  # one "n/a" makes a column text, in whatever split it is
            _, label, name, row = min(odd, key=lambda found: found[0])
            what = f"got {label!r} among the {name} labels, but numbers are needed, up to {LARGEST:.3g}"
            where = parts[name].place(row)
            raise RunError(f"{what} ({where}): name another data.label, or take task=text_classification")
        train = np.array(splits.train.column("label"), float)
        if np.ptp(train) == 0:
            raise RunError(f"got the same number ({train[0]}) as every training label: name another data.label")
        return {"mean": float(train.mean())}

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """List the numbers. [1, 1] each"""
        return list(np.array(examples.column("label"), np.float32)[:, None, None])

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the squared errors."""
        return (logits.float() - batch["targets"]).square().sum()

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Take the numbers as they are."""
        return Predictions(*(np.concatenate(rows)[:, 0].astype(float) for rows in (split.targets, outputs)))

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute Pearson's and Spearman's correlation and the errors."""
        return regression(predictions.labels, predictions.predictions)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap all of them."""
        labels, guesses, _ = predictions
        return bootstrap(lambda rows: regression(labels[rows], guesses[rows]), len(labels))


def _reads_as_number(label: Any) -> bool:
    try:
        return bool(np.isfinite(float(label)))
    except (TypeError, ValueError):
        return False


def _is_number(label: Any) -> bool:
    return isinstance(label, (int, float)) and not isinstance(label, bool) and abs(label) <= LARGEST
