"""Images, prepared as the hand-off says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Inputs
from pretraining.backbones.base import Backbone
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import walk
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.image.data.decode import Decoding, decode
from pretraining.image.data.files import SUFFIXES
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess


class Images(EncodedSplit):
    """Images as they were read, uint8 [C, H, W]."""

    def stack(self, rows: np.ndarray) -> Batch:
        """Stack to [B, C, H, W]."""
        images = self.examples.columns["image"]
        return {"inputs": {"images": torch.from_numpy(np.stack([images[row] for row in self.examples.rows[rows]]))}}


class ImageInputs(Inputs):
    """Images whose pixels stay as they are until they reach the device, where they are resized and normalised."""

    modality = IMAGE
    columns = ("image",)

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: ImagePreprocess, backbone: Backbone
    ) -> Images:
        """Leave the images as they are."""
        return Images(examples, targets)

    def on_device(self, inputs: dict[str, Tensor], preprocess: ImagePreprocess) -> dict[str, Tensor]:
        """Resize and normalise."""
        return {"images": preprocess(inputs["images"])}

    def read(self, path: Path | None, named: Mapping[str, Any], preprocess: ImagePreprocess) -> dict[str, list]:
        """Decode one image, or all images in a directory and those below it."""
        if path is None:
            raise RunError("got input=- for a run on images: give a file or a directory of images")
        found = [path] if path.is_file() else [file for file in walk(path) if file.suffix.lower() in SUFFIXES]
        decoding = Decoding(channels=preprocess.channels, size=preprocess.size)
        with as_run_errors():
            return {"image": [decode(file.read_bytes(), str(file), decoding) for file in sorted(found)]}
