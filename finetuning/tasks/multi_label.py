"""Any number of classes per text.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import SPLITS, Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.text import Tokens, encode_texts
from finetuning.labels import Classes, name_classes
from finetuning.metrics import classification as metrics
from finetuning.metrics.classification import Numbers
from finetuning.modes import Mode
from finetuning.task import Judged, Task
from finetuning.tasks.classification import linear_head
from pretraining.engine.batch import Batch, Term
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer
from pretraining.text.modality import TEXT


class TextMultiLabel(Task):
    """A linear layer on the pooled vector; each class is a yes or no of its own, with binary cross-entropy, predicted at one half."""

    modality = TEXT
    term = "binary_cross_entropy"

    def __init__(
        self,
        *,
        handoff: Handoff,
        labels: dict[str, Any],
        mode: Mode,
        optimizer: Optimizer,
        select: str,
        dropout: float,
        max_tokens: int,
    ) -> None:
        super().__init__(handoff=handoff, labels=labels, mode=mode, optimizer=optimizer, select=select)
        self.max_tokens = max_tokens
        self.classes = Classes(labels["values"], labels["names"])
        self.head = linear_head(self.backbone.dim, self.classes.size, dropout)

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Collect the classes that occur in training."""
        found = {}
        for name in SPLITS:
            rows = getattr(splits, name).column("label")
            single = [row for row in rows if not isinstance(row, list)]
            if single:
                raise RunError(
                    f"got {single[0]!r} as a label in {name}, but a list of classes is needed: take task=text_classification"
                )
            found[name] = Counter(value for row in rows for value in row)
        unseen = sorted((found["validation"].keys() | found["test"].keys()) - found["train"].keys(), key=str)
        if not found["train"] or unseen:
            raise RunError(
                f"got labels that training has no example of ({', '.join(map(repr, unseen[:8])) or 'there are none in it'})"
            )
        values = sorted(found["train"])
        return {"values": values, "names": name_classes(values, splits.class_names)}

    def blank(self) -> Any:
        """Give no class."""
        return []

    def encode(self, examples: Examples) -> Tokens:
        """Tokenise, and mark each example's classes."""
        targets = [np.zeros((1, self.classes.size), np.float32) for _ in range(examples.size)]
        for target, row in zip(targets, examples.column("label"), strict=True):
            target[0, self.classes.numbers(row)] = 1.0
        return encode_texts(examples, targets, self.preprocess, self.backbone, self.max_tokens)

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum, over examples, the mean binary cross-entropy of the classes."""
        each = F.binary_cross_entropy_with_logits(logits.float(), batch["targets"], reduction="none").mean(1)  # [N]
        return Term(each.sum(), each.new_tensor(float(len(each))))

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Take each class that is more probable than not."""
        scores = 1 / (1 + np.exp(-np.concatenate(outputs).astype(float)))
        return Judged(np.concatenate(encoded.targets).astype(int), (scores > 0.5).astype(int), scores)

    def metrics(self, judged: Judged) -> Numbers:
        """Compute exact accuracy, precision, recall, F1 and Hamming loss."""
        return metrics.multi_label(judged.labels, judged.scores)

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap all of them."""
        return metrics.bootstrap(
            lambda rows: metrics.multi_label(judged.labels[rows], judged.scores[rows]), len(judged.labels)
        )

    def table(self, judged: Judged) -> dict[str, Any]:
        """Name the classes."""
        named = {key: [[self.classes.names[place] for place in np.flatnonzero(row)] for row in rows]
                 for key, rows in (("label", judged.labels), ("prediction", judged.predictions))}  # fmt: skip
        return {**named, "scores": list(judged.scores)}
