"""Where transformers keeps the pretraining heads of encoders: to continue with its checkpoints, and to write such."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PLACES = {  # part of our heads: what BERT, RoBERTa, ModernBERT, DistilBERT and ELECTRA call it
    "dense": (
        *("cls.predictions.transform.dense", "lm_head.dense", "head.dense"),
        *("vocab_transform", "generator_predictions.dense"),
    ),
    "norm": (
        *("cls.predictions.transform.LayerNorm", "lm_head.layer_norm", "head.norm"),
        *("vocab_layer_norm", "generator_predictions.LayerNorm"),
    ),
    "bias": (
        *("cls.predictions.bias", "lm_head.bias", "decoder.bias"),
        *("vocab_projector.bias", "generator_lm_head.bias"),
    ),
    "output": ("cls.seq_relationship",),  # of pairs of sentences
}
TOKENS, SENTENCES = frozenset({"dense", "norm", "bias"}), frozenset({"output"})  # the parts of a whole head
LOADERS = {  # heads: the automatic class of transformers whose models have both, or one
    TOKENS | SENTENCES: "AutoModelForPreTraining",
    TOKENS: "AutoModelForMaskedLM",
    SENTENCES: "AutoModelForNextSentencePrediction",
}


def parts_of(heads: Mapping[str, Any]) -> frozenset[str]:
    """Name the parts whose weights are given."""
    return frozenset(name.partition(".")[0] for name in heads)


def found_in(weights: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Find what our heads call `name` ("dense.weight") among transformers' `weights`; None where it is not there."""
    part, _, rest = name.partition(".")
    places = (f"{place}.{rest}" if rest else place for place in PLACES.get(part, ()))
    return next((weights[place] for place in places if place in weights), None)


@torch.no_grad()
def with_heads(base: Any, heads: Mapping[str, Tensor]) -> Any:
    """Build transformers' model of the encoder `base` with `heads` behind it; a form without one is a `ValueError`."""
    import transformers

    loader, config = LOADERS[parts_of(heads)], copy.deepcopy(base.config)
    if hasattr(config, "classifier_bias"):  # ModernBERT's layer in front of its scores has none by default
        config.classifier_bias = True
    try:
        model = getattr(transformers, loader).from_config(config, attn_implementation="sdpa").eval()
    except ValueError as error:
        raise ValueError(f"transformers has no {loader} of {config.model_type}") from error
    inner, known = model.base_model, base.state_dict()
    inner.load_state_dict({name: known[name] for name in inner.state_dict()})
    places, given = dict(model.named_parameters()), dict(heads)
    if "norm.bias" in given and found_in(places, "norm.bias") is None:  # ModernBERT's norms: it moves behind the scores
        given["bias"] = given["bias"] + base.get_input_embeddings().weight @ given.pop("norm.bias")
    for name, weight in given.items():
        place = found_in(places, name)
        if place is None or place.shape != weight.shape:
            raise ValueError(f"{type(model).__name__} has no place for the head's {name.partition('.')[0]}")
        place.copy_(weight)
    return model
