"""The range of each setting of what objectives of several modalities share."""

from pretraining.kinds import (
    COUNT,
    COUNT_OR_ZERO,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Ranges,
    choice,
    each,
    integer,
    optional,
)

DISTILLATION = {
    integer(2): "prototypes",
    POSITIVE: "temperature",
    SHARE: "centre_momentum",
    FLAG: "learn_lengths",
    COUNT_OR_ZERO: "freeze_steps",
}
RANGES: Ranges = {
    "Projector": {
        COUNT: "layers output",
        optional(COUNT): "hidden",
        choice("full", "scale", "plain", "none"): "hidden_norm output_norm",
        choice("relu", "gelu"): "activation",
        FLAG: "bias",
        optional(FLAG): "output_bias",
        optional(POSITIVE): "init_std",
    },
    "QueueContrast": {COUNT: "queue", POSITIVE: "temperature", FLAG: "symmetric"},
    "Codes": {
        integer(2): "prototypes",
        COUNT: "iterations",
        POSITIVE: "temperature epsilon",
        COUNT_OR_ZERO: "freeze_steps queue queue_from",
    },
    "Distillation": DISTILLATION,
    "MaskedDistillation": DISTILLATION
    | {SHARE: "centre_momentum mask_chance", each(SHARE, 2): "mask_ratio", NOT_NEGATIVE: "patch_weight"},
}
