"""A text encoder as a folder of sentence-transformers: a network, its pooling, and what follows, in modules.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pretraining.backbones.transformers_loading import quieten
from pretraining.cli.early import is_true
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.tokenizer import longest_text
from pretraining.text.transformers_form import TOLERANCE, made_up_rows, save_tokenizer

MODES = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken", "pooler": "cls_token"}
OTHER_MODES = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
LONGEST = 512  # tokens of a text, where the network has no limit


def write_sentence_transformers(given: Handoff, directory: Path, *, normalize: str = "false") -> None:
    """Write network, tokenizer and pooling; `normalize` adds the division of each vector by its length.

    BERT's pooler is the first token's vector behind a dense layer of its weights.
    """
    backbone, unit = given.backbone, is_true("normalize", normalize)
    if not isinstance(backbone, TransformersBackbone) or backbone.architecture == "seq2seq":
        what = f"{type(backbone).__name__} of architecture={getattr(backbone, 'architecture', None)}"
        raise HandoffError(f"to=sentence_transformers takes encoders and decoders of transformers, not {what}")
    _compare(backbone.eval(), given)
    quieten()
    backbone.base.save_pretrained(directory)
    save_tokenizer(given.preprocess, backbone, directory, plain=True)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    _write(directory / "1_Pooling" / "config.json", pooling_of(backbone))
    if backbone.pooling == "pooler":
        modules.append(("2_Dense", "Dense"))
        _write_dense(directory / "2_Dense", backbone.base.pooler.dense)
    if unit:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (directory / modules[-1][0]).mkdir()
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    _write(directory / "modules.json", listed)
    _write(directory / "sentence_bert_config.json",
           {"max_seq_length": longest_text(given.preprocess, backbone) or LONGEST, "do_lower_case": False})  # fmt: skip
    _write(directory / "config_sentence_transformers.json",
           {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"})  # fmt: skip


def pooling_of(backbone: TransformersBackbone) -> dict[str, Any]:
    """Say how the vector of a text is made, as sentence-transformers does."""
    modes = {f"pooling_mode_{name}": False for name in (*MODES.values(), *OTHER_MODES)}
    chosen = {f"pooling_mode_{MODES[backbone.pooling]}": True}
    return {"word_embedding_dimension": backbone.dim, **modes, **chosen, "include_prompt": True}


def _write_dense(directory: Path, layer: Any) -> None:
    shape = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": True}
    _write(directory / "config.json", {**shape, "activation_function": "torch.nn.modules.activation.Tanh"})
    weights = {f"linear.{name}": weight.detach().contiguous() for name, weight in layer.state_dict().items()}
    save_file(weights, directory / "model.safetensors")


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def _compare(backbone: TransformersBackbone, given: Handoff) -> None:
    """Refuse a network whose vectors of made-up rows are others than those of the modules."""
    ids, real = made_up_rows(given.preprocess)
    hidden: Tensor = backbone.base(input_ids=ids, attention_mask=real).last_hidden_state
    if backbone.pooling == "mean":
        theirs = (hidden * real[..., None]).sum(1) / real.sum(1)[:, None]
    else:
        theirs = hidden[torch.arange(2), real.sum(1) - 1] if backbone.pooling == "last" else hidden[:, 0]
    if backbone.pooling == "pooler":
        pooler = getattr(backbone.base.pooler, "dense", None)
        if pooler is None:
            kind = type(backbone.base).__name__
            raise HandoffError(f"sentence-transformers has no module for the pooler of {kind}: export pooling=mean")
        theirs = torch.tanh(pooler(theirs))
    if not torch.allclose(backbone(input_ids=ids, document_ids=real).pooled, theirs, atol=TOLERANCE):
        kind = type(backbone.base).__name__
        raise HandoffError(f"{kind} makes its vectors in another way than its modules of sentence-transformers would")
