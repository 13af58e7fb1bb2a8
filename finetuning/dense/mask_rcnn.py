"""Boxes and masks by Mask R-CNN.

Shapes: B images, C classes, S canvas size, W width of the maps, n objects in an image, M cells of a mask.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign

from finetuning.dense.fcos import Found, cut
from finetuning.dense.masks import Mask, encode
from finetuning.dense.pyramid import Pyramid
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch, Term
from pretraining.random import Keys, uniform

ANCHOR = 4  # sides of an anchor, in strides of its map
ASPECTS = (0.5, 1.0, 2.0)
HIDDEN = 256  # of the box head: torchvision's 1024 is half of a small network
SAMPLED = 64  # anchors and proposals per image that are learnt from, instead of torchvision's 256 and 512
PROPOSALS = {"training": 200, "testing": 150}  # per image
TERMS = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")


class MaskDetector(nn.Module):
    """Mask R-CNN (He et al. 2017) as torchvision has it, with small heads, on a pyramid.

    Each of its five losses is the mean over what an image samples, and then over images; what is sampled is drawn by
    the image's key. So no split of the images over micro-batches or ranks changes them.
    """

    def __init__(self, pyramid: Pyramid, example: Features, classes: int, *, size: int, most: int) -> None:
        super().__init__()
        self.size, width = size, pyramid.out_channels
        names = [str(number) for number in range(len(pyramid.strides))]
        sizes = tuple((ANCHOR * stride,) for stride in pyramid.strides)
        pools = [MultiScaleRoIAlign(names, output_size=cells, sampling_ratio=2) for cells in (7, 14)]
        self.rcnn = MaskRCNN(
            pyramid,
            rpn_anchor_generator=AnchorGenerator(sizes, (ASPECTS,) * len(sizes)),
            rpn_batch_size_per_image=SAMPLED,
            rpn_post_nms_top_n_train=PROPOSALS["training"],
            rpn_post_nms_top_n_test=PROPOSALS["testing"],
            box_roi_pool=pools[0],
            box_head=TwoMLPHead(width * 7**2, HIDDEN),
            box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
            box_batch_size_per_image=SAMPLED,
            box_detections_per_img=most,
            mask_roi_pool=pools[1],
            mask_head=MaskRCNNHeads(width, (width, width), 1),
            mask_predictor=MaskRCNNPredictor(width, width, classes + 1),
        )
        for part in (self.rcnn.rpn, self.rcnn.roi_heads):
            old = part.fg_bg_sampler
            part.fg_bg_sampler = KeyedSampler(old.batch_size_per_image, old.positive_fraction)

    def forward(self, features: Features) -> dict[str, Tensor]:
        """Compute the pyramid's maps, from which both losses and detections are made. [B, W, S / stride, S / stride]"""
        return {str(number): part for number, part in enumerate(self.rcnn.backbone(features))}

    def loss(self, answers: dict[str, Tensor], batch: Batch) -> dict[str, Term]:
        """Sum the five losses over images."""
        boxes, classes, masks = (cut(batch[name], batch) for name in ("boxes", "classes", "masks"))
        totals = {name: batch["boxes"].new_zeros(()) for name in TERMS}
        for row, own in enumerate(zip(boxes, classes, masks, strict=True)):
            target = {"boxes": own[0], "labels": own[1] + 1, "masks": own[2].to(torch.uint8)}  # 0 is background
            for name, value in self._losses(answers, row, target, batch["keys"]).items():
                totals[name] = totals[name] + value
        count = torch.tensor(float(len(boxes)), dtype=torch.float64)
        return {name: Term(total, count) for name, total in totals.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the images."""
        return dict.fromkeys(TERMS, torch.tensor(float(len(batch["objects_per_row"])), dtype=torch.float64))

    def _losses(self, answers: dict[str, Tensor], row: int, target: dict[str, Tensor], keys: Keys) -> dict[str, Tensor]:
        """Compute the losses of one image; torchvision does so in training alone, whose heads hold no norms."""
        rpn, heads = self.rcnn.rpn, self.rcnn.roi_heads
        place = torch.tensor([row], device=target["boxes"].device)
        for part, slot in ((rpn, "anchors"), (heads, "proposals")):
            part.fg_bg_sampler.keys, part.fg_bg_sampler.slot = keys.to(place.device).select(place), slot
        training = rpn.training, heads.training
        rpn.training = heads.training = True
        try:
            images, maps = self._image(answers, row)
            proposals, found = rpn(images, maps, [target])
            return {**found, **heads(maps, proposals, images.image_sizes, [target])[1]}
        finally:
            rpn.training, heads.training = training

    def _image(self, answers: dict[str, Tensor], row: int) -> tuple[ImageList, OrderedDict[str, Tensor]]:
        maps = OrderedDict((name, part[row : row + 1].float()) for name, part in answers.items())
        pixels = maps["0"].new_zeros(1, 1, self.size, self.size)  # of which the size alone is looked at
        return ImageList(pixels, [(self.size, self.size)]), maps

    def found(self, answers: dict[str, Tensor], place: int) -> Found:
        """List what is found in a batch's image."""
        images, maps = self._image(answers, place)
        proposals, _ = self.rcnn.rpn(images, maps)
        found = self.rcnn.roi_heads(maps, proposals, images.image_sizes)[0][0]
        return Found(found["boxes"], found["labels"] - 1, found["scores"], found["masks"])


class KeyedSampler(BalancedPositiveNegativeSampler):
    """Draws what an image learns from by the image's key, instead of torch's generator."""

    keys: Keys
    slot: str

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Mark the positive (from 1 on) and the negative (0) ones that are drawn, of one image. uint8 [n] each"""
        (kinds,) = matched_idxs
        draws = torch.as_tensor(uniform(self.keys, self.slot, len(kinds)))[0]
        chosen, room = [], self.batch_size_per_image
        for places, most in ((kinds >= 1, int(room * self.positive_fraction)), (kinds == 0, room)):
            numbers = torch.where(places)[0]
            taken = numbers[draws[numbers].argsort(stable=True)[: min(most, room)]]
            room -= len(taken)
            chosen.append(torch.zeros_like(kinds, dtype=torch.uint8).index_fill_(0, taken, 1))
        return [chosen[0]], [chosen[1]]


def drawn_masks(masks: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> list[Mask]:
    """Draw masks [n, 1, M, M] into their boxes [n, 4] of an image of a size: what is more probable than not."""
    if not len(masks):
        return []
    drawn = paste_masks_in_image(masks.float().cpu(), torch.from_numpy(boxes).float(), size)
    return [encode(part) for part in (drawn[:, 0] > 0.5).numpy()]
