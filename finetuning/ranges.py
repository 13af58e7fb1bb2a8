"""The range of each setting of downstream runs."""

from pretraining.audio.ranges import JOINS, MONO, ON_BAD, SPEAKS
from pretraining.kinds import (
    ANY_TEXT,
    CHANNELS,
    COUNT,
    COUNT_OR_ZERO,
    FINITE,
    FLAG,
    GROUP,
    INNER,
    NOT_NEGATIVE,
    PAIR,
    PART,
    PATHS,
    POSITIVE,
    SEED,
    SOME,
    TEXT,
    Ranges,
    choice,
    each,
    either,
    integer,
    named,
    optional,
)

TEXTS = each(TEXT, least=1)
DENSE = {COUNT: "width", optional(each(COUNT, least=1)): "strides", COUNT_OR_ZERO: "pictures"}
OBJECTS = DENSE | {COUNT: "width max_detections"}
AUGMENTED = {optional(COUNT): "size", PAIR: "scale", each(choice("horizontal", "vertical")): "flips"}
PICTURES = {PATHS: "path", GROUP: "columns", CHANNELS: "channels", optional(each(TEXT, least=1)): "class_names"}
LAYERS = {either(choice("last", "all", "best", "weighted"), each(integer(), least=1)): "layers"}
HEARD = {POSITIVE: "max_seconds", choice("cut", "refuse"): "longer", optional(GROUP): "masks"}
RECORDINGS = {optional(POSITIVE): "batch_seconds"}
RANGES: Ranges = {
    "": {
        optional(TEXT): "tower",
        optional(SOME): "fraction",
        optional(COUNT): "shots early_stopping",
        optional(POSITIVE): "epochs",
        optional(choice("mean", "first", "last", "pooler")): "pooling",
        choice("linear", "native"): "head",
        FLAG: "save_model",
    },
    "data": {optional(choice("drop")): "missing", GROUP: "split"},
    "task": {TEXT: "select", PART: "dropout label_smoothing", GROUP: "inputs decoding"},
    # modes
    "Frozen": LAYERS | {FLAG: "cache"},
    "Full": {SOME: "layer_decay", COUNT_OR_ZERO: "head_steps"},
    "GradualUnfreezing": {SOME: "share layer_decay"},
    "LinearProbe": LAYERS | {each(POSITIVE, least=1): "penalties", FLAG: "standardize"},
    "Lora": {COUNT: "rank", POSITIVE: "scale", each(TEXT): "targets"},
    "NearestNeighbours": LAYERS | {COUNT: "k", POSITIVE: "temperature"},
    "Partial": {COUNT_OR_ZERO: "frozen_blocks head_steps", SOME: "layer_decay"},
    # tasks
    "Classification": {optional(choice("balanced")): "class_weights", optional(COUNT): "top"},
    "QuestionAnswering": {COUNT: "max_answer"},
    "Detection": OBJECTS,
    "InstanceSegmentation": OBJECTS,
    "SemanticSegmentation": DENSE | {choice("linear", "fpn"): "decoder"},
    "Retrieval": {FLAG: "space"},
    "SpeechRecognition": {optional(TEXT): "alphabet"},
    "SpeechTranslation": {TEXT: "decoder"},
    "CtcDecoding": {
        COUNT: "beam",
        COUNT_OR_ZERO: "ngram",
        optional(TEXT): "texts",
        NOT_NEGATIVE: "alpha",
        FINITE: "beta",
    },
    "ZeroShot": {
        optional(COUNT): "top",
        optional(either(TEXTS, named(TEXTS))): "templates",
        TEXTS: "default_templates",
        optional(each(TEXT)): "names",
    },
    "TextDecoding": {
        COUNT: "max_new_tokens num_beams",
        COUNT_OR_ZERO: "no_repeat_ngram_size",
        FINITE: "length_penalty",
        FLAG: "do_sample",
        POSITIVE: "temperature",
        SOME: "top_p",
        SEED: "seed",
    },
    # what is given to the model
    "AudioInputs": HEARD,
    "SpokenSourceInputs": HEARD | {COUNT: "max_target_tokens"},
    "SpanMasks": {PART: "share channel_share", COUNT: "span channel_span"},
    "MapInputs": AUGMENTED,
    "ObjectInputs": AUGMENTED,
    "TextInputs": {COUNT: "max_tokens"},
    "TextPairInputs": {COUNT: "max_tokens max_target_tokens", ANY_TEXT: "prefix separator"},
    "WindowInputs": {COUNT: "max_tokens", COUNT_OR_ZERO: "overlap"},
    "WordInputs": {COUNT: "max_tokens", choice("first", "all"): "align"},
    # data
    "Split": {optional(TEXT): "train validation test", INNER: "validation_fraction test_fraction", SEED: "seed"},
    "LabelledAudio": RECORDINGS
    | {
        TEXT: "path audio label folder",
        MONO: "mono",
        ON_BAD: "on_bad",
        FLAG: "quotes",
        each(TEXT): "exclude",
    },
    "LabelledJoinedClips": RECORDINGS
    | JOINS
    | {
        PATHS: "path",
        TEXT: "audio text speaker",
        MONO: "mono",
        choice("text", "speaker"): "target",
    },
    "LabelledEspeak": RECORDINGS | SPEAKS | {TEXT: "program"},
    "ImagesByClass": {
        PATHS: "path",
        GROUP: "columns decoding",
        TEXT: "cache_dir",
        optional(TEXT): "role queries candidates",
    },
    "ImagesByClass.columns": {TEXT: "image label"},
    "JudgedTexts": {PATHS: "path", GROUP: "columns", INNER: "selecting"},
    "JudgedTexts.columns": {TEXT: "id text query document relevance"},
    "LabelledSpokenLetters": RECORDINGS
    | {
        choice("text", "keyword", "speaker"): "target",
        integer(4): "size",
        COUNT: "max_words",
        SEED: "seed",
    },
    "CaptionedFiles": {PATHS: "path", GROUP: "columns shares decoding", TEXT: "cache_dir"},
    "CaptionedFiles.columns": {TEXT: "image text"},
    "CaptionedFiles.shares": {PART: "validation test"},
    "CaptionedScenes": {
        choice("digit", "caption", "swap"): "label",
        COUNT: "size training examples",
        integer(1, 4): "least most",
    },
    "LabelledScenes": {GROUP: "scenes counts", choice("objects", "maps", "classes"): "label"},
    "LabelledScenes.counts": {COUNT: "train validation test"},
    "DocsTopic": {TEXT: "cache_dir"},
    "LabelledCifar10": {TEXT: "path cache_dir"},
    "LabelledImageFiles": {PATHS: "path", GROUP: "columns decoding", TEXT: "cache_dir"},
    "LabelledImageFiles.columns": {TEXT: "image label"},
    "LabelledMaps": PICTURES | {GROUP: "columns files", optional(TEXT): "lists", each(COUNT_OR_ZERO): "ignore"},
    "LabelledMaps.columns": {TEXT: "image mask"},
    "LabelledMaps.files": {TEXT: "image mask"},
    "LabelledObjects": PICTURES | {choice("xyxy", "xywh"): "boxes", FLAG: "masks"},
    "LabelledObjects.columns": {TEXT: "image", optional(TEXT): "boxes classes masks name"},
    "LabelledText": {PATHS: "path", TEXT: "text label", optional(TEXT): "text_pair"},
    "Questions": {PATHS: "path", TEXT: "question context answers"},
    "TaggedText": {PATHS: "path", TEXT: "tokens tags"},
    "TextPairs": {PATHS: "path", TEXT: "source target", optional(TEXT): "references"},
}
