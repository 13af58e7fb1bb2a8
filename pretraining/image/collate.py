"""Batches of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.nn import functional as F

from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.image.augment import Views
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.random import Keys


class StackImages:
    """Hands pixels on as they are; the views are made on the device."""

    def __init__(self, *, preprocess: ImagePreprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, examples: ImageExamples, keys: Keys) -> Batch:
        """Turn raw images into tensors."""
        images = torch.from_numpy(np.ascontiguousarray(examples.images))
        if images.shape[1] != self.preprocess.channels:
            what = f"images have {images.shape[1]} channel(s), but the backbone takes {self.preprocess.channels}"
            cure = "with as many numbers in preprocess.mean and preprocess.std, or data.decoding.channels"
            raise RunError(f"{what}: set preprocess.channels={images.shape[1]} {cure}={self.preprocess.channels}")
        batch: Batch = {"images": images}
        return batch if examples.labels is None else batch | {"labels": torch.from_numpy(examples.labels)}

    def draw(self, batch: Batch, path: Path, count: int = 12) -> None:
        """Save a picture of `count` images of a finished batch, one per column, with their views below them."""
        images, read = batch["images"][:count], batch.get("inputs") or {"images": self.preprocess(batch["images"])}
        views = batch.get("views", read["images"])
        size = views.shape[-1]
        mean, std = (torch.tensor(part)[:, None, None] for part in (self.preprocess.mean, self.preprocess.std))
        views = views.float().cpu().unflatten(0, (-1, len(batch["images"])))[:, :count] * std + mean
        originals = F.interpolate(images.float().cpu() / 255.0, (size, size), mode="nearest")
        rows = torch.cat([originals[None], views]).flatten(0, 1).clamp(0.0, 1.0)
        rows = F.interpolate(rows, scale_factor=max(1, 64 // size), mode="nearest")
        torchvision.utils.save_image(rows, path, nrow=len(images), pad_value=1.0)


class AugmentedImages(StackImages):
    """Hands pixels on; in training, where there is `augment`, with a random view of each as `augmented` inputs.

    Views leave in the preprocessing's size and scale, whatever `augment` says of these.
    """

    def __init__(self, *, preprocess: ImagePreprocess, augment: Views | None = None) -> None:
        super().__init__(preprocess=preprocess)
        if augment is None:
            self.augment = None
            return
        if augment.count != 1:
            raise ValueError(f"collate.sides.image.augment.count={augment.count}: give 1, one view for each caption")
        output = dataclasses.replace(augment.output, mean=tuple(preprocess.mean), std=tuple(preprocess.std))
        crop = dataclasses.replace(augment.crop, size=preprocess.size)
        self.augment = dataclasses.replace(augment, crop=crop, output=output)

    def __call__(self, examples: ImageExamples, keys: Keys) -> Batch:
        """Turn raw images into tensors."""
        batch = super().__call__(examples, keys)
        if self.augment is None or keys.stream != "train":
            return batch
        return batch | {"augmented": {"images": self.augment(batch["images"], keys.to("cpu"))}}


class LabelledImages(StackImages):
    """Hands pixels on with their classes: training images become views later, others are prepared as downstream."""

    def __call__(self, examples: ImageExamples, keys: Keys) -> Batch:
        """Turn raw images and labels into tensors."""
        batch = super().__call__(examples, keys)
        if keys.stream == "train":
            return batch
        return batch | {"inputs": {"images": self.preprocess(batch["images"])}}
