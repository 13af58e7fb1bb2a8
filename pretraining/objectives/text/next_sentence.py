"""Next-sentence prediction (Devlin et al. 2019, section 3.1), and sentence order prediction (Lan et al. 2020).

Shapes: B pairs, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.engine.batch import Term
from pretraining.objectives.base import Batch, Loss
from pretraining.objectives.text.sentence_pairs import SPECIALS, Negatives, check_pairs, plan_pairs
from pretraining.objectives.text.vocabulary_loss import TextObjective
from pretraining.optim.optimizers import Optimizer
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import TextCollate, padding_of, text_batch
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.cost import TextRow
from pretraining.text.plan import Rows, TextExamples, cached_rows, row_spans
from pretraining.text.tokenizer import TextPreprocess

PLAN_FORMAT = 1  # raised when the same arguments would give other pairs


@dataclass(kw_only=True, eq=False)
class PairSentences(TextCollate):
    """Turns pairs of segments into rows `[CLS] A [SEP] B [SEP]`: the collate of next-sentence prediction.

    Label 0: B follows A. With `negatives` "random", B of a negative comes from another document; with "swapped", the
    two segments change places. `short_share` of the documents aim at a random length below `max_tokens`.
    """

    negatives: Negatives = "random"
    short_share: float = 0.1

    def __post_init__(self) -> None:
        if self.preprocess.bos_id is None or self.preprocess.eos_id is None:
            told = "pairs of segments need a tokenizer with a first and a separating token ([CLS], [SEP])"
            raise ValueError(f"{told}: choose another preprocess=")
        check_pairs(self.max_tokens, self.negatives)
        super().__post_init__()

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Draw an epoch's pairs; another epoch has others."""
        settings = {"max_tokens": self.max_tokens, "negatives": self.negatives, "short_share": self.short_share}
        place = {"seed": seed, "epoch": epoch}
        parts = {"plan": "sentence_pairs", "pair_format": PLAN_FORMAT, **settings, **place}
        return cached_rows(corpus, parts, lambda: plan_pairs(corpus, **settings, **place))  # type: ignore[arg-type]

    def spans(self, rows: Rows) -> np.ndarray:
        """Measure each pair, special tokens included. int64 [B]."""
        return row_spans(rows, SPECIALS)

    def __call__(self, examples: TextExamples, keys: Keys) -> Batch:
        """Lay pairs out; nothing is left to draw."""
        input_ids, segments, _ = assemble_pairs(examples, self.max_tokens, self.preprocess)
        return pair_batch(examples, segments, input_ids)


def pair_batch(examples: TextExamples, segments: np.ndarray, input_ids: np.ndarray) -> Batch:
    """Make a batch of pairs of their tokens [B, T]; `segments` [B, T] is 0 at padding, 1 in A and 2 in B."""
    is_random = torch.from_numpy(np.array(examples.columns["label"], dtype=np.int64))
    return text_batch(input_ids, segments > 0, token_type_ids=segments == 2) | {"is_random": is_random}


def assemble_pairs(
    examples: TextExamples, max_tokens: int, preprocess: TextPreprocess
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay pairs out as `[CLS] A [SEP] B [SEP] padding`.

    Returns [B, T] each: int64 input_ids; int64 segments, 0 at padding, 1 up to the first [SEP], then 2; bool special.
    """
    if (examples.row_pieces != 2).any():
        raise ValueError("a row of sentence pairs has two pieces: take the plan of this collate")
    first, second = examples.piece_lengths.reshape(-1, 2).T[..., None]  # [B, 1] each
    assert preprocess.bos_id is not None and preprocess.eos_id is not None
    place = np.arange(max_tokens)
    a_end, end = first + 1, first + second + SPECIALS  # the first [SEP]; behind the last one
    if end.size and end.max() > max_tokens:
        raise ValueError(f"a pair of {end.max()} tokens does not fit into max_tokens={max_tokens}: plan shorter pairs")
    segments = (place < end) * (1 + (place > a_end))
    special = (place == 0) | (place == a_end) | (place >= end - 1)
    input_ids = np.where(place < end, np.int64(preprocess.eos_id), np.int64(padding_of(preprocess)))
    input_ids[:, 0] = preprocess.bos_id
    input_ids[~special] = examples.tokens
    return input_ids, segments, special


class PairHead(nn.Module):
    """Scores a pooled pair: does B follow A, or not."""

    def __init__(self, backbone: TransformersBackbone) -> None:
        super().__init__()
        self.output = nn.Linear(backbone.dim, 2)
        nn.init.normal_(self.output.weight, std=getattr(backbone.model.config, "initializer_range", 0.02))
        nn.init.zeros_(self.output.bias)

    def flops(self) -> float:
        """Count one pair's forward pass."""
        return 2.0 * self.output.weight.numel()

    def forward(self, pooled: Tensor, labels: Tensor) -> Loss:
        """Sum the cross-entropy over pairs. pooled [B, D], labels [B]."""
        scores = self.output(pooled)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        count = torch.full((), len(labels), device=labels.device)
        total = F.cross_entropy(scores, labels, reduction="sum")
        metrics = {"nsp_accuracy": (scores.argmax(-1) == labels).sum(), "nsp_negatives": labels.sum()}
        return Loss({"nsp": Term(total, count)}, {name: Term(value, count) for name, value in metrics.items()})


class NextSentence(TextObjective):
    """Cross-entropy in nats of "B follows A" (0) or not (1). Reports the share of negatives, above one half."""

    library_heads: ClassVar[tuple[str, ...]] = ("head",)

    def __init__(self, *, backbone: TransformersBackbone, optimizer: Optimizer) -> None:
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.head = PairHead(backbone)

    def loss(self, batch: Batch) -> Loss:
        """Classify the pairs of a batch of `PairSentences`."""
        return self.head(self.backbone(**batch["inputs"]).pooled, batch["is_random"])

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the pairs."""
        pairs = batch["is_random"]
        return {"nsp": torch.full((), len(pairs), device=pairs.device)}

    def forward_flops(self, row: TextRow) -> float:
        """Count the backbone on all tokens and the head on the pair."""
        return self.backbone.forward_flops(row) + self.head.flops()
