"""The range of each setting of objectives on recorded sound."""

from pretraining.kinds import (
    COUNT,
    GROUP,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    SHARE,
    SOME,
    Ranges,
    each,
    either,
    integer,
    optional,
)

MOMENTUM = either(SHARE, GROUP)
LEARNS = {COUNT: "width", NOT_NEGATIVE: "penalty_weight stem_gradient"}
RANGES: Ranges = {
    "objective": {GROUP: "quantiser"},
    "objective.quantiser": {GROUP: "temperature"},
    "Wav2Vec2": LEARNS | {COUNT: "width negatives", NOT_NEGATIVE: "penalty_weight stem_gradient diversity_weight"},
    "ProductQuantiser": {COUNT: "groups codes width", PART: "dropout"},
    "Temperature": {POSITIVE: "start end", SHARE: "share"},
    "MaskedUnits": LEARNS | {optional(integer(2)): "units"},
    "Data2VecAudio": {COUNT: "top_layers", MOMENTUM: "momentum", SHARE: "last_momentum", NOT_NEGATIVE: "stem_gradient"},
    "MaskFrames": {optional(each(COUNT, least=1)): "kernels strides", SOME: "share", COUNT: "span"},
}
