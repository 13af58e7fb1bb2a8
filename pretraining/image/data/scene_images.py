"""Scenes of handwritten digits as images alone: what a tower is pretrained on before it meets captions.

Shapes: B images, S pixels to a side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pretraining.cache import key
from pretraining.image.data.base import ImageData, ImageSet, check_split
from pretraining.image.data.builtin import grey_digits
from pretraining.image.data.scenes import DigitScenes

FORMAT = 1  # raised when the same settings would give other scenes


@dataclass(kw_only=True, eq=False)
class SceneImages(ImageData):
    """The scenes that pairs have in their first epoch, `scenes` to train on and `held_out` in the other splits."""

    size: int
    least: int
    most: int
    scenes: int
    held_out: int
    made: DigitScenes = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.made = DigitScenes(size=self.size, least=self.least, most=self.most)

    def split(self, split: str) -> ImageSet:
        """Open a split; scenes are made when they are read."""
        check_split(split)
        count = self.scenes if split == "train" else self.held_out
        return ImageSet(_Drawn(self.made, split, count), None)

    def fingerprint(self) -> str:
        """Name what the scenes are made of."""
        pixels, labels = grey_digits()
        sizes = {"scenes": self.scenes, "held_out": self.held_out}
        return key({"digits": pixels.tobytes().hex() + labels.tobytes().hex(), **vars(self.made), **sizes, "f": FORMAT})


class _Drawn:
    """Looks like a uint8 array [N, 3, S, S] and makes the rows asked for."""

    def __init__(self, made: DigitScenes, split: str, count: int) -> None:
        self.made, self.of, self.shape = made, split, (count, 3, made.size, made.size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([scene.image for scene in self.made.draw(self.of, rows)])
