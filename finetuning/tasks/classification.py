"""One class per example, whatever an example is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.labels import Classes, collect_classes
from finetuning.metrics import classification as metrics
from finetuning.metrics.bootstrap import Intervals, Numbers, share_interval
from finetuning.metrics.reference import Answers
from finetuning.task import Predictions, Task, TaskParts
from pretraining.engine.batch import Batch
from pretraining.errors import RunError


class Classification(Task):
    """A linear layer on the pooled vector, after dropout; cross-entropy.

    With `class_weights=balanced` each class takes the same share of it. `top`: report the share of examples whose class
    is among this many best.
    """

    transformers_class = "AutoModelForSequenceClassification"
    measures = ("loss", "accuracy", "mcc", *metrics.AVERAGES, "calibration_error", "log_loss", "accuracy_top")
    class_weights: Tensor  # [classes]

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: Inputs,
        select: str,
        dropout: float = 0.1,
        class_weights: Literal["balanced"] | None = None,
        top: int | None = None,
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.classes = Classes(self.labels["values"], self.labels["names"])
        self.placeholder = self.classes.values[0]
        self.head = self.layers.head(self.classes.size, dropout)
        if class_weights not in (None, "balanced"):
            raise RunError(f"got task.class_weights={class_weights}: choose balanced or null")
        counts = torch.tensor(self.labels["counts"], dtype=torch.float64)
        weights = counts.sum() / (counts * len(counts)) if class_weights else torch.ones_like(counts)
        self.register_buffer("class_weights", weights.float(), persistent=False)
        self.top = top if top is not None and self.classes.size > top else None

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect the classes."""
        return collect_classes(splits)

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Number each example's class."""
        return list(self.classes.numbers(examples.column("label"))[:, None])

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cross-entropy, weighted by class."""
        return F.cross_entropy(logits.float(), batch["targets"], weight=self.class_weights, reduction="sum")

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the targets, weighted by class."""
        return {self.term: self.class_weights[batch["targets"]].sum()}

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Take the most probable class."""
        scores = softmax(np.concatenate(outputs))
        return Predictions(np.concatenate(split.targets), scores.argmax(1), scores)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute accuracy, precision, recall, F1, MCC and calibration."""
        return metrics.classification(predictions.labels, predictions.scores) | self._among_best(predictions)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap accuracy, MCC, precision, recall, F1, calibration error and log loss."""
        labels, guesses, scores = predictions
        shares = {name: share_interval(share, len(labels)) for name, share in self._among_best(predictions).items()}
        return metrics.label_intervals(labels, guesses) | metrics.score_intervals(labels, scores) | shares

    def _among_best(self, predictions: Predictions) -> Numbers:
        if self.top is None:
            return {}
        return {f"accuracy_top{self.top}": metrics.top_k(predictions.labels, predictions.scores, self.top)}

    def answers(self, predictions: Predictions) -> Answers:
        """Name the classes."""
        names = self.classes.names
        return Answers(*([names[number] for number in numbers] for numbers in predictions[:2]))

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """Tabulate numbers per class and the confusion matrix."""
        return metrics.report(predictions.labels, predictions.predictions, self.classes.names)

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """Name the classes; `scores` are the probabilities in the order of the classes."""
        names, (labels, guesses, scores) = np.array(self.classes.names), predictions
        return {"label": names[labels], "prediction": names[guesses], "scores": list(scores)}

    def unlabelled_table(self, predictions: Predictions) -> dict[str, Any]:
        """Give each class's score by its name."""
        return super().unlabelled_table(predictions) | {"scores": self.classes.by_name(predictions.scores)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
