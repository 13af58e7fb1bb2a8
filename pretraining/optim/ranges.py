"""The range of each setting of optimizers and schedules."""

from pretraining.kinds import (
    COUNT,
    COUNT_OR_ZERO,
    FLAG,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    Kind,
    Ranges,
    choice,
    each,
    either,
    number,
    optional,
)

WARMUP = Kind("give a whole number of at least 0, or a share below 1", either(COUNT_OR_ZERO, PART).accepts)
OPTIMIZER = {
    POSITIVE: "peak_lr",
    WARMUP: "warmup_steps",
    choice("linear", "cosine", "constant", "inverse_sqrt", "tri_stage"): "schedule",
    SHARE: "final_fraction plateau",
    NOT_NEGATIVE: "weight_decay",
    optional(SHARE): "warmup_from",
    optional(NOT_NEGATIVE): "last_weight_decay",
    COUNT: "hold_steps",
    FLAG: "decay_vectors",
}
RANGES: Ranges = {
    "optimizer": OPTIMIZER,
    "AdamW": {each(PART, 2): "betas", NOT_NEGATIVE: "eps"},
    "Adafactor": {number(high=0): "beta2_decay", number(1): "clip_update"},
    "SGD": {PART: "momentum", FLAG: "nesterov"},
    "LARS": {
        PART: "momentum",
        POSITIVE: "trust",
        choice("rate_inside", "rate_outside"): "form",
        FLAG: "nesterov clip adapt_vectors",
        NOT_NEGATIVE: "eps",
    },
    "Schedule": {
        NOT_NEGATIVE: "first last",
        optional(COUNT_OR_ZERO): "steps",
        choice("cosine", "linear", "exponential"): "shape",
    },
}
