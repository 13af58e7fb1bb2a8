"""The range of every setting, declared once and checked before anything is built.

A key that is not in the table is left alone, and so are those of a class that is not of these packages: its own
constructor knows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pretraining.errors import RunError
from pretraining.kinds import ANY_TEXT, FLAG, GROUP, TEXT, Kind, choice, each, either, integer, is_list, number
from pretraining.kinds import optional as null_or
from pretraining.kinds import refusal

OURS = ("pretraining.", "finetuning.")
COUNT, COUNT_OR_NONE, SEED = integer(1), integer(0), integer(0, 2**32 - 1)
POSITIVE, NOT_NEGATIVE, SHARE, PART = number(above=0), number(0), number(0, 1), number(0, below=1)
SOME = number(above=0, high=1)
TEXTS, PER_VIEW = each(TEXT), either(SHARE, each(SHARE))
RANGE = each(number(above=0), 2)
PATH = either(TEXT, Kind("{train: …, validation: …, test: …}", GROUP.accepts))
NORM, INTERPOLATION = choice("full", "scale", "none"), choice("bilinear", "bicubic")
SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings d_model d_kv d_ff"
SIZES += " num_layers num_decoder_layers num_heads encoder_layers decoder_layers encoder_ffn_dim decoder_ffn_dim"
SIZES += " encoder_attention_heads decoder_attention_heads n_embd n_layer n_head n_positions type_vocab_size"
DROPOUTS = "hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop dropout_rate dropout"
DROPOUTS += " attention_dropout activation_dropout classifier_dropout"

OPTIMIZER = {
    "peak_lr": POSITIVE,
    "warmup_steps": COUNT_OR_NONE,
    "schedule": choice("linear", "cosine", "constant", "inverse_sqrt"),
    "final_fraction": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "decay_vectors": FLAG,
    "warmup_from": null_or(SHARE),
    "hold_steps": COUNT,
    "betas": each(PART, 2),
    "eps": NOT_NEGATIVE,
    "momentum": PART,
    "nesterov": FLAG,
    "trust": POSITIVE,
    "form": choice("rate_inside", "rate_outside"),
    "clip": FLAG,
    "adapt_vectors": FLAG,
    "beta2_decay": number(high=0),
    "clip_update": number(1),
}
TRAINER = {
    "accelerator": choice("cpu", "cuda"),
    "strategy": choice("single", "ddp", "fsdp"),
    "devices": COUNT,
    "num_nodes": COUNT,
    "precision": choice("auto", "fp32", "bf16", "fp64"),
    "max_steps": COUNT,
    "accumulate": COUNT,
    "clip_norm": null_or(POSITIVE),
    "log_every": COUNT,
    "val_every": COUNT_OR_NONE,
    "checkpoint_every": COUNT_OR_NONE,
    "handoff_every": COUNT_OR_NONE,
    "keep_last": COUNT,
    "background_checkpoints": FLAG,
    "on_nonfinite": choice("stop", "skip"),
    "compile": FLAG,
    "activation_checkpointing": FLAG,
    "winograd": FLAG,
    "timeout": POSITIVE,
}
RUN = {
    "seed": SEED,
    "name": null_or(TEXT),
    "run_dir": null_or(TEXT),
    "resume": TEXT,
    "group": null_or(TEXT),
    "from_run": null_or(TEXT),
    "dry_run": FLAG,
    "overfit_batches": COUNT_OR_NONE,
    "profile": FLAG,
    "ema": null_or(number(above=0, below=1)),
    "budget": {
        "steps": null_or(number(1)),
        **dict.fromkeys(("examples", "units", "tokens", "flops", "hours"), null_or(POSITIVE)),
    },
    "logger": {
        "csv": FLAG,
        "progress": FLAG,
        "wandb": {
            "mode": choice("auto", "online", "offline", "disabled"),
            "project": TEXT,
            "tags": TEXTS,
            "patience": POSITIVE,
            "upload_bytes": NOT_NEGATIVE,
        },
    },
    "probe": {"rate": POSITIVE, "bank": COUNT, "k": COUNT, "temperature": POSITIVE, "pictures": FLAG},
}
FINETUNING = {
    "handoff": TEXT,
    "tower": null_or(TEXT),
    "fraction": null_or(SOME),
    "shots": null_or(COUNT),
    "epochs": null_or(POSITIVE),
    "early_stopping": null_or(COUNT),
    "pooling": null_or(choice("mean", "first", "last", "pooler")),
    "head": choice("linear", "native"),
    "save_model": FLAG,
    "mode": {
        "cache": FLAG,
        "layer_decay": SOME,
        "head_steps": COUNT_OR_NONE,
        "share": SOME,
        "k": COUNT,
        "temperature": POSITIVE,
        "penalties": each(POSITIVE, least=1),
        "standardize": FLAG,
        "rank": COUNT,
        "scale": POSITIVE,
        "targets": TEXTS,
        "frozen_blocks": COUNT_OR_NONE,
    },
    "task": {
        "dropout": PART,
        "class_weights": null_or(choice("balanced")),
        "top": null_or(COUNT),
        "select": TEXT,
        "label_smoothing": PART,
        "max_answer": COUNT,
        "inputs": {
            "max_tokens": COUNT,
            "max_target_tokens": COUNT,
            "align": choice("first", "all"),
            "overlap": COUNT_OR_NONE,
            "prefix": ANY_TEXT,
            "separator": ANY_TEXT,
        },
        "decoding": {
            "max_new_tokens": COUNT,
            "num_beams": COUNT,
            "length_penalty": number(),
            "no_repeat_ngram_size": COUNT_OR_NONE,
            "do_sample": FLAG,
            "temperature": POSITIVE,
            "top_p": SOME,
            "seed": SEED,
        },
    },
}
DATA = {
    "batch_size": COUNT,
    "eval_batch_size": COUNT,
    "workers": COUNT_OR_NONE,
    "max_tokens": COUNT,
    "cache_dir": TEXT,
    "path": PATH,
    "name": TEXT,
    "max_bytes": POSITIVE,
    "shares": {"validation": PART, "test": PART},
    "columns": {"text": TEXT, "image": TEXT, "label": TEXT},
    **dict.fromkeys(("text", "image", "tokens", "tags", "source", "target", "question", "context", "answers"), TEXT),
    **dict.fromkeys(("text_pair", "references", "label"), null_or(TEXT)),
    "decoding": {"channels": choice(1, 3), "size": null_or(COUNT), "max_cache_gb": NOT_NEGATIVE},
    "split": {
        **dict.fromkeys(("train", "validation", "test"), null_or(TEXT)),
        "validation_fraction": number(above=0, below=1),
        "test_fraction": number(above=0, below=1),
        "seed": SEED,
    },
    "preparation": {
        "workers": null_or(COUNT),
        "text_column": TEXT,
        "layout": choice("paragraphs", "sentences", "lines", "files"),
        "sentence_splitter": {"abbreviations": TEXTS},
        "deduplicate": FLAG,
        "near_duplicates": null_or(number(above=0, below=1)),
        "validation_share": PART,
        "test_share": PART,
    },
}
PARTS = {
    "preprocess": {
        "vocab_size": COUNT,
        "lowercase": FLAG,
        "sample_bytes": COUNT,
        "sentinels": COUNT,
        "path": TEXT,
        "size": COUNT,
        "channels": choice(1, 3),
        "mean": each(number()),
        "std": each(POSITIVE),
        "interpolation": INTERPOLATION,
        "crop": SOME,
    },
    "backbone": {
        "architecture": choice("encoder", "causal", "seq2seq"),
        "pooling": choice("mean", "first", "pooler", "last"),
        "init_from": null_or(TEXT),
        "impl": choice("transformers", "fast"),
        "name": TEXT,
        "stem": choice("imagenet", "small", "cifar"),
        "layers": null_or(each(COUNT, least=1)),
        "width": COUNT,
        "weights": null_or(TEXT),
        "config": {
            "model_type": TEXT,
            **dict.fromkeys(SIZES.split(), COUNT),
            **dict.fromkeys(DROPOUTS.split(), null_or(PART)),
        },
    },
    "objective": {
        **dict.fromkeys(("mlm_weight", "nsp_weight", "boundary_weight", "weight", "noise"), NOT_NEGATIVE),
        "temperature": POSITIVE,
        "decoupled": FLAG,
        "supervised": FLAG,
        "classes": null_or(integer(2)),
        "label_smoothing": PART,
        "mask_ratio": number(above=0, below=1),
        "normalise_patches": FLAG,
        "decoder_width": COUNT,
        "decoder": {"width": COUNT, "layers": COUNT, "heads": COUNT},
        "projector": {
            "layers": COUNT,
            "hidden": null_or(COUNT),
            "output": COUNT,
            "hidden_norm": NORM,
            "output_norm": NORM,
            "bias": FLAG,
            "init_std": null_or(POSITIVE),
        },
    },
    "collate": {
        "max_tokens": COUNT,
        "negatives": choice("random", "swapped"),
        "short_share": SHARE,
        "fraction": either(SHARE, Kind("{start: …, end: …}", GROUP.accepts)),
        "unit": choice("token", "whole_word", "span"),
        "mask_share": SHARE,
        "random_share": SHARE,
        "static_shapes": FLAG,
        "corruption": {
            "density": number(above=0, below=1),
            "mean_length": POSITIVE,
            "noises": {
                **dict.fromkeys(("fraction", "random_share", "probability"), SHARE),
                "mean_length": POSITIVE,
                "whole_words": FLAG,
            },
        },
    },
    "augment": {
        "count": COUNT,
        "impl": choice("auto", "compiled", "tensors"),
        **dict.fromkeys(("greyscale", "solarise"), PER_VIEW),
        "crop": {"size": COUNT, "area": RANGE, "aspect": RANGE, "interpolation": INTERPOLATION, "flip": PER_VIEW},
        "jitter": {
            "probability": PER_VIEW,
            **dict.fromkeys(("brightness", "contrast", "saturation"), NOT_NEGATIVE),
            "hue": number(0, 0.5),
        },
        "blur": {"probability": PER_VIEW, "kernel_size": COUNT, "sigma": RANGE},
        "output": {"mean": each(number()), "std": each(POSITIVE), "channels_last": FLAG},
    },
}
OTHER = {"split": choice("train", "validation", "test"), "splits": TEXTS, "precision": choice("fp32", "bf16")}
FREE = {"probe", "backbone.config", "augment", "collate.corruption.noises"}  # null, or a list, is one of their forms
CONTRACT = {"data.batch_size", "data.eval_batch_size", "data.workers"}  # which every data has, whoever wrote it


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Kind]]:
    """List keys with their kinds; what holds settings is a group."""
    for name, part in tree.items():
        key = f"{prefix}{name}"
        if isinstance(part, Kind):
            yield key, part
            continue
        if key not in FREE:
            yield key, GROUP
        yield from _flat(part, f"{key}.")


WHOLE = RUN | FINETUNING | PARTS | OTHER | {"optimizer": OPTIMIZER, "trainer": TRAINER, "data": DATA}
TABLE = dict(_flat(WHOLE))


def check(values: Mapping[str, Any], where: str = "", *, foreign: bool = False) -> None:
    """Refuse the first of the settings of `where` that the table does not allow, naming key, value and what to give."""
    target = values.get("_target_")
    foreign = foreign or (isinstance(target, str) and not target.startswith(OURS))
    for name, value in values.items():
        key = f"{where}.{name}" if where else str(name)
        kind = TABLE.get(key)
        if kind is not None and (key in CONTRACT or not foreign) and value != "???" and not kind.accepts(value):
            raise RunError(refusal(key, value, kind))
        for part in value if is_list(value) else [value]:
            if isinstance(part, Mapping):
                check(part, key, foreign=foreign)


def check_fields(part: Any, base: type, where: str) -> None:
    """Check a part's attributes as the settings of `where`: of a foreign subclass of `base` those that this declares."""
    ours = type(part).__module__.startswith(OURS)
    check({name: value for name, value in vars(part).items() if ours or name in base.__annotations__}, where)
