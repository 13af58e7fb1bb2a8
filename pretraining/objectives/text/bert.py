"""BERT's objective (Devlin et al. 2019): masked language modelling and next-sentence prediction on the same batch.

Shapes: B pairs, T tokens, K predictions of a micro-batch (padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.text.masked_language import HidingTokens, TokenHead
from pretraining.objectives.text.next_sentence import PairHead, PairSentences, assemble_pairs, pair_batch
from pretraining.objectives.text.vocabulary_loss import TextObjective, counted
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.cost import TextRow
from pretraining.text.plan import TextExamples


@dataclass(kw_only=True, eq=False)
class MaskPairs(PairSentences, HidingTokens):
    """Turns pairs of segments into rows with hidden tokens: what `PairSentences` lays out, `HidingTokens` hides."""

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay pairs out and hide tokens."""
        input_ids, segments, special = assemble_pairs(examples, self.max_tokens, self.preprocess)
        hidden, targets = self.hide(input_ids, special, keys)
        return pair_batch(examples, segments, hidden) | targets


class Bert(TextObjective):
    """`mlm_weight` times the mean over hidden tokens plus `nsp_weight` times the mean over pairs, both reported."""

    library_heads: ClassVar[tuple[str, ...]] = ("token_head", "pair_head")

    def __init__(
        self, *, backbone: TransformersBackbone, optimizer: Optimizer, mlm_weight: float = 1.0, nsp_weight: float = 1.0
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.mlm_weight, self.nsp_weight = mlm_weight, nsp_weight
        self.token_head, self.pair_head = TokenHead(backbone), PairHead(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the hidden tokens and classify the pairs of a batch of `MaskPairs`."""
        features = self.backbone(**batch["inputs"])
        hidden = features.positions.flatten(0, 1).index_select(0, batch["target_positions"])
        head, labels = self.token_head, batch["labels"]
        tokens = self.scored("mlm", head(hidden), head.bias, labels, self.mlm_weight)
        pairs = self.pair_head(features.pooled, batch["is_random"])
        nsp = pairs.terms["nsp"]._replace(weight=self.nsp_weight)
        return Loss({**tokens.terms, "nsp": nsp}, {**tokens.metrics, **pairs.metrics})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the hidden tokens and the pairs."""
        pairs = batch["is_random"]
        return {"mlm": counted(batch["labels"]), "nsp": torch.full((), len(pairs), device=pairs.device)}

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone on all tokens, one head on the hidden ones and the other on the pair."""
        heads = row.target_positions * self.token_head.flops() + self.pair_head.flops()
        return self.backbone.forward_flops(row) + heads
