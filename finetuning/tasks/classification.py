"""One class per example, of text or images.

Shapes: N examples, D width, C classes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.labels import Classes, survey_classes
from finetuning.metrics import classification as metrics
from finetuning.metrics.classification import Numbers
from finetuning.modes import Mode
from finetuning.task import Judged, Task
from pretraining.engine.batch import Batch, Term
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer


class Classification(Task):
    """A linear layer on the pooled vector, after dropout; cross-entropy.

    With `class_weights=balanced` each class takes the same share of it.
    """

    class_weights: Tensor  # [C]
    top: ClassVar[int | None] = None  # report the share of examples whose class is among this many best

    def __init__(
        self,
        *,
        handoff: Handoff,
        labels: dict[str, Any],
        mode: Mode,
        optimizer: Optimizer,
        select: str,
        dropout: float,
        class_weights: Literal["balanced"] | None,
    ) -> None:
        super().__init__(handoff=handoff, labels=labels, mode=mode, optimizer=optimizer, select=select)
        self.classes = Classes(labels["values"], labels["names"])
        self.head = linear_head(self.backbone.dim, self.classes.size, dropout)
        if class_weights not in (None, "balanced"):
            raise RunError(f"got task.class_weights={class_weights}: choose balanced or null")
        counts = torch.tensor(labels["counts"], dtype=torch.float64)
        weights = counts.sum() / (counts * len(counts)) if class_weights else torch.ones_like(counts)
        self.register_buffer("class_weights", weights.float(), persistent=False)

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Collect the classes."""
        return survey_classes(splits)

    def blank(self) -> Any:
        """Give any class."""
        return self.classes.values[0]

    def target_rows(self, examples: Examples) -> list[np.ndarray]:
        """Give each example's class number as an array of one."""
        return list(self.classes.numbers(examples.column("label"))[:, None])

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum the cross-entropy, weighted by class."""
        targets = batch["targets"]
        total = F.cross_entropy(logits.float(), targets, weight=self.class_weights, reduction="sum")
        return Term(total, self.class_weights[targets].sum())

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the targets, weighted by class."""
        return {self.term: self.class_weights[batch["targets"]].sum()}

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Take the most probable class."""
        scores = softmax(np.concatenate(outputs))
        return Judged(np.concatenate(encoded.targets), scores.argmax(1), scores)

    def metrics(self, judged: Judged) -> Numbers:
        """Compute accuracy, precision, recall, F1, MCC and calibration."""
        values = metrics.classification(judged.labels, judged.scores)
        if self.top is not None and self.classes.size > self.top:
            values[f"accuracy_top{self.top}"] = metrics.top_k(judged.labels, judged.scores, self.top)
        return values

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap accuracy, MCC, precision, recall, F1, calibration error and log loss."""
        values = metrics.label_intervals(judged.labels, judged.predictions) | metrics.score_intervals(
            judged.labels, judged.scores
        )
        if self.top is not None and self.classes.size > self.top:
            share = metrics.top_k(judged.labels, judged.scores, self.top)
            values[f"accuracy_top{self.top}"] = metrics.share_interval(share, len(judged.labels))
        return values

    def report(self, judged: Judged) -> dict[str, Any]:
        """Give numbers per class and the confusion matrix."""
        return metrics.report(judged.labels, judged.predictions, self.classes.names)

    def table(self, judged: Judged) -> dict[str, Any]:
        """Name the classes; `scores` are the probabilities in the order of the classes."""
        names = np.array(self.classes.names)
        return {"label": names[judged.labels], "prediction": names[judged.predictions], "scores": list(judged.scores)}


def linear_head(width: int, outputs: int, dropout: float, bias: float = 0.0) -> nn.Sequential:
    """Make a linear layer after dropout, its weights small and its biases constant, as pretrained encoders are usually given."""
    layer = nn.Linear(width, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.constant_(layer.bias, bias)
    return nn.Sequential(nn.Dropout(dropout), layer)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
