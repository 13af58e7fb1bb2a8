"""Pictures with what is said of them: scenes of digits, and tables of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from pretraining.cache import default_cache
from pretraining.cli.configuration import as_run_errors
from pretraining.data.base import Data
from pretraining.data.files import TABLES, Paths, find, say
from pretraining.data.splits import SPLITS, names_of_splits
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding
from pretraining.image.data.scene_captions import DIGITS
from pretraining.image.data.scenes import DigitScenes, Scene
from pretraining.image.modality import IMAGE
from pretraining.pairs.data.captions import each_once
from pretraining.pairs.data.files import SHARDS, ImageTextFiles

KINDS = (*TABLES, SHARDS)
Label = Literal["digit", "caption", "swap"]
LABELS: dict[str, Callable[[Scene], Any]] = {
    "digit": lambda scene: int(scene.classes[0]),
    "caption": lambda scene: [scene.caption],
    "swap": lambda scene: {"true": scene.caption, "false": scene.negatives},
}


@dataclass(kw_only=True)
class CaptionedScenes(LabelledData):
    """Scenes of `least` to `most` digits, `size` pixels to a side: `training` of them to learn from, `examples` to
    select by and `examples` to test on.

    `label`: the digit (of scenes with one), the caption, or a true caption with false ones of the same words (of scenes
    that have such).
    """

    modality = IMAGE
    label: Label = "caption"
    size: int = 64
    least: int = 1
    most: int = 4
    training: int = 10
    examples: int = 1000
    eval_batch_size: int = 250

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Make the three splits."""
        self.refuse_names()
        if self.label not in LABELS:
            raise RunError(f"got data.label={self.label}: choose {', '.join(LABELS)}")
        if self.label == "digit" and self.most > 1:
            raise RunError(f"got data.label=digit for scenes of up to {self.most} digits: set data.most=1")
        if self.label == "swap" and self.most < 2:
            raise RunError("got data.label=swap for scenes of one digit, in which nothing is swapped: set data.most=2")
        with as_run_errors():
            made = DigitScenes(size=self.size, least=self.least, most=self.most)
        return {split: self._examples(made, split) for split in SPLITS}, list(DIGITS) if self.label == "digit" else None

    def _examples(self, made: DigitScenes, split: str) -> Examples:
        wanted = self.training if split == "train" else self.examples
        scenes: list[Scene] = []
        start = 0
        while len(scenes) < wanted:  # those without false captions are left out
            drawn = made.draw(split, range(start, start + wanted))
            scenes += [scene for scene in drawn if self.label != "swap" or scene.negatives]
            start += wanted
        scenes = scenes[:wanted]
        labels = [LABELS[self.label](scene) for scene in scenes]
        names = [f"{split} {row}" for row in range(len(scenes))]
        return Examples.of(image=[scene.image for scene in scenes], label=labels, name=names)


@dataclass(kw_only=True)
class CaptionedFiles(LabelledData):
    """Tables of image files and captions, as in pretraining (`data=image_text`), in the same splits. Where `path` is
    {test: PATH} or a single table called test, all of that is for testing.
    """

    modality = IMAGE
    path: Paths | Mapping[str, Paths]
    columns: dict[str, str] = field(default_factory=lambda: {"image": "image", "text": "text"})
    decoding: Decoding = field(default_factory=lambda: Decoding(size=64))
    shares: dict[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})
    cache_dir: str = field(default_factory=default_cache)
    eval_batch_size: int = 250

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Read the splits that are there."""
        self.refuse_names()
        settings: dict[str, Any] = {"columns": self.columns, "decoding": self.decoding, "shares": self.shares}
        settings |= {"batch_size": 1, "eval_batch_size": 1, "workers": 0}  # of pretraining: no batches are served here
        with as_run_errors():
            alone = self._alone()
            kind, path = (ImageTextFiles, self.path) if alone is None else (_TestFiles, alone)
            data = kind(path=path, cache_dir=self.cache_dir, **settings)
            return {split: _examples(data, split) for split in SPLITS if split in data.images}, None

    def _alone(self) -> Paths | None:
        """Name the files where all of them are for testing, by their key or by their names."""
        if isinstance(self.path, Mapping):
            return self.path["test"] if set(self.path) == {"test"} else None
        names = [file.name for file in find(self.path, key="data.path", kinds=KINDS)]
        return self.path if len(names) == 1 and set(names_of_splits(names)) == {"test"} else None


class _TestFiles(ImageTextFiles):
    """Files of which no image is set apart: all are for testing."""

    def __post_init__(self) -> None:
        Data.__post_init__(self)
        assert not isinstance(self.path, Mapping)
        rows = self._read(find(self.path, key="data.path.test", kinds=KINDS))
        self.images = each_once({"test": rows}, self.where, "pictures")
        say(f"{self.where}: {len(self.images['test'])} test images")


def _examples(data: ImageTextFiles, split: str) -> Examples:
    source = data.open(split)
    names = [one.place if one.name == one.identity else one.name for one in data.images[split]]
    return Examples.of(image=_Rows(source.images), label=source.captions, name=names)


class _Rows(Sequence):
    """Looks single images up in an array, or in what decodes on demand."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> np.ndarray:  # type: ignore[override]
        return np.asarray(self.pixels[np.array([row])])[0]
