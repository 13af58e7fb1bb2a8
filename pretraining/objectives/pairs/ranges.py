"""The range of each setting of objectives on pairs."""

from pretraining.kinds import COUNT, FINITE, PART, Ranges, number

RANGES: Ranges = {
    "Clip": {COUNT: "width", number(1): "scale max_scale", PART: "label_smoothing"},
    "SigLip": {COUNT: "width", number(1): "scale max_scale", FINITE: "logit_bias"},
}
