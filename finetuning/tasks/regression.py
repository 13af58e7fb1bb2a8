"""A real number for a text, or for a pair of texts judged together.

Shapes: N examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import SPLITS, Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.text import Tokens, encode_texts
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


class TextRegression(Task):
    """A linear layer on the pooled vector; mean squared error. It starts at the mean of the training labels."""

    modality = TEXT
    term = "squared_error"

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
        self.head = linear_head(self.backbone.dim, 1, dropout, bias=labels["mean"])

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Take the mean of the training labels; labels that are no numbers are an error."""
        for name in SPLITS:
            odd = [label for label in getattr(splits, name).column("label") if not _is_number(label)]
            if odd:
                raise RunError(
                    f"got {odd[0]!r} among the {name} labels, but numbers are needed: name another data.label, "
                    "or take task=text_classification"
                )
        train = np.array(splits.train.column("label"), float)
        if np.ptp(train) == 0:
            raise RunError(f"got the same number ({train[0]}) as every training label: name another data.label")
        return {"mean": float(train.mean())}

    def blank(self) -> Any:
        """Give any number."""
        return 0.0

    def encode(self, examples: Examples) -> Tokens:
        """Tokenise with the hand-off's tokenizer."""
        targets = list(np.array(examples.column("label"), np.float32)[:, None, None])  # [1, 1] each
        return encode_texts(examples, targets, self.preprocess, self.backbone, self.max_tokens)

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum the squared errors."""
        errors = logits.float() - batch["targets"]  # [N, 1]
        return Term(errors.square().sum(), torch.tensor(float(len(errors)), device=errors.device))

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Take the numbers as they are."""
        return Judged(np.concatenate(encoded.targets)[:, 0].astype(float), np.concatenate(outputs)[:, 0].astype(float))

    def metrics(self, judged: Judged) -> Numbers:
        """Compute Pearson's and Spearman's correlation and the errors."""
        return metrics.regression(judged.labels, judged.predictions)

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap all of them."""
        return metrics.bootstrap(
            lambda rows: metrics.regression(judged.labels[rows], judged.predictions[rows]), len(judged.labels)
        )


def _is_number(label: Any) -> bool:
    return isinstance(label, (int, float)) and not isinstance(label, bool) and bool(np.isfinite(label))
