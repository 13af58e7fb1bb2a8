"""What images are by themselves, and which settings fit them."""

from __future__ import annotations

import contextlib

import numpy as np

from pretraining.image.data.decode import Decoding, Encoded, decode

LOOKED_AT = 64  # images, evenly spread
SMALL = 64  # pixels: up to here a network begins with the small stem


def fitting(encoded: Encoded, decoding: Decoding) -> str | None:
    """Word the settings that fit images which `decoding` would enlarge; None where it does not, or some are broken."""
    if decoding.size is None:
        return None
    rows = np.unique(np.linspace(0, len(encoded) - 1, min(LOOKED_AT, len(encoded))).astype(int))
    with contextlib.suppress(ValueError):  # a broken image is named when all are read
        images = [decode(encoded.read(row), encoded.names[row], Decoding(size=None)) for row in rows]
        sides = sorted(min(image.shape[1:]) for image in images)
        if sides[-1] >= decoding.size:
            return None
        grey = all((image == image[:1]).all() for image in images)
        values = np.concatenate([image[: 1 if grey else 3].reshape(1 if grey else 3, -1) for image in images], 1) / 255
        mean, std = ([round(float(part), 3) for part in parts] for parts in (values.mean(1), values.std(1)))
        size, stem = sides[len(sides) // 2], " backbone.stem=cifar" * (sides[-1] <= SMALL)
        shown = (
            f"{images[0].shape[1]} x {images[0].shape[2]}"
            if len({image.shape for image in images}) == 1
            else f"up to {sides[-1]}"
        )
        return (
            f"the images are {shown} pixels, {'grey' if grey else 'in colour'}, and data.decoding.size={decoding.size} "
            f"enlarges them; what fits: data.decoding.size={size} preprocess.size={size} "
            f"preprocess.channels={len(mean)} 'preprocess.mean={mean}' 'preprocess.std={std}'{stem}"
        )
    return None
