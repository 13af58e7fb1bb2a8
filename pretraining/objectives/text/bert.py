"""BERT's objective (Devlin et al. 2019): masked language modelling and next-sentence prediction on the same batch.

Shapes: B pairs, T tokens, K predictions of a micro-batch (padded).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.objectives.init_from import PAIR_HEADS, TOKEN_HEADS
from pretraining.objectives.text.masked_language import MaskTokens, TokenHead
from pretraining.objectives.text.masking import Unit
from pretraining.objectives.text.next_sentence import PairHead, PairSentences, assemble_pairs, pair_batch
from pretraining.objectives.text.sentence_pairs import Negatives
from pretraining.objectives.text.vocabulary_loss import counted, tied_vocabulary_loss
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.cost import TextRow
from pretraining.text.modality import TEXT
from pretraining.text.plan import TextExamples
from pretraining.text.tokenizer import TextPreprocess


class MaskPairs(PairSentences):
    """Turns pairs of segments into rows with hidden tokens: what `PairSentences` lays out, `MaskTokens` hides."""

    def __init__(
        self,
        *,
        preprocess: TextPreprocess,
        max_tokens: int,
        negatives: Negatives,
        short_share: float,
        fraction: float | Mapping[str, float],
        unit: Unit,
        mask_share: float,
        random_share: float,
    ) -> None:
        rows: dict[str, Any] = {"preprocess": preprocess, "max_tokens": max_tokens}
        super().__init__(**rows, negatives=negatives, short_share=short_share)
        self.masking = MaskTokens(
            **rows, fraction=fraction, unit=unit, mask_share=mask_share, random_share=random_share
        )

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay pairs out and hide tokens."""
        input_ids, segments, special = assemble_pairs(examples, self.max_tokens, self.preprocess)
        hidden, targets = self.masking.hide(input_ids, special, keys)
        return pair_batch(examples, segments, hidden) | targets


class Bert(Objective):
    """`mlm_weight` times the mean over hidden tokens plus `nsp_weight` times the mean over pairs, both reported."""

    modality = TEXT
    foreign_heads: ClassVar[dict[str, tuple[str, ...]]] = {"token_head.": TOKEN_HEADS, "pair_head.output.": PAIR_HEADS}
    backbone: TransformersBackbone

    def __init__(
        self, *, backbone: TransformersBackbone, optimizer: Optimizer, mlm_weight: float, nsp_weight: float
    ) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.mlm_weight, self.nsp_weight = mlm_weight, nsp_weight
        self.token_head, self.pair_head = TokenHead(backbone), PairHead(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Predict the hidden tokens and classify the pairs of a batch of `MaskPairs`."""
        features = self.backbone(**batch["inputs"])
        hidden = features.positions.flatten(0, 1).index_select(0, batch["target_positions"])
        states, bias, embeddings = self.token_head(hidden), self.token_head.bias, self.backbone.input_embeddings.weight
        tokens = tied_vocabulary_loss(
            "mlm", states, embeddings, bias, batch["labels"], with_accuracy=not self.training, weight=self.mlm_weight
        )
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
