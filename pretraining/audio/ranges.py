"""The range of each setting of the wing of recorded sound."""

from pretraining.kinds import (
    COUNT,
    COUNT_OR_ZERO,
    FLAG,
    GROUP,
    NOT_NEGATIVE,
    ONE_PATH,
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

MONO, ON_BAD = choice("mean", "first", "refuse"), choice("refuse", "skip")
READS = {
    TEXT: "cache_dir",
    POSITIVE: "min_seconds max_seconds",
    ON_BAD: "on_bad",
    optional(POSITIVE): "batch_seconds",
    choice("pad", "crop"): "fit",
}
JOINS = {
    integer(10): "size",
    COUNT: "min_words max_words",
    NOT_NEGATIVE: "longest_gap",
    choice("apart", "shared"): "speakers",
    SEED: "seed",
}
SPEAKS = {
    integer(10): "size",
    COUNT: "min_words max_words",
    each(TEXT, least=1): "voices",
    each(COUNT_OR_ZERO, 2): "speeds pitches",
    SEED: "seed",
}
PREPARES = {COUNT: "sample_rate", FLAG: "normalise"}
RANGES: Ranges = {
    "AudioFolder": READS
    | {
        ONE_PATH: "path",
        TEXT: "column folder cache_dir",
        FLAG: "quotes",
        GROUP: "split",
        each(TEXT): "exclude",
        MONO: "mono",
    },
    "AudioFolder.split": {optional(TEXT): "train validation test"},
    "HubAudio": READS | {TEXT: "name column cache_dir", MONO: "mono"},
    "JoinedClips": READS | JOINS | {PATHS: "path", TEXT: "audio text speaker cache_dir", MONO: "mono"},
    "Espeak": READS | SPEAKS | {TEXT: "program cache_dir"},
    "SpokenLetters": READS | {integer(10): "size", COUNT: "max_words", SEED: "seed"},
    "ReadRecordings": {POSITIVE: "max_seconds", MONO: "mono"},
    "AudioPreprocess": PREPARES,
    "KMeansUnits": PREPARES | {integer(2): "units", POSITIVE: "sample_seconds"},
    "LayerUnits": PREPARES | {TEXT: "handoff", COUNT_OR_ZERO: "layer", integer(2): "units", POSITIVE: "sample_seconds"},
    "StackWaves": {each(COUNT, least=1): "kernels strides"},
    "RandomUnits": PREPARES
    | {integer(2): "units", POSITIVE: "sample_seconds", COUNT: "sample_rate width", SEED: "seed"},
    "SpeechEncoder": {
        optional(GROUP): "encoder",
        choice("waves", "log_mel"): "stem",
        optional(TEXT): "init_from",
        COUNT: "sample_rate",
        PART: "layerdrop",
    },
    "SpeechEncoder.encoder": {
        TEXT: "model_type",
        choice("layer", "group"): "feat_extract_norm",
        FLAG: "conv_bias do_stable_layer_norm",
        each(COUNT, least=1): "conv_dim conv_kernel conv_stride",
        COUNT: "hidden_size intermediate_size num_hidden_layers num_attention_heads num_conv_pos_embeddings "
        "num_conv_pos_embedding_groups",
        PART: "hidden_dropout attention_dropout activation_dropout feat_proj_dropout",
    },
}
