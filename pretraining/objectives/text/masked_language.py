"""Masked language modelling (Devlin et al. 2019, "BERT", section 3.1): predict hidden tokens from both sides.

Shapes: B rows, T tokens, K predictions of a micro-batch (padded), D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.text.masking import Unit, choose, corrupt
from pretraining.objectives.text.span_boundary import BoundaryHead, neighbours
from pretraining.objectives.text.vocabulary_loss import NO_LABEL, TextObjective, counted, padded_targets
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import PackedDocuments, TextCollate, assemble, describe_row, text_batch
from pretraining.text.cost import TextRow
from pretraining.text.plan import TextExamples


@dataclass(kw_only=True, eq=False)
class HidingTokens(TextCollate):
    """A collate that hides tokens of its rows.

    `fraction` of each row's ordinary tokens is predicted, an exact count (`{start, end}`: from one to the other,
    linearly over the run, and `end` in evaluation); of these, `mask_share` become [MASK], `random_share` a random
    ordinary token, and the rest stay.
    """

    fraction: float | Mapping[str, float] = 0.15
    unit: Unit = "token"
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        self.fractions = _start_and_end(self.fraction)
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            shares = f"collate.mask_share={self.mask_share} and collate.random_share={self.random_share}"
            raise ValueError(f"{shares} must be shares of 1")
        if self.preprocess.mask_id is None:
            raise ValueError("masked language modelling needs a tokenizer with a mask token: take another preprocess=")
        self.mask_id: int = self.preprocess.mask_id

    def fraction_at(self, progress: float) -> float:
        """Compute the share of tokens to predict after this share of the run."""
        start, end = self.fractions
        return start + (end - start) * progress

    def hide(
        self, input_ids: np.ndarray, special: np.ndarray, keys: Keys, at_least: int = 0
    ) -> tuple[np.ndarray, Batch]:
        """Hide ordinary tokens of laid-out rows: what the model sees [B, T], and what it is to predict."""
        starts = None if self.unit == "token" else self.preprocess.starts_word[input_ids]
        chosen = choose(~special, keys, fraction=self.fraction_at(keys.progress), unit=self.unit, word_starts=starts)
        ids: dict[str, Any] = {"mask_id": self.mask_id, "ordinary_ids": self.preprocess.ordinary_ids}
        shares: dict[str, Any] = {"mask_share": self.mask_share, "random_share": self.random_share}
        hidden = corrupt(input_ids, chosen, keys, **ids, **shares, per_span=self.unit == "span")
        positions = np.flatnonzero(chosen)
        return hidden, padded_targets(positions, input_ids.reshape(-1)[positions], at_least)


@dataclass(kw_only=True, eq=False)
class MaskTokens(HidingTokens, PackedDocuments):
    """Turns documents into rows with hidden tokens: the collate of masked language modelling.

    Predictions are padded to a multiple of 64, or with `static_shapes` to the same number in each batch.
    """

    static_shapes: bool = False

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay rows out and hide tokens."""
        input_ids, document_ids, special = assemble(examples, self.max_tokens, self.preprocess)
        most = len(input_ids) * max(1, round(max(self.fractions) * self.max_tokens)) if self.static_shapes else 0
        hidden, targets = self.hide(input_ids, special, keys, most)
        return text_batch(hidden, document_ids) | targets

    def describe(self, batch: Batch, count: int) -> list[str]:
        """Decode rows: what the model reads, and what it should answer at the hidden places."""
        rows, tokens = batch["inputs"]["input_ids"].shape
        texts = []
        for row in range(min(count, rows)):
            here = (batch["target_positions"] // tokens == row) & (batch["labels"] != NO_LABEL)
            wanted = self.preprocess.tokenizer.convert_ids_to_tokens(batch["labels"][here].tolist())
            texts.append(describe_row(self.preprocess, batch, row, " | ".join(wanted)))
        return texts


def _start_and_end(fraction: float | Mapping[str, float]) -> tuple[float, float]:
    """Read a constant or scheduled fraction."""
    if isinstance(fraction, Mapping):
        if set(fraction) != {"start", "end"}:
            keys = sorted(fraction)
            raise ValueError(f"collate.fraction has the keys {keys}: give one number, or {{start: …, end: …}}")
        start, end = fraction["start"], fraction["end"]
    else:
        start = end = fraction
    if not (0 < start < 1 and 0 < end < 1):
        raise ValueError(f"collate.fraction must lie between 0 and 1, got {fraction}")
    return start, end


class TokenHead(nn.Module):
    """BERT's prediction head: a layer, its activation and norm, and the token embeddings as output weights."""

    def __init__(self, backbone: TransformersBackbone) -> None:
        super().__init__()
        config = backbone.model.config
        self.dense = nn.Linear(backbone.dim, backbone.dim)
        epsilon = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        self.norm = nn.LayerNorm(backbone.dim, eps=epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.dense.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(self.dense.bias)

    def flops(self) -> float:
        """Count one prediction's forward pass."""
        return 2.0 * (self.dense.weight.numel() + self.dense.out_features * len(self.bias))

    def forward(self, hidden: Tensor) -> Tensor:
        """Compute what is multiplied by the token embeddings: [K, D] -> [K, D]."""
        return self.norm(F.gelu(self.dense(hidden)))


class MaskedLanguage(TextObjective):
    """Cross-entropy in nats at the hidden tokens, and nowhere else: no [B, T, V] scores are ever made.

    `boundary_weight` above 0 adds SpanBERT's span-boundary objective: a hidden token from its span's neighbours.
    """

    library_heads: ClassVar[tuple[str, ...]] = ("head",)

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer, boundary_weight: float = 0.0) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.head, self.boundary_weight = TokenHead(backbone), boundary_weight
        if boundary_weight:
            self.boundary_head = BoundaryHead(backbone.dim, vocab_size=len(self.head.bias))

    def loss(self, batch: Batch) -> Loss:
        """Predict the hidden tokens of a batch of `MaskTokens`."""
        positions, labels, inputs = batch["target_positions"], batch["labels"], batch["inputs"]
        if not self.boundary_weight:
            return self.scored("mlm", self.head(self.backbone.at(positions, **inputs)), self.head.bias, labels)
        hidden = self.backbone(**inputs).positions.flatten(0, 1)
        found = self.scored("mlm", self.head(hidden.index_select(0, positions)), self.head.bias, labels)
        around, head = neighbours(positions, labels, inputs["document_ids"]), self.boundary_head
        beside = self.scored("sbo", head(hidden, around), head.bias, around.labels, self.boundary_weight)
        return Loss(found.terms | beside.terms, found.metrics | beside.metrics)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden tokens, and those between neighbours."""
        counts = {"mlm": counted(batch["labels"])}
        if self.boundary_weight:
            around = neighbours(batch["target_positions"], batch["labels"], batch["inputs"]["document_ids"])
            counts["sbo"] = counted(around.labels)
        return counts

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone on all tokens and the heads on the hidden ones."""
        heads = self.head.flops() + (self.boundary_head.flops() if self.boundary_weight else 0.0)
        return self.backbone.forward_flops(row) + row.target_positions * heads
