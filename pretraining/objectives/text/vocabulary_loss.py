"""The loss over a language model's own head, without ever holding the scores of a whole batch.

Shapes: K predictions, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretraining.engine.batch import Term
from pretraining.kernels.cross_entropy import NO_LABEL
from pretraining.objectives.base import Loss
from pretraining.text.backbones.language_head import scores
from pretraining.text.backbones.transformers_model import TransformersBackbone

SCORES_AT_ONCE = 2**28  # more than so many are computed in chunks, and again in the backward pass


def vocabulary_loss(
    name: str, backbone: TransformersBackbone, hidden: Tensor, labels: Tensor, *, with_accuracy: bool
) -> Loss:
    """Sum the cross-entropy of `hidden` [K, D] at `labels` [K]; `NO_LABEL` entries count for nothing."""

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
    count = (labels != NO_LABEL).sum()
    return Loss({name: Term(total, count)}, {f"{name}_accuracy": Term(correct, count)} if with_accuracy else {})
