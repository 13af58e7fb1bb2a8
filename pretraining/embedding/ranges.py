"""The range of each setting of embedding."""

from pretraining.kinds import COUNT, FLAG, SEED, TEXT, Ranges, choice, each, either, integer, optional

RANGES: Ranges = {
    "Wanted": {
        either(choice("last", "all"), integer(), each(integer(), least=1)): "layer",
        optional(TEXT): "pooling",
        COUNT: "batch_size",
        FLAG: "normalize",
    },
    "Source": {
        TEXT: "reference",
        optional(TEXT): "tower side",
        each(TEXT): "trust",
        SEED: "seed",
        choice("auto", "fp32", "bf16"): "precision",
        optional(choice("cpu", "cuda")): "device",
    },
    "Comparison": {optional(COUNT): "neighbours", optional(TEXT): "picture", choice("pca", "umap"): "method"},
}
