"""Masked language modelling (Devlin et al. 2019, "BERT", section 3.1): predict hidden tokens from both sides.

Shapes: B rows, T tokens, K predictions of a micro-batch (padded), D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.engine.batch import Term
from pretraining.kernels.cross_entropy import NO_LABEL, vocabulary_cross_entropy
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.objectives.init_from import TOKEN_HEADS
from pretraining.objectives.text.masking import Unit, choose, corrupt
from pretraining.objectives.text.span_boundary import BoundaryHead, neighbours
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.cost import TextRow
from pretraining.text.modality import TEXT
from pretraining.text.plan import Rows, TextExamples, assemble, document_spans, pack_documents
from pretraining.text.tokenizer import TextPreprocess


class MaskTokens:
    """Turns documents into rows with hidden tokens: the collate of masked language modelling.

    `fraction` of each row's ordinary tokens is predicted, an exact count (`{start, end}`: from one to the other, linearly over the run, and
    `end` in evaluation); of these, `mask_share` become [MASK], `random_share` a random
    ordinary token, and the rest stay. Predictions are padded to a multiple of 64, or with `static_shapes` to the same number in each batch.
    """

    def __init__(
        self,
        *,
        preprocess: TextPreprocess,
        max_tokens: int,
        fraction: float | Mapping[str, float],
        unit: Unit,
        mask_share: float,
        random_share: float,
        static_shapes: bool = False,
    ) -> None:
        self.fractions = _start_and_end(fraction)
        if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise ValueError(
                f"collate.mask_share={mask_share} and collate.random_share={random_share} must be shares of 1"
            )
        if preprocess.mask_id is None:
            raise ValueError(
                "masked language modelling needs a tokenizer with a mask token: choose another preprocess="
            )
        self.mask_id: int = preprocess.mask_id
        self.preprocess, self.max_tokens, self.unit = preprocess, max_tokens, unit
        self.mask_share, self.random_share, self.static_shapes = mask_share, random_share, static_shapes
        self.ordinary_ids = np.setdiff1d(np.arange(preprocess.vocab_size), preprocess.special_ids)

    def plan(self, corpus: Any, seed: int, epoch: int) -> Rows:
        """Pack whole documents into rows; the same rows each epoch, in another order."""
        return pack_documents(corpus, self.max_tokens, self.preprocess.specials_per_document)

    def spans(self, rows: Rows) -> np.ndarray:
        """Give the tokens of each document, special ones included."""
        return document_spans(rows, self.preprocess.specials_per_document)

    def fraction_at(self, progress: float) -> float:
        """Give the share of tokens to predict after this share of the run."""
        start, end = self.fractions
        return start + (end - start) * progress

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out and hide tokens."""
        input_ids, document_ids, special = assemble(examples, self.max_tokens, self.preprocess)
        batch = self.hide(input_ids, special, keys)
        batch["inputs"]["document_ids"] = torch.from_numpy(document_ids.astype(np.int64))
        return batch | {"units": int((document_ids > 0).sum())}

    def hide(self, input_ids: np.ndarray, special: np.ndarray, keys: Keys) -> Batch:
        """Hide ordinary tokens of laid-out rows [B, T]: what the model sees, the places to predict, and their labels."""
        starts = None if self.unit == "token" else self.preprocess.starts_word[input_ids]
        chosen = choose(~special, keys, fraction=self.fraction_at(keys.progress), unit=self.unit, word_starts=starts)
        hidden = corrupt(
            input_ids,
            chosen,
            keys,
            mask_id=self.mask_id,
            ordinary_ids=self.ordinary_ids,
            mask_share=self.mask_share,
            random_share=self.random_share,
            per_span=self.unit == "span",
        )
        target_positions, labels = self._predictions(input_ids, chosen)
        return {
            "inputs": {"input_ids": torch.from_numpy(hidden.astype(np.int64))},
            "target_positions": torch.from_numpy(target_positions),
            "labels": torch.from_numpy(labels),
        }

    def describe(self, batch: Batch, count: int) -> list[str]:
        """Decode rows: what the model reads, and what it should answer at the hidden places."""
        tokenizer, tokens = self.preprocess.tokenizer, batch["inputs"]["input_ids"].shape[1]
        texts = []
        for row in range(min(count, len(batch["inputs"]["input_ids"]))):
            here = (batch["target_positions"] // tokens == row) & (batch["labels"] != NO_LABEL)
            real = batch["inputs"]["input_ids"][row][batch["inputs"]["document_ids"][row] > 0]
            wanted = " | ".join(tokenizer.convert_ids_to_tokens(batch["labels"][here].tolist()))
            texts.append(f"  input   {tokenizer.decode(real)}\n  target  {wanted}")
        return texts

    def _predictions(self, input_ids: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the flat places to predict and their labels, padded with place 0 and `NO_LABEL`. int64 [K] each."""
        places = np.flatnonzero(chosen)
        most = (
            len(input_ids) * max(1, round(max(self.fractions) * self.max_tokens)) if self.static_shapes else len(places)
        )
        padding = max(-(-most // 64) * 64 - len(places), 0)
        labels = np.pad(input_ids.reshape(-1)[places].astype(np.int64), (0, padding), constant_values=NO_LABEL)
        return np.pad(places, (0, padding)), labels


def _start_and_end(fraction: float | Mapping[str, float]) -> tuple[float, float]:
    """Read a constant or scheduled fraction."""
    if isinstance(fraction, Mapping):
        if set(fraction) != {"start", "end"}:
            raise ValueError(
                f"collate.fraction has the keys {sorted(fraction)}: give one number, or {{start: …, end: …}}"
            )
        start, end = fraction["start"], fraction["end"]
    else:
        start = end = fraction
    if not (0 < start < 1 and 0 < end < 1):
        raise ValueError(f"collate.fraction must lie between 0 and 1, got {fraction}")
    return start, end


class TokenHead(nn.Module):
    """BERT's prediction head: a layer, its activation and norm, and the token embeddings as output weights."""

    def __init__(self, *, dim: int, vocab_size: int, initializer_range: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=initializer_range)
        nn.init.zeros_(self.dense.bias)

    @classmethod
    def of(cls, backbone: TransformersBackbone) -> TokenHead:
        """Build the head that fits a backbone, under its own initialisation."""
        config = backbone.model.config
        return cls(
            dim=backbone.dim,
            vocab_size=config.vocab_size,
            initializer_range=getattr(config, "initializer_range", 0.02),
            layer_norm_eps=getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12)),
        )

    def flops(self) -> float:
        """Count one prediction's forward pass."""
        return 2.0 * (self.dense.weight.numel() + self.dense.out_features * len(self.bias))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute what is multiplied by the token embeddings: [K, D] -> [K, D]."""
        return self.norm(F.gelu(self.dense(hidden)))


class MaskedLanguage(Objective):
    """Cross-entropy in nats at the hidden tokens, and nowhere else: no [B, T, V] scores are ever made.

    `boundary_weight` above 0 adds SpanBERT's span-boundary objective, which predicts a hidden token from its span's neighbours.
    """

    modality = TEXT
    foreign_heads: ClassVar[dict[str, tuple[str, ...]]] = {"head.": TOKEN_HEADS}
    backbone: TransformersBackbone

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer, boundary_weight: float = 0.0) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.head, self.boundary_weight = TokenHead.of(backbone), boundary_weight
        if boundary_weight:
            self.boundary_head = BoundaryHead(backbone.dim, vocab_size=len(self.head.bias))

    def loss(self, batch: Batch) -> Loss:
        """Predict the hidden tokens of a batch of `MaskTokens`."""
        embeddings, inputs = self.backbone.input_embeddings.weight, batch["inputs"]
        if not self.boundary_weight:
            states = self.head(self.backbone.at(batch["target_positions"], **inputs))
            return token_loss(
                "mlm", states, embeddings, self.head.bias, batch["labels"], with_accuracy=not self.training
            )
        hidden = self.backbone(**inputs).positions.flatten(0, 1)
        states = self.head(hidden.index_select(0, batch["target_positions"]))
        found = token_loss("mlm", states, embeddings, self.head.bias, batch["labels"], with_accuracy=not self.training)
        around = neighbours(batch["target_positions"], batch["labels"], batch["inputs"]["document_ids"])
        states, bias = self.boundary_head(hidden, around), self.boundary_head.bias
        beside = token_loss(
            "sbo", states, embeddings, bias, around.labels, with_accuracy=not self.training, weight=self.boundary_weight
        )
        return Loss(found.terms | beside.terms, found.metrics | beside.metrics)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden tokens, and those between neighbours."""
        counts = {"mlm": (batch["labels"] != NO_LABEL).sum()}
        if self.boundary_weight:
            labels = neighbours(batch["target_positions"], batch["labels"], batch["inputs"]["document_ids"]).labels
            counts["sbo"] = (labels != NO_LABEL).sum()
        return counts

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone on all tokens and the heads on the hidden ones."""
        heads = self.head.flops() + (self.boundary_head.flops() if self.boundary_weight else 0.0)
        return self.backbone.forward_flops(row) + row.target_positions * heads


def token_loss(
    name: str,
    states: Tensor,
    embeddings: Tensor,
    bias: Tensor,
    labels: Tensor,
    *,
    with_accuracy: bool,
    weight: float = 1.0,
) -> Loss:
    """Sum the cross-entropy of scores `states` [K, D] times `embeddings` [V, D] plus `bias` [V] at `labels` [K], in fp32 at least.

    `NO_LABEL` entries count for nothing.
    """
    count = (labels != NO_LABEL).sum()
    total = vocabulary_cross_entropy(states, embeddings, bias, labels)
    if not with_accuracy:
        return Loss({name: Term(total, count, weight)})
    scores = F.linear(states, embeddings, bias)
    correct = (scores.argmax(-1) == labels).sum()
    return Loss({name: Term(total, count, weight)}, {f"{name}_accuracy": Term(correct, count)})
