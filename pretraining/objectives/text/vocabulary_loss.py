"""What is predicted over the vocabulary, and its loss, without ever holding the scores of a whole batch.

Shapes: K predictions of a micro-batch (padded), D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretraining.engine.batch import Batch, Term
from pretraining.kernels.cross_entropy import NO_LABEL, vocabulary_cross_entropy
from pretraining.objectives.base import Loss, Objective
from pretraining.text.backbones.language_head import scores
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT

PREDICTIONS_MULTIPLE = 64  # predictions are padded to a multiple of it
SCORES_AT_ONCE = 2**28  # more than so many are computed in chunks, and again in the backward pass


class TextObjective(Objective):
    """What objectives on text share."""

    modality = TEXT
    backbone: TransformersBackbone

    def scored(self, name: str, states: Tensor, bias: Tensor, labels: Tensor, weight: float = 1.0) -> Loss:
        """Sum the cross-entropy at `labels` [K] of a head's `states` [K, D]; its output weights are the embeddings."""
        table, accuracy = self.backbone.input_embeddings.weight, not self.training
        return tied_vocabulary_loss(name, states, table, bias, labels, with_accuracy=accuracy, weight=weight)


def padded_targets(positions: np.ndarray, labels: np.ndarray, at_least: int = 0) -> Batch:
    """Make the part of a batch that says what is predicted where: `target_positions` in the flat [B, T], and `labels`.

    Both are padded, with position 0 and `NO_LABEL`, to hold `at_least` so many. int64 [K] each.
    """
    count = max(len(positions), at_least)
    padding = -(-count // PREDICTIONS_MULTIPLE) * PREDICTIONS_MULTIPLE - len(positions)
    labels = np.pad(labels.astype(np.int64, copy=False), (0, padding), constant_values=NO_LABEL)
    return {"target_positions": torch.from_numpy(np.pad(positions, (0, padding))), "labels": torch.from_numpy(labels)}


def counted(labels: Tensor) -> Tensor:
    """Count the predictions, without padding. []"""
    return (labels != NO_LABEL).sum()


def tied_vocabulary_loss(
    name: str, states: Tensor, table: Tensor, bias: Tensor, labels: Tensor, *, with_accuracy: bool, weight: float = 1.0
) -> Loss:
    """Sum the cross-entropy at `labels` [K] of scores `states` [K, D] times `table` [V, D] plus `bias` [V]."""
    total = vocabulary_cross_entropy(states, table, bias, labels)
    correct = (F.linear(states, table, bias).argmax(-1) == labels).sum() if with_accuracy else None
    return _loss(name, labels, total, correct, weight)


def vocabulary_loss(
    name: str, backbone: TransformersBackbone, hidden: Tensor, labels: Tensor, *, with_accuracy: bool
) -> Loss:
    """Sum the cross-entropy at `labels` [K] of the model's own scores of `hidden` [K, D], in fp32 at least."""

    def one(part: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        found = scores(backbone, part)
        total = F.cross_entropy(found, wanted, ignore_index=NO_LABEL, reduction="sum")
        return total, (found.argmax(-1) == wanted).sum() if with_accuracy else wanted.new_zeros(())

    size = max(SCORES_AT_ONCE // backbone.model.config.vocab_size, 1)
    if len(labels) <= size:
        total, correct = one(hidden, labels)
    else:
        pairs = zip(hidden.split(size), labels.split(size), strict=True)
        parts = [checkpoint(one, part, wanted, use_reentrant=False, preserve_rng_state=False) for part, wanted in pairs]
        total, correct = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    return _loss(name, labels, total, correct if with_accuracy else None)


def _loss(name: str, labels: Tensor, total: Tensor, correct: Tensor | None, weight: float = 1.0) -> Loss:
    count = counted(labels)
    metrics = {} if correct is None else {f"{name}_accuracy": Term(correct, count)}
    return Loss({name: Term(total, count, weight)}, metrics)
