"""Scenes of handwritten digits with boxes, masks and label maps: nothing to download."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples
from finetuning.dense.masks import encode
from finetuning.dense.objects import Objects
from pretraining.cli.configuration import as_run_errors
from pretraining.data.splits import SPLITS
from pretraining.image.data.scene_captions import DIGITS
from pretraining.image.data.scenes import DigitScenes, Scene
from pretraining.image.modality import IMAGE


@dataclass(kw_only=True)
class LabelledScenes(LabelledData):
    """As many scenes as `counts` says of each split.

    `label`: objects (boxes and masks), maps (a class per pixel), or classes (of scenes of one digit).
    """

    modality = IMAGE
    scenes: DigitScenes = field(default_factory=DigitScenes)
    counts: dict[str, int] = field(default_factory=lambda: {"train": 800, "validation": 100, "test": 200})
    label: str = "objects"
    eval_batch_size: int = 50

    def found(self) -> tuple[dict[str, Examples], list[str] | None]:
        """Draw the three splits."""
        self.refuse_names()
        with as_run_errors():
            if self.label not in _LABELS:
                raise ValueError(f"data.label={self.label}: choose {' or '.join(_LABELS)}")
            if self.label == "classes" and self.scenes.most > 1:
                what = f"data.label=classes, but scenes have up to data.scenes.most={self.scenes.most} digits"
                raise ValueError(f"{what}, of which none is the scene's class: set data.scenes.most=1")
            drawn = {split: self.scenes.draw(split, np.arange(self.counts[split])) for split in SPLITS}
        labelled = _LABELS[self.label]
        found = {}
        for split, scenes in drawn.items():
            names = [f"{split} {row}" for row in range(len(scenes))]
            labels = [labelled(scene) for scene in scenes]
            found[split] = Examples.of(image=[scene.image for scene in scenes], label=labels, name=names)
        return found, [*(["canvas"] if self.label == "maps" else []), *DIGITS]


def _objects(scene: Scene) -> Objects:
    masks = [encode(scene.instances == number + 1) for number in range(len(scene.classes))]
    return Objects(scene.boxes.astype(np.float64), scene.classes, masks=masks)


_LABELS = {
    "objects": _objects,
    "maps": lambda scene: scene.semantic.astype(np.int64),
    "classes": lambda scene: int(scene.classes[0]),
}
