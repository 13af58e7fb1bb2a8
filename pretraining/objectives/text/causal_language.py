"""Causal language modelling (Radford et al. 2019, "GPT-2"): predict each next token of a document.

Shapes: B rows, T tokens, K predictions of a micro-batch (padded).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.text.vocabulary_loss import TextObjective, counted, padded_targets, vocabulary_loss
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.language_head import check_head
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import PackedDocuments, assemble, text_batch
from pretraining.text.cost import TextRow
from pretraining.text.plan import TextExamples


class NextTokens(PackedDocuments):
    """Turns documents into packed rows and each token's successor: the collate of causal language modelling.

    A document's tokens see and predict only tokens of the same document; its end token is predicted, its first is not.
    """

    def __post_init__(self) -> None:
        if self.preprocess.eos_id is None:
            raise ValueError("causal language modelling needs a tokenizer with an end token: take another preprocess=")

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out; nothing is drawn."""
        input_ids, document_ids, _ = assemble(examples, self.max_tokens, self.preprocess)
        followed = np.zeros(document_ids.shape, dtype=bool)
        followed[:, :-1] = (document_ids[:, :-1] == document_ids[:, 1:]) & (document_ids[:, :-1] > 0)
        positions = np.flatnonzero(followed)
        return text_batch(input_ids, document_ids) | padded_targets(positions, input_ids.reshape(-1)[positions + 1])


class CausalLanguage(TextObjective):
    """Cross-entropy in nats of each token given those before it in its document."""

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if backbone.architecture != "causal":
            told = f"{backbone.model.config.model_type} is a model of architecture={backbone.architecture}"
            remedy = "choose backbone=gpt2_tiny or gpt2, or set backbone.architecture=causal"
            raise ValueError(f"causal language modelling needs a decoder, but {told}: {remedy}")
        check_head(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the successors in a batch of `NextTokens`."""
        hidden = self.backbone.at(batch["target_positions"], **batch["inputs"])
        return vocabulary_loss("causal", self.backbone, hidden, batch["labels"], with_accuracy=not self.training)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the predicted tokens."""
        return {"causal": counted(batch["labels"])}

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone on all tokens and the model's head on those that are predicted."""
        head = 2.0 * self.backbone.model.get_output_embeddings().weight.numel()
        return self.backbone.forward_flops(row) + row.target_positions * head
