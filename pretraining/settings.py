"""The range of every setting, declared once and checked before anything is built.

A key that is not in the table is left alone, and so are those of a class that is not of these packages: its own
constructor knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretraining.errors import RunError
from pretraining.kinds import ANY_TEXT, FLAG, GROUP, TEXT, Kind, choice, each, either, integer, is_list, number, refusal
from pretraining.kinds import optional as or_null

OURS = ("pretraining.", "finetuning.")
COUNT, COUNT_OR_ZERO, SEED = integer(1), integer(0), integer(0, 2**32 - 1)
POSITIVE, NOT_NEGATIVE, FINITE = number(above=0), number(0), number()
SHARE, PART, SOME, INNER = number(0, 1), number(0, below=1), number(above=0, high=1), number(above=0, below=1)
COUNTS, SHARES, NUMBERS, PAIR = each(COUNT, least=1), either(SHARE, each(SHARE)), each(FINITE), each(POSITIVE, 2)
WARMUP = Kind("give a whole number of at least 0, or a share below 1", either(COUNT_OR_ZERO, PART).accepts)
BY_SPLIT = Kind("{train: …, validation: …, test: …}", GROUP.accepts)
SCHEDULED = Kind("{start: …, end: …}", GROUP.accepts)
GROUPS: dict[str, dict[Kind, str]] = {  # where: what its settings may be
    "": {
        SEED: "seed",
        TEXT: "resume handoff",
        or_null(TEXT): "name run_dir group from_run tower",
        FLAG: "dry_run profile save_model retry_failed",
        COUNT: "workers",
        COUNT_OR_ZERO: "overfit_batches",
        or_null(INNER): "ema",
        or_null(SOME): "fraction",
        or_null(COUNT): "shots early_stopping",
        or_null(POSITIVE): "epochs",
        or_null(choice("mean", "first", "last", "pooler")): "pooling",
        choice("linear", "native"): "head",
        choice("train", "validation", "test"): "split",
        choice("fp32", "bf16"): "precision",
        each(TEXT): "splits trust",
    },
    "budget": {or_null(number(1)): "steps", or_null(POSITIVE): "examples units tokens flops hours"},
    "trainer": {
        choice("cpu", "cuda"): "accelerator",
        choice("single", "ddp", "fsdp"): "strategy",
        choice("auto", "fp32", "bf16", "fp64"): "precision",
        choice("stop", "skip"): "on_nonfinite",
        COUNT: "devices num_nodes max_steps accumulate log_every keep_last",
        COUNT_OR_ZERO: "val_every checkpoint_every handoff_every",
        FLAG: "background_checkpoints compile activation_checkpointing winograd clip_each",
        or_null(POSITIVE): "clip_norm",
        POSITIVE: "timeout",
    },
    "optimizer": {
        choice("linear", "cosine", "constant", "inverse_sqrt"): "schedule",
        choice("rate_inside", "rate_outside"): "form",
        POSITIVE: "peak_lr trust",
        COUNT: "hold_steps",
        WARMUP: "warmup_steps",
        SHARE: "final_fraction",
        or_null(SHARE): "warmup_from",
        or_null(NOT_NEGATIVE): "last_weight_decay",
        NOT_NEGATIVE: "weight_decay eps",
        PART: "momentum",
        each(PART, 2): "betas",
        number(high=0): "beta2_decay",
        number(1): "clip_update",
        FLAG: "decay_vectors nesterov clip adapt_vectors",
    },
    "logger": {FLAG: "csv progress"},
    "logger.wandb": {
        choice("auto", "online", "offline", "disabled"): "mode",
        TEXT: "project",
        each(TEXT): "tags",
        POSITIVE: "patience",
        NOT_NEGATIVE: "upload_bytes",
    },
    "probe": {POSITIVE: "rate temperature", COUNT: "bank k", FLAG: "pictures"},
    "data": {
        COUNT: "batch_size eval_batch_size max_tokens held_out training examples size",
        integer(1, 4): "least most",
        either(COUNT, GROUP): "scenes",
        COUNT_OR_ZERO: "workers",
        POSITIVE: "max_bytes",
        either(TEXT, each(TEXT, least=1), BY_SPLIT): "path",
        or_null(choice("drop")): "missing",
        TEXT: "cache_dir name text image tokens tags source target question context answers",
        or_null(TEXT): "text_pair references label lists",
        choice("xyxy", "xywh"): "boxes",
        choice(1, 3): "channels",
        FLAG: "masks",
        or_null(each(TEXT, least=1)): "class_names",
        each(COUNT_OR_ZERO): "ignore",
    },
    "data.columns": {TEXT: "text image label mask", or_null(TEXT): "boxes classes masks name"},
    "data.files": {TEXT: "image mask"},
    "data.scenes": {COUNT: "size least most", SEED: "seed"},
    "data.counts": {COUNT: "train validation test"},
    "data.shares": {PART: "validation test"},
    "data.split": {or_null(TEXT): "train validation test", INNER: "validation_fraction test_fraction", SEED: "seed"},
    "data.decoding": {choice(1, 3): "channels", or_null(COUNT): "size", NOT_NEGATIVE: "max_cache_gb"},
    "data.preparation": {
        choice("paragraphs", "sentences", "lines", "files"): "layout",
        TEXT: "text_column",
        FLAG: "deduplicate",
        or_null(COUNT): "workers",
        or_null(INNER): "near_duplicates",
        PART: "validation_share test_share",
    },
    "data.preparation.sentence_splitter": {each(TEXT): "abbreviations"},
    "preprocess": {
        COUNT: "vocab_size sample_bytes sentinels size",
        TEXT: "path",
        FLAG: "lowercase",
        choice(1, 3): "channels",
        NUMBERS: "mean",
        each(POSITIVE): "std",
        choice("bilinear", "bicubic"): "interpolation",
        SOME: "crop",
    },
    "backbone": {
        choice("encoder", "causal", "seq2seq"): "architecture",
        choice("mean", "first", "pooler", "last", "class"): "pooling",
        choice("transformers", "fast"): "impl",
        TEXT: "name stem",
        or_null(TEXT): "init_from weights",
        or_null(COUNTS): "layers",
        COUNT: "width",
        FLAG: "frozen_patches",
        choice("xavier", "small"): "init",
        each(TEXT): "locked",
    },
    "backbone.config": {
        TEXT: "model_type",
        COUNT: "hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings d_model "
        "d_kv d_ff num_layers num_decoder_layers num_heads encoder_layers decoder_layers encoder_ffn_dim "
        "decoder_ffn_dim encoder_attention_heads decoder_attention_heads n_embd n_layer n_head n_positions",
        or_null(PART): "hidden_dropout_prob attention_probs_dropout_prob resid_pdrop embd_pdrop attn_pdrop "
        "dropout_rate dropout attention_dropout activation_dropout classifier_dropout",
    },
    "objective": {
        NOT_NEGATIVE: "mlm_weight nsp_weight boundary_weight weight noise",
        POSITIVE: "temperature",
        FLAG: "decoupled supervised normalise_patches",
        or_null(integer(2)): "classes",
        PART: "label_smoothing",
        INNER: "mask_ratio",
        COUNT: "decoder_width width",
        number(1): "scale max_scale",
        FINITE: "logit_bias",
    },
    "objective.decoder": {COUNT: "width layers heads"},
    "objective.projector": {
        COUNT: "layers output",
        or_null(COUNT): "hidden",
        choice("full", "scale", "plain", "none"): "hidden_norm output_norm",
        FLAG: "bias",
        or_null(POSITIVE): "init_std",
    },
    "collate": {
        or_null(COUNT): "max_tokens",
        SHARE: "short_share mask_share random_share",
        either(SHARE, SCHEDULED): "fraction",
        choice("random", "swapped"): "negatives",
        choice("token", "whole_word", "span"): "unit",
        FLAG: "static_shapes",
    },
    "collate.corruption": {INNER: "density", POSITIVE: "mean_length", each(GROUP): "noises"},
    "collate.corruption.noises": {
        SHARE: "fraction random_share probability",
        POSITIVE: "mean_length",
        FLAG: "whole_words",
    },
    "augment": {COUNT: "count", SHARES: "greyscale solarise", choice("auto", "compiled", "tensors"): "impl"},
    "augment.crop": {
        COUNT: "size",
        PAIR: "area aspect",
        SHARES: "flip",
        choice("bilinear", "bicubic"): "interpolation",
    },
    "augment.jitter": {SHARES: "probability", NOT_NEGATIVE: "brightness contrast saturation", number(0, 0.5): "hue"},
    "augment.blur": {SHARES: "probability", COUNT: "kernel_size", PAIR: "sigma"},
    "augment.output": {NUMBERS: "mean", each(POSITIVE): "std", FLAG: "channels_last"},
    "mode": {
        FLAG: "cache standardize",
        SOME: "layer_decay share",
        COUNT: "k rank",
        COUNT_OR_ZERO: "head_steps frozen_blocks",
        POSITIVE: "temperature scale",
        each(POSITIVE, least=1): "penalties",
        each(TEXT): "targets",
    },
    "task": {
        PART: "dropout label_smoothing",
        or_null(choice("balanced")): "class_weights",
        or_null(COUNT): "top",
        TEXT: "select",
        COUNT: "max_answer width max_detections",
        COUNT_OR_ZERO: "pictures",
        choice("linear", "fpn"): "decoder",
        or_null(each(COUNT, least=1)): "strides",
        each(TEXT, least=1): "templates",
        or_null(each(TEXT)): "names",
    },
    "task.inputs": {
        or_null(COUNT): "size",
        PAIR: "scale",
        each(choice("horizontal", "vertical")): "flips",
        COUNT: "max_tokens max_target_tokens",
        COUNT_OR_ZERO: "overlap",
        choice("first", "all"): "align",
        ANY_TEXT: "prefix separator",
    },
    "task.decoding": {
        COUNT: "max_new_tokens num_beams",
        COUNT_OR_ZERO: "no_repeat_ngram_size",
        FINITE: "length_penalty",
        FLAG: "do_sample",
        POSITIVE: "temperature",
        SOME: "top_p",
        SEED: "seed",
    },
}
FREE = {"", "probe", "backbone.config", "augment", "collate.corruption.noises"}  # null or a list, too
PARTS = {"preprocess.sides": "preprocess", "backbone.towers": "backbone", "collate.sides": "collate"}  # of pairs
CONTRACT = {"data.batch_size", "data.eval_batch_size", "data.workers"}  # which every data has, whoever wrote it
TABLE = dict.fromkeys(GROUPS.keys() - FREE, GROUP) | {
    f"{where}.{name}".lstrip("."): kind
    for where, kinds in GROUPS.items()
    for kind, names in kinds.items()
    for name in names.split()
}


def check(values: Mapping[str, Any], where: str = "", *, foreign: bool = False, known: str | None = None) -> None:
    """Refuse the first of the settings of `where` that the table does not allow, naming key, value and what to give.

    `known`: what the table calls them, where that is not `where`.
    """
    known = where if known is None else known
    target = values.get("_target_")
    foreign = foreign or (isinstance(target, str) and not target.startswith(OURS))
    for name, value in values.items():
        key, entry = (f"{place}.{name}" if place else str(name) for place in (where, known))
        kind = TABLE.get(entry)
        if kind is not None and (entry in CONTRACT or not foreign) and value != "???" and not kind.accepts(value):
            raise RunError(refusal(key, value, kind))
        for part in value if is_list(value) else [value]:
            if isinstance(part, Mapping):
                check(part, key, foreign=foreign, known=PARTS.get(known, entry))


def check_fields(part: Any, base: type, where: str) -> None:
    """Check a part's attributes as the settings of `where`; of a foreign class those that `base` declares."""
    ours = type(part).__module__.startswith(OURS)
    check({name: value for name, value in vars(part).items() if ours or name in base.__annotations__}, where)
