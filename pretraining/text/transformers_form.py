"""A hand-off of text as a folder of transformers, pretraining heads included."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pretraining.backbones.base import Backbone
from pretraining.backbones.library_heads import SENTENCES, TOKENS, parts_of, with_heads
from pretraining.backbones.transformers_loading import quieten
from pretraining.data.files import say
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import padding_of
from pretraining.text.tokenizer import TextPreprocess, longest_text

TOLERANCE = 1e-4  # of scores


def write_transformers(given: Handoff, directory: Path) -> None:
    """Write weights, config and tokenizer: of decoders and encoder–decoders as they are, of encoders with their heads.

    A head that transformers has no class for is left out where there is another one, and else refused.
    """
    backbone, preprocess = given.backbone, given.preprocess
    if not isinstance(backbone, TransformersBackbone):
        raise HandoffError(f"transformers has no pretraining class of {type(backbone).__name__}: {_alone(given)}")
    model = backbone.model if backbone.architecture != "encoder" else _encoder_with_heads(given, backbone, preprocess)
    quieten()
    model.save_pretrained(directory)
    save_tokenizer(preprocess, backbone, directory, plain=False)


def _encoder_with_heads(given: Handoff, backbone: TransformersBackbone, preprocess: TextPreprocess) -> Any:
    heads, reasons = heads_of(given), []
    for parts in dict.fromkeys((parts_of(heads), TOKENS, SENTENCES)):
        kept = {name: weight for name, weight in heads.items() if name.partition(".")[0] in parts}
        if parts_of(kept) != parts:
            continue
        try:
            model = with_heads(backbone.model, kept)
            _compare(model, kept, backbone.eval(), preprocess)
        except ValueError as error:
            reasons.append(str(error))
            continue
        if reasons:
            say(f"{reasons[0]}: written as {type(model).__name__}, without that head")
        return model
    raise HandoffError(f"{reasons[0]}: {_alone(given)}")


def heads_of(given: Handoff) -> dict[str, Tensor]:
    """Read the heads that transformers may have a class for, by the names of their parts; none is an error.

    Which these are is said by the objective: `library_heads`.
    """
    known = getattr(given.objective, "library_heads", ())
    written = "heads.safetensors" in given.card["sha256"] and given.card["origin"].get("objective") != "random"
    weights = load_file(Path(given.path) / "heads.safetensors") if written else {}
    named = ((name.partition("."), weight) for name, weight in weights.items())
    heads = {rest: weight for (head, _, rest), weight in named if head in known}
    if not heads:
        what = f"a hand-off of {given.card['origin'].get('objective')} holds no head that transformers has a class for"
        raise HandoffError(f"{what}: {_alone(given)}")
    left = sorted({name.partition(".")[0] for name in weights} - set(known))
    if left:
        say(f"transformers has no class for {', '.join(left)}: left out")
    return heads


def _alone(given: Handoff) -> str:
    if given.directory is None:
        return "take to=onnx, which writes the network alone"
    return f"the network alone is read from the hand-off itself (AutoModel.from_pretrained({str(given.directory)!r}))"


def made_up_rows(preprocess: TextPreprocess) -> tuple[Tensor, Tensor]:
    """Draw two rows of ordinary tokens, the second one padded; returns ids and which of them are real. int64 [2, 12]"""
    ordinary = torch.from_numpy(preprocess.ordinary_ids)
    ids = ordinary[torch.randint(0, len(ordinary), (2, 12), generator=torch.Generator().manual_seed(0))]
    real = torch.ones_like(ids)
    real[1, 8:] = 0
    ids[1, 8:] = padding_of(preprocess)  # RoBERTa reads off it which positions count
    return ids, real


@torch.no_grad()
def _compare(model: Any, heads: Mapping[str, Tensor], backbone: Any, preprocess: TextPreprocess) -> None:
    """Refuse a model whose scores of made-up rows are others than the hand-off's."""
    ids, real = made_up_rows(preprocess)
    features, config = backbone(input_ids=ids, document_ids=real), backbone.model.config
    output, parts = model(input_ids=ids, attention_mask=real), parts_of(heads)
    theirs = {SENTENCES: output.get("seq_relationship_logits", output.get("logits"))}
    theirs[TOKENS] = output.get("prediction_logits", output.get("logits"))
    if parts >= TOKENS:
        states = F.gelu(F.linear(features.positions, heads["dense.weight"], heads["dense.bias"]))
        epsilon = getattr(config, "layer_norm_eps", getattr(config, "norm_eps", 1e-12))
        states = F.layer_norm(states, states.shape[-1:], heads["norm.weight"], heads["norm.bias"], epsilon)
        ours = F.linear(states, backbone.input_embeddings.weight, heads["bias"])
        if not torch.allclose(ours[real > 0], theirs[TOKENS][real > 0], atol=TOLERANCE):
            raise ValueError(f"{type(model).__name__} scores tokens in another way than this network's head")
    if parts >= SENTENCES:
        ours = F.linear(features.pooled, heads["output.weight"], heads["output.bias"])
        if not torch.allclose(ours, theirs[SENTENCES], atol=TOLERANCE):
            how = f"{type(model).__name__} scores pairs by its pooler, not by backbone.pooling={backbone.pooling}"
            raise ValueError(how)


def has_segments(backbone: Backbone) -> bool:
    """Tell whether the backbone is told which text of a pair a token belongs to, as BERT is."""
    config = getattr(getattr(backbone, "model", None), "config", None)
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def save_tokenizer(preprocess: TextPreprocess, backbone: Backbone, directory: Path, *, plain: bool) -> None:
    """Write the tokenizer, which then says what a pipeline feeds to the model, and what `truncation=True` cuts to.

    `plain`: the name of a special token in a text is text, as it is in training; else "[MASK]" is what hides a token.
    """
    tokenizer = copy.deepcopy(preprocess.tokenizer)
    names = ["input_ids", *(["token_type_ids"] if has_segments(backbone) else []), "attention_mask"]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = plain
    if (most := longest_text(preprocess, backbone)) is not None:
        tokenizer.model_max_length = tokenizer.init_kwargs["model_max_length"] = most
    tokenizer.save_pretrained(directory)
