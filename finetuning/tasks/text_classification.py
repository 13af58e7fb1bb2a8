"""Classes of texts, or of pairs of texts judged together."""

from __future__ import annotations

from typing import Any, Literal

from finetuning.data.splits import Examples
from finetuning.inputs.text import Tokens, encode_texts
from finetuning.modes import Mode
from finetuning.tasks.classification import Classification
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer
from pretraining.text.modality import TEXT


class TextClassification(Classification):
    """Classes of texts cut to `max_tokens`; a `text_pair` column makes it a task on pairs."""

    modality = TEXT

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
        max_tokens: int,
    ) -> None:
        super().__init__(
            handoff=handoff,
            labels=labels,
            mode=mode,
            optimizer=optimizer,
            select=select,
            dropout=dropout,
            class_weights=class_weights,
        )
        self.max_tokens = max_tokens

    def encode(self, examples: Examples) -> Tokens:
        """Tokenise with the hand-off's tokenizer, and number the classes."""
        return encode_texts(examples, self.target_rows(examples), self.preprocess, self.backbone, self.max_tokens)
