"""Scenes of handwritten digits with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pretraining.cache import key
from pretraining.image.data.base import ImageExamples
from pretraining.image.data.builtin import grey_digits
from pretraining.image.data.scene_captions import COLOURS, DIGITS, SIZES, SWAPS
from pretraining.image.data.scenes import REPLACED, DigitScenes, Scene
from pretraining.pairs.data.base import ClassTexts, PairData, PairExamples, table_of
from pretraining.text.raw import RawTexts

WORDS_IN = 2000  # scenes, whose captions hold all words of the grammar
FORMAT = 1  # raised when the same settings would give other scenes
Kind = Literal["swapped", "replaced"]
FALSE: dict[str, tuple[int, Callable[[Scene], Iterable[str]]]] = {  # how many at most, and which
    "swapped": (len(SWAPS), lambda scene: scene.negatives.values()),
    "replaced": (REPLACED, lambda scene: scene.replaced),
}


@dataclass(kw_only=True, eq=False)
class SceneCaptions(PairData):
    """Scenes of `least` to `most` digits, `size` pixels to a side, with a caption each.

    `scenes` of them in an epoch of training, and in the other splits `held_out`. Each epoch has scenes of its own.
    `hard_negatives` are false captions to tell a scene's own from: "swapped" ones of the same words, and "replaced"
    ones, in which one word is another.
    """

    size: int = 64
    least: int = 1
    most: int = 4
    scenes: int = 20000
    held_out: int = 1024
    hard_negatives: Sequence[Kind] = ()
    made: DigitScenes = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = next((kind for kind in self.hard_negatives if kind not in FALSE), None)
        if unknown is not None:
            raise ValueError(f"data.hard_negatives has {unknown!r}: choose of {', '.join(FALSE)}")
        self.made = DigitScenes(size=self.size, least=self.least, most=self.most)

    def open(self, split: str) -> SceneSource:
        """Open a split."""
        return SceneSource(self.made, split, self.scenes if split == "train" else self.held_out, self.hard_negatives)

    def fingerprint(self) -> str:
        """Name what the scenes are made of."""
        pixels, labels = grey_digits()
        sizes: dict[str, Any] = {"scenes": self.scenes, "held_out": self.held_out}
        sizes |= {"hard_negatives": list(self.hard_negatives)} if self.hard_negatives else {}
        return key({"digits": pixels.tobytes().hex() + labels.tobytes().hex(), **vars(self.made), **sizes, "f": FORMAT})

    def texts(self, split: str) -> Iterator[str]:
        """Read the captions of the first scenes."""
        return (scene.caption for scene in self.made.draw(split, range(WORDS_IN)))


class SceneSource:
    """A split of scenes, made when they are read. Those of one digit belong to its class."""

    def __init__(self, made: DigitScenes, split: str, scenes: int, hard_negatives: Sequence[Kind]) -> None:
        self.made, self.split, self.scenes, self.hard_negatives = made, split, scenes, hard_negatives
        named = [f"a {size} {colour} {digit}" for digit in DIGITS for size in SIZES for colour in COLOURS]
        self.class_texts = ClassTexts(DIGITS, RawTexts.of(named))

    def count(self, epoch: int) -> int:
        """Count the scenes of an epoch."""
        return self.scenes

    def read(self, epoch: int, rows: np.ndarray) -> PairExamples:
        """Make scenes."""
        places = epoch * self.scenes + rows
        scenes = self.made.draw(self.split, places)
        texts = [scene.caption for scene in scenes]
        images = ImageExamples(np.stack([scene.image for scene in scenes]), None)
        labels = np.array([scene.classes[0] if len(scene.classes) == 1 else -1 for scene in scenes], np.int64)
        sides = {"image": images, "text": RawTexts.of(texts)}
        return PairExamples(sides, places, table_of([[text] for text in texts], 1), labels, self._false(scenes))

    def _false(self, scenes: Sequence[Scene]) -> np.ndarray | None:
        if not self.hard_negatives:
            return None
        texts = [[text for kind in self.hard_negatives for text in FALSE[kind][1](scene)] for scene in scenes]
        width = sum(FALSE[kind][0] for kind in self.hard_negatives)
        return table_of([list(dict.fromkeys(own)) for own in texts], width)
