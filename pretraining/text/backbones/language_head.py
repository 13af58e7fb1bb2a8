"""A language model's own head: from hidden states to scores of the vocabulary.

Shapes: K hidden states, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.text.backbones.transformers_model import TransformersBackbone

_RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")


def check_head(backbone: TransformersBackbone) -> None:
    """Refuse models without a language-model head, and those whose head does more to its scores than add a bias."""
    config = backbone.model.config
    if backbone.architecture == "encoder" or backbone.model.get_output_embeddings() is None:
        told = f"{config.model_type} has no language-model head here"
        raise ValueError(f"{told}: choose a backbone= with architecture causal or seq2seq")
    odd = [name for name in _RESCALED if getattr(config, name, None) not in (None, 1, 1.0)]
    if odd:
        told = f"{config.model_type} rescales its scores ({', '.join(odd)}), which this head does not"
        raise ValueError(f"{told}: choose another backbone=")


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
