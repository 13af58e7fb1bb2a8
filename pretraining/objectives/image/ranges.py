"""The range of each setting of objectives on images."""

from pretraining.kinds import (
    COUNT,
    FLAG,
    GROUP,
    INNER,
    NOT_NEGATIVE,
    PAIR,
    PART,
    POSITIVE,
    SOME,
    Ranges,
    choice,
    each,
    integer,
    optional,
)

EXPORT = {optional(choice("student", "teacher")): "export"}
LOCAL = {optional(GROUP): "local_views"}
RANGES: Ranges = {
    "objective": {
        optional(GROUP): "views",
        GROUP: "projector predictor momentum distillation blocks decoder contrast codes",
    },
    "BYOL": EXPORT,
    "BarlowTwins": {POSITIVE: "redundancy weight"},
    "DINO": EXPORT | LOCAL,
    "DenoisingImages": {POSITIVE: "noise", COUNT: "decoder_width"},
    "IBOT": EXPORT | LOCAL,
    "IJEPA": EXPORT,
    "Blocks": {COUNT: "targets", each(SOME, 2): "scale", PAIR: "aspect", SOME: "context"},
    "PatchPredictor": {COUNT: "width layers heads"},
    "MaskedAutoencoder": {INNER: "mask_ratio", FLAG: "normalise_patches"},
    "PatchDecoder": {COUNT: "width layers heads"},
    "MoCoV2": EXPORT,
    "MoCoV3": EXPORT | {POSITIVE: "temperature"},
    "SimCLR": {POSITIVE: "temperature", FLAG: "decoupled supervised", NOT_NEGATIVE: "weight"},
    "SimSiam": {FLAG: "constant_predictor_rate"},
    "SupervisedImages": {optional(integer(2)): "classes", PART: "label_smoothing"},
    "SwAV": LOCAL,
    "VICReg": {NOT_NEGATIVE: "invariance variance covariance"},
}
