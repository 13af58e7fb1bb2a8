"""The loss over a language model's own head, without ever holding the scores of a whole batch.

Shapes: K predictions, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretraining.backbones.huggingface import TransformersBackbone
from pretraining.objectives.base import Loss
from pretraining.objectives.masked_language import NO_LABEL
from pretraining.step import Term

SCORES_AT_ONCE = 2**28  # more than so many are computed in chunks, and again in the backward pass
_RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def check_head(backbone: TransformersBackbone) -> None:
    """Refuse models without a language-model head, and those whose head does more to its scores than add a bias."""
    config = backbone.model.config
    if backbone.architecture == "encoder" or backbone.model.get_output_embeddings() is None:
        raise ValueError(f"{config.model_type} has no language-model head here: choose a backbone= with architecture causal or seq2seq")
    odd = [name for name in _RESCALED if getattr(config, name, None) not in (None, 1, 1.0)]
    if odd:
        raise ValueError(f"{config.model_type} rescales its scores ({', '.join(odd)}), which this head does not: choose another backbone=")


def scores(backbone: TransformersBackbone, hidden: Tensor) -> Tensor:
    """Score the vocabulary as the model's own head does: hidden [K, D] -> [K, V], in fp32 at least."""
    model = backbone.model
    if getattr(model.config, "scale_decoder_outputs", False):  # T5, where input and output embeddings are one
        hidden = hidden * backbone.dim**-0.5
    head = model.get_output_embeddings()
    found = F.linear(hidden, head.weight, head.bias)
    offset = getattr(model, "final_logits_bias", None)  # BART
    found = found if offset is None else found + offset.to(found.dtype)
    return found if found.dtype == torch.float64 else found.float()


def vocabulary_loss(name: str, backbone: TransformersBackbone, hidden: Tensor, labels: Tensor, *, with_accuracy: bool) -> Loss:
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
