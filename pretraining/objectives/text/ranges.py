"""The range of each setting of objectives on text."""

from pretraining.kinds import (
    COUNT,
    FLAG,
    GROUP,
    INNER,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    Kind,
    Ranges,
    choice,
    each,
    either,
    integer,
    number,
    optional,
)

FRACTION = either(SHARE, Kind("{start: …, end: …}", GROUP.accepts))
CUT = {optional(COUNT): "max_tokens"}
MASKS = CUT | {FRACTION: "fraction", choice("token", "whole_word", "span"): "unit", SHARE: "mask_share random_share"}
PAIRS = {choice("random", "swapped"): "negatives"}
RANGES: Ranges = {
    "collate": {GROUP: "corruption"},
    "MaskedLanguage": {NOT_NEGATIVE: "boundary_weight"},
    "MaskTokens": MASKS | {FLAG: "static_shapes"},
    "Bert": {NOT_NEGATIVE: "mlm_weight nsp_weight"},
    "MaskPairs": MASKS | PAIRS | {SHARE: "mask_share random_share short_share"},
    "PairSentences": CUT | PAIRS | {SHARE: "short_share"},
    "NextTokens": CUT,
    "DenoiseText": CUT,
    "LabelledTexts": CUT,
    "Bart": {each(GROUP, least=1): "noises"},
    "SpanCorruption": {INNER: "density", number(1): "mean_length"},
    "TextInfilling": {SHARE: "fraction random_share", POSITIVE: "mean_length", FLAG: "whole_words"},
    "SentencePermutation": {SHARE: "fraction"},
    "SupervisedText": {optional(integer(2)): "classes", PART: "label_smoothing"},
}
