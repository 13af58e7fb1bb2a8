"""Boxes around the objects of some classes.

Shapes: B images, C classes, A points of all maps, S canvas size, N objects in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from finetuning.data.splits import Splits
from finetuning.dense.drawing import with_objects
from finetuning.dense.objects import Objects
from finetuning.dense.pyramid import Pyramid
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.dense import ObjectInputs, Placement
from finetuning.metrics.detection import evaluate
from finetuning.task import Predictions, TaskParts
from finetuning.tasks.dense import Dense, Judged, names_of
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch, Loss, Term

SCORE, NMS, CANDIDATES = 0.05, 0.6, 1000  # torchvision's: least score, overlap of doubles, detections kept per map
NOTHING = -1


class Detection(Dense):
    """FCOS (Tian et al. 2019, with centre sampling) as torchvision has it, on a pyramid of `width` and `strides`.

    Each point inside an object, near its middle and on the map of its size, learns the object's class (focal loss), box
    (GIoU) and how far from the middle it lies. All three are means over such points of the step. `max_detections`: of a
    class in an image that are measured, and of an image that are kept.
    """

    term = "classification"
    masks = False

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: ObjectInputs,
        select: str,
        width: int,
        strides: list[int] | None,
        max_detections: int,
        pictures: int,
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select, pictures=pictures)
        self.max_detections = max_detections
        pyramid = Pyramid(self.example, size=self.size, strides=strides, width=width)
        self.head = Detector(pyramid, self.example, len(self.names), size=self.size, most=max_detections)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Name the classes."""
        assert splits.class_names is not None
        return {"names": splits.class_names}

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Take an image without objects."""
        return Objects.none(masks=self.masks)

    def loss_of(self, logits: dict[str, Tensor], batch: Batch) -> Loss:
        """Compute the three terms."""
        matched = [self.head.matched(boxes) for boxes in _cut(batch["boxes"], batch)]
        targets = [
            {"boxes": boxes, "labels": classes}
            for boxes, classes in zip(_cut(batch["boxes"], batch), _cut(batch["classes"], batch), strict=True)
        ]
        points = torch.stack([(part >= 0).sum() for part in matched]).sum()
        anchors = [self.head.anchors] * len(matched)
        found = self.head.fcos.head.compute_loss(targets, {k: v.float() for k, v in logits.items()}, anchors, matched)
        # torchvision divides by its own points; the step divides by those of all micro-batches and ranks.
        return Loss({name: Term(value * points.clamp(min=1), points.double()) for name, value in found.items()})

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the points that have an object."""
        matched = [(self.head.matched(boxes) >= 0).sum() for boxes in _cut(batch["boxes"], batch)]
        points = torch.stack(matched).sum().double()
        return dict.fromkeys(("classification", "bbox_regression", "bbox_ctrness"), points)

    def criterion(self, logits: Any, batch: Batch) -> Tensor:
        """Sum all terms."""
        return torch.stack([term.total for term in self.loss_of(logits, batch).terms.values()]).sum()

    def row_of(self, place: int, logits: dict[str, Tensor], placement: Placement) -> Objects:
        """List the detections in an image, the best first."""
        boxes, classes, scores = self.head.detections({name: part[place] for name, part in logits.items()})
        moved = placement.boxes_back(boxes.double().cpu().numpy())
        found = Objects(moved, classes.cpu().numpy(), scores.double().cpu().numpy())
        return found.take((moved[:, 2:] > moved[:, :2]).all(1))

    def zero_outputs(self, split: EncodedSplit) -> list[Objects]:
        """Detect nothing."""
        return [Objects.none(masks=self.masks) for _ in range(len(split.targets))]

    def predict(self, outputs: Sequence[Objects], split: EncodedSplit) -> Predictions:
        """Match the detections with the objects."""
        truth = list(split.targets)
        judged = evaluate(truth, outputs, classes=len(self.names), most=self.max_detections)
        return Predictions(truth, list(outputs), Judged(names_of(split), judged))

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """List each image's objects and detections: class, box (left, top, right, bottom), score, mask."""
        labels, found = ([self.listed(part) for part in parts] for parts in predictions[:2])
        return {"name": predictions.scores.names, "label": labels, "prediction": found}

    def save(self, directory: Path, predictions: Predictions, split: EncodedSplit) -> None:
        """Write COCO's results too, predictions.json: image_id is a row of the test split, category_id a class's."""
        super().save(directory, predictions, split)
        records = []
        for row, found in enumerate(predictions.predictions):
            for number, listed in zip(found.classes.tolist(), self.listed(found), strict=True):
                left, top, right, bottom = listed["box"]
                record = {"image_id": row, "category_id": number, "bbox": [left, top, right - left, bottom - top]}
                mask = {"segmentation": listed["mask"]} if "mask" in listed else {}
                records.append({**record, "score": listed["score"], **mask})
        (directory / "predictions.json").write_text(json.dumps(records) + "\n", encoding="utf-8")

    def drawn(self, image: np.ndarray, answer: Objects) -> Image.Image:
        """Draw boxes, and masks where there are any."""
        return with_objects(image, answer, self.names)

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


class Detector(nn.Module):
    """torchvision's FCOS without what prepares images: they lie on canvases of one size, so its points never change."""

    anchors: Tensor  # [A, 4]: a square of one stride around each point

    def __init__(self, pyramid: Pyramid, example: Features, classes: int, *, size: int, most: int) -> None:
        super().__init__()
        sizes = tuple((stride,) for stride in pyramid.strides)
        self.size = size
        self.fcos = FCOS(
            pyramid,
            classes,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(sizes)),
            score_thresh=SCORE,
            nms_thresh=NMS,
            detections_per_img=most,
            topk_candidates=CANDIDATES,
        )
        with torch.no_grad():
            sides = [part.shape[-1] for part in pyramid(example)]
        self.per_map = [side * side for side in sides]
        points = [_points(side, stride) for side, stride in zip(sides, pyramid.strides, strict=True)]
        self.register_buffer("anchors", torch.cat(points), persistent=False)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Score each point: classes [B, A, C], boxes [B, A, 4], nearness to the middle [B, A, 1]."""
        return self.fcos.head(self.fcos.backbone(features))

    def matched(self, boxes: Tensor) -> Tensor:
        """Find the object [n, 4] that each point learns, of several the smallest; -1 for none. int64 [A]

        It lies in it, within 1.5 strides of its middle along each axis, and the object's farthest side is 4 to 8
        strides away; nearer on the finest map too, farther on the coarsest.
        """
        if not len(boxes):
            return torch.full((len(self.anchors),), NOTHING, device=self.anchors.device)
        stride = (self.anchors[:, 2] - self.anchors[:, 0])[:, None]
        point = (self.anchors[:, None, :2] + self.anchors[:, None, 2:]) / 2
        sides = torch.cat([point - boxes[None, :, :2], boxes[None, :, 2:] - point], 2)  # [A, n, 4]
        middle = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
        low, high = 4 * stride, 8 * stride
        low[: self.per_map[0]], high[-self.per_map[-1] :] = 0, float("inf")
        farthest = sides.amax(2)
        fits = ((point - middle).abs().amax(2) < self.fcos.center_sampling_radius * stride) & (sides.amin(2) > 0)
        fits &= (farthest > low) & (farthest < high)
        areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].expand(len(fits), -1)
        least, chosen = areas.masked_fill(~fits, float("inf")).min(1)
        return chosen.masked_fill(least == float("inf"), NOTHING)

    def detections(self, logits: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """List an image's boxes on the canvas, classes and scores, from its scores of points [A, ...]."""
        cut = {name: [part[None] for part in values.float().split(self.per_map)] for name, values in logits.items()}
        anchors = [list(self.anchors.to(logits["cls_logits"].device).split(self.per_map))]
        found = self.fcos.postprocess_detections(cut, anchors, [(self.size, self.size)])[0]
        return found["boxes"], found["labels"], found["scores"]


def _points(side: int, stride: int) -> Tensor:
    """Make a square of one stride around the corner of each cell of a map, where torchvision has its points."""
    starts = torch.arange(side) * float(stride)
    corners = torch.stack(torch.meshgrid(starts, starts, indexing="xy"), -1).reshape(-1, 2)
    return torch.cat([corners - stride / 2, corners + stride / 2], 1)


def _cut(values: Tensor, batch: Batch) -> list[Tensor]:
    """Cut what belongs to the objects of a batch into images."""
    return list(values.split(batch["objects_per_row"].tolist()))
