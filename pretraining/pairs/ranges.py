"""The range of each setting of pairs."""

from pretraining.kinds import (
    CHANNELS,
    COUNT,
    GROUP,
    NUMBERS,
    PART,
    PATHS,
    POSITIVE,
    SEED,
    TEXT,
    Ranges,
    choice,
    each,
    integer,
    optional,
)

RANGES: Ranges = {
    "SceneCaptions": {
        each(choice("swapped", "replaced")): "hard_negatives",
        COUNT: "size scenes held_out",
        integer(1, 4): "least most",
        TEXT: "cache_dir",
    },
    "ImageTextFiles": {PATHS: "path", GROUP: "columns shares decoding only", TEXT: "cache_dir"},
    "SpokenCaptions": {
        integer(10): "size",
        COUNT: "max_words sample_rate",
        POSITIVE: "max_seconds",
        choice("refuse", "skip"): "on_bad",
        SEED: "seed",
        TEXT: "cache_dir",
    },
    "HubImageText": {TEXT: "name cache_dir", GROUP: "columns shares decoding"},
    "HubImageText.columns": {TEXT: "image text"},
    "HubImageText.shares": {PART: "validation test"},
    "ImageTextFiles.columns": {TEXT: "image text"},
    "ImageTextFiles.shares": {PART: "validation test"},
    "DualEncoder": {each(TEXT): "locked", GROUP: "towers"},
    "PairPreprocess": {GROUP: "sides"},
    "PairCollate": {GROUP: "sides"},
    "backbone_of": {TEXT: "handoff", optional(TEXT): "tower"},
    "PreprocessOf": {
        TEXT: "handoff",
        optional(TEXT): "tower",
        optional(COUNT): "size vocab_size",
        optional(CHANNELS): "channels",
        optional(NUMBERS): "mean",
        optional(each(POSITIVE)): "std",
    },
}
