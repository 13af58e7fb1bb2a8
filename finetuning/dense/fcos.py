"""Boxes by FCOS, and what detectors have in common.

Shapes: B images, C classes, A points of all maps, S canvas size, n objects in an image, N in a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from finetuning.dense.pyramid import Pyramid
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch, Term
from pretraining.errors import RunError

SCORE, NMS, CANDIDATES = 0.05, 0.6, 1000  # torchvision's: least score, overlap of doubles, detections kept per map
NOTHING = -1
GROUPS = 32  # of channels, in the norms of torchvision's head


class Found(NamedTuple):
    """What a detector finds in an image, the best first, in pixels of the canvas."""

    boxes: Tensor  # [n, 4]
    classes: Tensor  # int64 [n]
    scores: Tensor  # [n]
    masks: Tensor | None = None  # [n, 1, M, M]: how probable the object is at places of its box


class FCOSDetector(nn.Module):
    """FCOS (Tian et al. 2019, with centre sampling) as torchvision has it, on a pyramid.

    Each point inside an object, near its middle and on the map of its size, learns the object's class (focal loss), box
    (GIoU) and how far from the middle it lies; all three are means over such points of the step. torchvision's resizing
    and normalisation are not used: images lie on canvases of one size, so that the points never change.
    """

    anchors: Tensor  # [A, 4]: a square of one stride around each point

    def __init__(self, pyramid: Pyramid, example: Features, classes: int, *, size: int, most: int) -> None:
        super().__init__()
        if pyramid.out_channels % GROUPS:
            raise RunError(
                f"got task.width={pyramid.out_channels}: give a multiple of {GROUPS}, which the head's norms take"
            )
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

    def loss(self, answers: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """Sum the three losses over the points that have an object."""
        boxes, classes = (cut(batch[name], batch) for name in ("boxes", "classes"))
        targets = [{"boxes": own, "labels": numbers} for own, numbers in zip(boxes, classes, strict=True)]
        matched = [self.matched(own) for own in boxes]
        points = torch.stack([(part >= 0).sum() for part in matched]).sum()
        answers = {name: values.float() for name, values in answers.items()}
        found = self.fcos.head.compute_loss(targets, answers, [self.anchors] * len(boxes), matched)
        # torchvision divides by its own points; the step divides by those of all micro-batches and ranks.
        return {name: Term(value * points.clamp(min=1), points.double()) for name, value in found.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the points that have an object."""
        points = [(self.matched(own) >= 0).sum() for own in cut(batch["boxes"], batch)]
        return dict.fromkeys(("classification", "bbox_regression", "bbox_ctrness"), torch.stack(points).sum().double())

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

    def found(self, answers: dict[str, Tensor], place: int) -> Found:
        """List what is found in a batch's image."""
        own = {name: values[place : place + 1].float().split(self.per_map, 1) for name, values in answers.items()}
        anchors = list(self.anchors.to(answers["cls_logits"].device).split(self.per_map))
        found = self.fcos.postprocess_detections(own, [anchors], [(self.size, self.size)])[0]
        return Found(found["boxes"], found["labels"], found["scores"])


def _points(side: int, stride: int) -> Tensor:
    """Make a square of one stride around the corner of each cell of a map, where torchvision has its points."""
    starts = torch.arange(side) * float(stride)
    corners = torch.stack(torch.meshgrid(starts, starts, indexing="xy"), -1).reshape(-1, 2)
    return torch.cat([corners - stride / 2, corners + stride / 2], 1)


def cut(values: Tensor, batch: Batch) -> list[Tensor]:
    """Cut what belongs to the objects of a batch into images."""
    return list(values.split(batch["objects_per_row"].tolist()))
