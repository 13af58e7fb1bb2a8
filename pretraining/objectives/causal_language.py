"""Causal language modelling (Radford et al. 2019, "GPT-2"): predict each next token of a document.

Shapes: B rows, T tokens, K predictions of a micro-batch (padded).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pretraining.backbones.base import TextRow
from pretraining.backbones.huggingface import TransformersBackbone
from pretraining.backbones.language_head import check_head
from pretraining.data.corpus import Corpus
from pretraining.data.plan import Rows, TextExamples, assemble, document_spans, pack_documents
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.objectives.cross_entropy import NO_LABEL
from pretraining.objectives.vocabulary import vocabulary_loss
from pretraining.optim import Optimizer
from pretraining.preprocess.text import TextPreprocess
from pretraining.random import Keys

PREDICTIONS_MULTIPLE = 64


class NextTokens:
    """Turns documents into packed rows and each token's successor: the collate of causal language modelling.

    A document's tokens see and predict only tokens of the same document; its end token is predicted, its first token is not.
    """

    def __init__(self, *, preprocess: TextPreprocess, max_tokens: int) -> None:
        if preprocess.last_id is None:
            raise ValueError("causal language modelling needs a tokenizer with an end token: choose another preprocess=")
        self.preprocess, self.max_tokens = preprocess, max_tokens

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Pack whole documents into rows; the same rows each epoch, in another order."""
        return pack_documents(corpus, self.max_tokens, self.preprocess.specials_per_document)

    def spans(self, rows: Rows) -> np.ndarray:
        """Give the tokens of each document, special ones included."""
        return document_spans(rows, self.preprocess.specials_per_document)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out; nothing is drawn."""
        input_ids, documents, _ = assemble(examples, self.max_tokens, self.preprocess)
        followed = np.zeros(documents.shape, dtype=bool)
        followed[:, :-1] = (documents[:, :-1] == documents[:, 1:]) & (documents[:, :-1] > 0)
        places = np.flatnonzero(followed)
        padding = -len(places) % PREDICTIONS_MULTIPLE
        labels = input_ids.reshape(-1)[places + 1].astype(np.int64)
        return {
            "input_ids": torch.from_numpy(input_ids.astype(np.int64)),
            "documents": torch.from_numpy(documents.astype(np.int64)),
            "predicted": torch.from_numpy(np.pad(places, (0, padding))),
            "labels": torch.from_numpy(np.pad(labels, (0, padding), constant_values=NO_LABEL)),
            "tokens": int((documents > 0).sum()),
        }


class CausalLanguage(Objective):
    """Cross-entropy in nats of each token given those before it in its document."""

    modality = "text"
    backbone: TransformersBackbone

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        if backbone.architecture != "causal":
            raise ValueError(
                f"causal language modelling needs a decoder, but {backbone.model.config.model_type} is a model of architecture="
                f"{backbone.architecture}: choose backbone=gpt2_tiny or gpt2, or set backbone.architecture=causal"
            )
        check_head(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the successors in a batch of `NextTokens`."""
        features = self.backbone(input_ids=batch["input_ids"], documents=batch["documents"])
        hidden = features.positions.flatten(0, 1).index_select(0, batch["predicted"])
        return vocabulary_loss("causal", self.backbone, hidden, batch["labels"], with_accuracy=not self.training)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the predicted tokens."""
        return {"causal": (batch["labels"] != NO_LABEL).sum()}

    def forward_flops(self, shape: Sequence[float]) -> float:
        """Count the backbone on all tokens and the model's head on those that are predicted; `shape` is a `TextRow`."""
        row = TextRow(*shape)
        return self.backbone.forward_flops(row) + 2.0 * row.predicted * self.backbone.model.get_output_embeddings().weight.numel()
