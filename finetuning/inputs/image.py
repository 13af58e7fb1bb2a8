"""Images, prepared as the hand-off says."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Features, Inputs
from pretraining.backbones.base import Backbone
from pretraining.cli.configuration import as_run_errors, instantiate
from pretraining.data.files import say
from pretraining.data.unlabelled import Unlabelled
from pretraining.engine.batch import Batch
from pretraining.image.data.decode import Decoding, decode
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.image.unlabelled import encoded_images


class Images(EncodedSplit):
    """Images as they were read, uint8 [C, H, W]."""

    def stack(self, rows: np.ndarray) -> Batch:
        """Stack to [B, C, H, W]."""
        images = self.examples.columns["image"]
        return {"inputs": {"images": torch.from_numpy(np.stack([images[row] for row in self.examples.rows[rows]]))}}


def hog(image: np.ndarray, cells: int = 8, bins: int = 9) -> np.ndarray:
    """Describe an image, uint8 [C, H, W], by at most `cells` x `cells` of it: each one's brightness, and how much of
    which of `bins` directions its edges have, over the norm of its block of 2 x 2 (Dalal and Triggs 2005, section 6).
    """
    grey = image.astype(np.float64).mean(0) / 255
    down, across = np.gradient(grey)
    size, angle = np.hypot(down, across), np.arctan2(down, across) % np.pi
    place = np.minimum((angle / np.pi * bins).astype(int), bins - 1)
    # [H, W, 1 + bins], summed over cells of which each takes its share of rows and columns.
    layers = np.concatenate([grey[..., None], size[..., None] * (place[..., None] == np.arange(bins))], -1)
    starts = [np.arange(min(cells, length)) * length // min(cells, length) for length in grey.shape]
    summed = np.add.reduceat(np.add.reduceat(layers, starts[0], 0), starts[1], 1)
    areas = [np.diff([*first, length]) for first, length in zip(starts, grey.shape, strict=True)]
    summed /= np.outer(*areas)[..., None]
    brightness, edges = summed[..., 0], summed[..., 1:]
    padded = np.pad(edges, ((0, 1), (0, 1), (0, 0)), mode="edge")
    blocks = np.concatenate([padded[:-1, :-1], padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]], -1)
    clipped = np.minimum(blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 1e-3), 0.2)
    return np.concatenate([brightness.ravel(), clipped.ravel()])


class ImageInputs(Inputs):
    """Images whose pixels stay as they are until they reach the device, where they are resized and normalised."""

    modality = IMAGE
    columns = ("image",)
    transformers_classes = {"AutoModelForSequenceClassification": "AutoModelForImageClassification"}  # noqa: RUF012

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: ImagePreprocess, backbone: Backbone
    ) -> Images:
        """Leave the images as they are; where the network reads larger ones, say so."""
        if examples.size and (side := min(examples.columns["image"][examples.rows[0]].shape[1:])) < preprocess.size:
            _say_enlarged(side, preprocess.size)
        return Images(examples, targets)

    def on_device(self, inputs: dict[str, Tensor], preprocess: ImagePreprocess) -> dict[str, Tensor]:
        """Resize and normalise."""
        return {"images": preprocess(inputs["images"])}

    def classical(self, train: Examples) -> Features:
        """Take the brightness of cells and their histograms of oriented gradients."""
        return Features("HOG", lambda examples: np.stack([hog(image) for image in examples.column("image")]))

    def read(self, path: Path, named: Mapping[str, Any], preprocess: ImagePreprocess) -> Iterator[Unlabelled]:
        """Decode one image, all images in a directory and those below it, or those in tables, as the run's data are."""
        kept = named.get("decoding")
        decoding = Decoding(channels=preprocess.channels, size=None) if kept is None else instantiate(kept)
        with as_run_errors():
            for shown, name, content in encoded_images(
                path, {"data.columns.image": named.get("columns", {}).get("image", "image")}
            ):
                yield Unlabelled(shown, {"image": decode(content, name, decoding)})

    def made_up_rows(self, preprocess: ImagePreprocess) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw two images of noise."""
        shape = (2, preprocess.channels, preprocess.size, preprocess.size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        return {"images": images}, {"pixel_values": images}

    def save_for_transformers(self, directory: Path, preprocess: ImagePreprocess, backbone: Backbone) -> None:
        """Write the image processor."""
        preprocess.save_for_transformers(directory)


@functools.cache  # once, and not for each split
def _say_enlarged(side: int, size: int) -> None:
    told = f"images of {side} pixels to a side are enlarged to the {size} that this network reads"
    say(f"{told}: where their files have more, give data.decoding.size={size}")
