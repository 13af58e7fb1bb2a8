"""Boxes and masks of the objects of some classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from finetuning.dense.mask_rcnn import MaskDetector
from finetuning.dense.objects import Objects
from finetuning.inputs.base import EncodedSplit
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.metrics.detection import Evaluation, evaluate
from finetuning.task import Predictions
from finetuning.tasks.dense import Judged, names_of
from finetuning.tasks.detection import Detection


class InstanceSegmentation(Detection):
    """Boxes and masks by Mask R-CNN, on the same pyramid."""

    term = "loss_objectness"
    detector = MaskDetector
    masks = True

    def predict(self, outputs: Sequence[Objects], split: EncodedSplit) -> Predictions:
        """Match the detections with the objects, by boxes and by masks."""
        truth: list[Any] = list(split.targets)
        found = list(outputs)
        both = (
            evaluate(truth, found, classes=len(self.names), most=self.max_detections, masks=masks)
            for masks in (False, True)
        )
        return Predictions(truth, found, Judged(names_of(split), BoxesAndMasks(*both)))


class BoxesAndMasks(NamedTuple):
    """What was measured by boxes, and by masks: the latter's names begin with mask."""

    boxes: Evaluation
    masks: Evaluation

    def numbers(self) -> Numbers:
        """Compute the average precisions of both."""
        return self.boxes.numbers() | _masked(self.masks.numbers())

    def intervals(self) -> Intervals:
        """Bootstrap them."""
        return self.boxes.intervals() | _masked(self.masks.intervals())

    def table(self, names: Sequence[str]) -> dict[str, Any]:
        """Tabulate each class."""
        masks = self.masks.table(names)
        return {
            name: row | _masked({key: value for key, value in masks[name].items() if key != "objects"})
            for name, row in self.boxes.table(names).items()
        }


def _masked(values: dict[str, Any]) -> dict[str, Any]:
    return {f"mask_{name}": value for name, value in values.items()}
