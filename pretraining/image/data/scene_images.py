"""Scenes of handwritten digits as images alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pretraining.cache import key
from pretraining.image.data.base import ImageData, ImageSet, check_split
from pretraining.image.data.builtin import grey_digits
from pretraining.image.data.scene_captions import DIGITS
from pretraining.image.data.scenes import DigitScenes

FORMAT = 1  # raised when the same settings would give other scenes


@dataclass(kw_only=True, eq=False)
class SceneImages(ImageData):
    """Scenes of `least` to `most` digits, `size` pixels to a side: `scenes` to train on, `held_out` in other splits.

    Where each has one digit, that is its class; else they have none.
    """

    size: int = 64
    least: int = 1
    most: int = 1
    scenes: int = 4000
    held_out: int = 500
    made: DigitScenes = field(init=False)
    eval_batch_size: int = 128
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = DigitScenes(size=self.size, least=self.least, most=self.most)

    def split(self, split: str) -> ImageSet:
        """Make a split."""
        check_split(split)
        drawn = self.made.draw(split, range(self.scenes if split == "train" else self.held_out))
        images = np.stack([scene.image for scene in drawn])
        if self.most > 1:
            return ImageSet(images, None)
        return ImageSet(images, np.array([scene.classes[0] for scene in drawn]), DIGITS)

    def fingerprint(self) -> str:
        """Name what the scenes are made of."""
        pixels, labels = grey_digits()
        sizes = {"scenes": self.scenes, "held_out": self.held_out}
        return key({"digits": pixels.tobytes().hex() + labels.tobytes().hex(), **vars(self.made), **sizes, "f": FORMAT})
