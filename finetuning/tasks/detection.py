"""Boxes around the objects of some classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetuning.data.splits import Splits
from finetuning.dense.drawing import with_objects
from finetuning.dense.fcos import FCOSDetector, Found
from finetuning.dense.mask_rcnn import drawn_masks
from finetuning.dense.objects import Objects
from finetuning.dense.pyramid import Pyramid
from finetuning.dense.viewers import with_boxes
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.dense import ObjectInputs, Placement
from finetuning.metrics.detection import evaluate
from finetuning.task import Predictions, TaskParts
from finetuning.tasks.dense import Dense, Judged, distinct, names_of
from pretraining.engine.batch import Batch, Loss
from pretraining.errors import RunError


class Detection(Dense):
    """Boxes by FCOS on a pyramid of `width` and `strides`.

    `max_detections`: of an image that are kept, and of a class in an image that are measured.
    """

    term = "classification"
    detector: ClassVar[Any] = FCOSDetector
    masks: ClassVar[bool] = False

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: ObjectInputs,
        select: str,
        width: int = 64,
        strides: list[int] | None = None,
        max_detections: int = 100,
        pictures: int = 12,
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select, pictures=pictures)
        self.max_detections = max_detections
        pyramid = Pyramid(self.example, size=self.size, strides=strides, width=width)
        self.head = self.detector(pyramid, self.example, len(self.names), size=self.size, most=max_detections)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Name the classes; labels without what the detector learns are an error."""
        assert splits.class_names is not None
        label = splits.train.columns["label"][0]
        if not isinstance(label, Objects):
            raise RunError("got label maps, but objects are needed: take task=semantic_segmentation")
        if cls.masks and label.masks is None:
            raise RunError("got objects without masks: set data.masks=true, or take task=detection")
        if not any((~label.left_out).any() for label in splits.train.column("label")):
            what = "got training images without any object to learn from"
            raise RunError(f"{what}: give others, more of them (fraction), or another draw (seed)")
        return {"names": distinct(splits.class_names)}

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Take an image without objects."""
        return Objects.none(masks=self.masks)

    def loss_of(self, logits: Any, batch: Batch) -> Loss:
        """Compute the detector's terms."""
        return Loss(self.head.loss(logits, batch))  # type: ignore[operator]

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count what the terms are means over."""
        return self.head.counts(batch)  # type: ignore[operator]

    def criterion(self, logits: Any, batch: Batch) -> Tensor:
        """Sum all terms."""
        return torch.stack([term.total for term in self.loss_of(logits, batch).terms.values()]).sum()

    def row_of(self, place: int, logits: Any, placement: Placement) -> Objects:
        """List the detections in an image, the best first."""
        found: Found = self.head.found(logits, place)  # type: ignore[operator]
        boxes = placement.boxes_back(found.boxes.double().cpu().numpy())
        masks = None if found.masks is None else drawn_masks(found.masks, boxes, placement.size)
        objects = Objects(boxes, found.classes.cpu().numpy(), found.scores.double().cpu().numpy(), masks=masks)
        return objects.take(np.all(boxes[:, 2:] > boxes[:, :2], 1))

    def zero_outputs(self, split: EncodedSplit) -> list[Objects]:
        """Detect nothing."""
        return [Objects.none(masks=self.masks) for _ in range(len(split.targets))]

    def predict(self, outputs: Sequence[Objects], split: EncodedSplit) -> Predictions:
        """Match the detections with the objects."""
        truth: list[Any] = list(split.targets)
        judged = evaluate(truth, outputs, classes=len(self.names), most=self.max_detections)
        return Predictions(truth, list(outputs), Judged(names_of(split), judged))

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """List each image's objects and detections: class, box (left, top, right, bottom), score, mask."""
        labels, found = ([self.listed(part) for part in parts] for parts in predictions[:2])
        return {"name": predictions.scores.names, "label": labels, "prediction": found}

    def save(self, directory: Path, predictions: Predictions, split: EncodedSplit) -> None:
        """Write COCO's results too, predictions.json.

        The ids are ours, a row of the test split and a class number, so each has the image's and the class's name too.
        """
        super().save(directory, predictions, split)
        records = []
        for row, (name, found) in enumerate(zip(predictions.scores.names, predictions.predictions, strict=True)):
            for number, listed in zip(found.classes.tolist(), self.listed(found), strict=True):
                left, top, right, bottom = listed["box"]
                record = {"image_id": row, "category_id": number, "file_name": name, "category": listed["class"]}
                record["bbox"] = [left, top, right - left, bottom - top]
                mask = {"segmentation": listed["mask"]} if "mask" in listed else {}
                records.append({**record, "score": listed["score"], **mask})
        (directory / "predictions.json").write_text(json.dumps(records) + "\n", encoding="utf-8")

    def drawn(self, image: np.ndarray, answer: Objects) -> Image.Image:
        """Draw boxes, and masks where there are any."""
        return with_objects(image, answer, self.names)

    def described(self, image: np.ndarray, name: str, pair: list[Objects]) -> dict[str, Any]:
        """Describe boxes, and masks where there are any."""
        return with_boxes(image, name, pair, self.names)

    def listed(self, objects: Objects) -> list[dict[str, Any]]:
        """Write an image's objects as plain data."""
        rows = []
        for row, (number, box) in enumerate(zip(objects.classes, objects.boxes.tolist(), strict=True)):
            listed: dict[str, Any] = {"class": self.names[number], "box": box}
            if objects.scores is not None:
                listed["score"] = float(objects.scores[row])
            if objects.masks is not None:
                listed["mask"] = objects.masks[row].as_coco()
            rows.append(listed)
        return rows
