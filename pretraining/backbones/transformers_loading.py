"""Transformers models, fresh or from a checkpoint, with a tokenizer's ids."""

from __future__ import annotations

from typing import Any, Literal

import torch

from pretraining.errors import reason_of

Architecture = Literal["encoder", "causal", "seq2seq"]
LOADERS = {"encoder": "AutoModel", "causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}
PAIRS = {"clip": "CLIPModel", "siglip": "SiglipModel"}  # by model_type: an image and a text network in one


def special_tokens(
    architecture: Architecture, config: dict[str, Any] | None, pad_id: int | None, frame_ids: dict[str, int | None]
) -> dict[str, int | None]:
    """Name a tokenizer's ids as configurations do; decoders start from padding in T5's family, else from eos."""
    if not frame_ids:
        return {}
    family, bos_id, eos_id = (config or {}).get("model_type"), frame_ids["bos"], frame_ids["eos"]
    if bos_id is None and architecture == "causal":  # GPT-2 has one token for both
        bos_id = eos_id
    named = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    if architecture == "encoder" and family == "modernbert":  # whose defaults are those of its own vocabulary
        named |= {"cls_token_id": bos_id, "sep_token_id": eos_id}
    if architecture == "seq2seq" and config:
        named["decoder_start_token_id"] = pad_id if family in ("t5", "mt5", "umt5", "longt5", "pegasus") else eos_id
        if family in ("bart", "mbart"):
            named["forced_eos_token_id"] = eos_id
    return named


def build(
    architecture: Architecture,
    config: dict[str, Any] | None,
    init_from: str | None,
    vocab_size: int | None,
    ids: dict[str, int | None],
) -> Any:
    """Build a model from a configuration, or read it from `init_from`; `ids` are those that `special_tokens` names."""
    import transformers

    if architecture not in LOADERS:
        raise ValueError(f"backbone.architecture={architecture!r} is unknown: choose {', '.join(LOADERS)}")
    if init_from is not None:
        model = read(architecture, init_from, {"attn_implementation": "sdpa"})
        if vocab_size is not None and vocab_size > model.config.vocab_size:
            what = f"backbone.init_from={init_from} has embeddings for {model.config.vocab_size}"
            cure = f"take its own tokenizer (preprocess=pretrained_tokenizer preprocess.path={init_from})"
            raise ValueError(f"the tokenizer has {vocab_size} tokens, but {what}: {cure}")
        return model
    if not config or "model_type" not in config:
        known = "bert, roberta, modernbert, bart, t5, gpt2, llama, ..."
        raise ValueError(f"backbone.config must name a model_type ({known})")
    given = {name: value for name, value in config.items() if name != "model_type"}
    if vocab_size is not None:
        given["vocab_size"] = vocab_size
    given |= {name: value for name, value in ids.items() if value is not None}
    attention = given.pop("attn_implementation", "sdpa")
    if config["model_type"] not in transformers.CONFIG_MAPPING:
        raise ValueError(f"backbone.config.model_type={config['model_type']!r} is not one that transformers knows")
    try:
        filled = transformers.AutoConfig.for_model(config["model_type"], **given)
        return getattr(transformers, LOADERS[architecture]).from_config(filled, attn_implementation=attention)
    except Exception as error:  # the library raises nothing narrower
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"backbone.config makes no model of transformers ({said[:300]}): change it") from error


def quieten() -> None:
    """Switch transformers' progress bars off: reading a checkpoint is quick."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def read(architecture: Architecture, directory: str, options: dict[str, Any]) -> Any:
    """Read a checkpoint of transformers; a weight that is missing or of another shape is an error."""
    return read_as(LOADERS[architecture], directory, options)


def family_of(name: str) -> str:
    """Read a checkpoint's `model_type`."""
    import transformers

    return transformers.AutoConfig.from_pretrained(name).model_type


def modalities_of(name: str) -> set[str]:
    """Tell what a checkpoint's model reads: text, image, audio or several of them."""
    import transformers

    kind: Any = transformers.MODEL_MAPPING[type(transformers.AutoConfig.from_pretrained(name))]
    told = (kind[0] if isinstance(kind, (list, tuple)) else kind).input_modalities
    return {told} if isinstance(told, str) else set(told)


def read_pair(name: str) -> Any:
    """Read transformers' CLIP or SigLIP whole, as `read` does."""
    family = family_of(name)
    if family not in PAIRS:
        raise ValueError(f"{name} holds a {family}, and images are read by {', '.join(PAIRS)}: give one of those")
    return read_as(PAIRS[family], name, {"attn_implementation": "sdpa"})


def read_as(loader: str, directory: str, options: dict[str, Any]) -> Any:
    """Read a checkpoint by the class of transformers that `loader` names."""
    import transformers

    quieten()
    kind = getattr(transformers, loader)
    try:
        model, report = kind.from_pretrained(directory, output_loading_info=True, dtype=torch.float32, **options)
    except Exception as error:  # the library raises nothing narrower on damaged files
        what = (
            f"{directory} cannot be read as a checkpoint of transformers ({type(error).__name__}: {reason_of(error)})"
        )
        raise ValueError(f"{what}: fetch it again, or name another") from error
    # A checkpoint written by a masked language model lacks the base model's pooler; everything else must be there.
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    broken = [*missing, *(str(item) for item in report["mismatched_keys"])]
    if broken:
        raise ValueError(f"{directory} lacks weights of {type(model).__name__}: {', '.join(sorted(broken)[:5])}")
    return model
