"""What the core asks of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretraining.data.source import Source
from pretraining.modality import Function, Modality, Tower


class Image(Modality):
    """Pixels as uint8 arrays, of which views are made on the device."""

    name = "image"
    unit = "images"
    probes = "online"
    reads = "pretraining.image.unlabelled.ReadImages"
    readers = {  # noqa: RUF012
        "torchvision": "pretraining.image.backbones.torchvision_model.read_checkpoint",
        "hf": "pretraining.image.backbones.transformers_vision.read_checkpoint",
        "timm": "pretraining.image.backbones.timm_model.read_checkpoint",
    }
    writers = {  # noqa: RUF012
        "timm": "pretraining.image.writers.write_timm",
        "torchvision": "pretraining.image.writers.write_torchvision",
        "transformers": "pretraining.image.writers.write_transformers",
        "onnx": "pretraining.onnx_form.write_onnx",
    }

    def source(self, data: Any, split: str, preprocess: Any, collate: Any, *, seed: int) -> Source:
        """Open a split as it is."""
        return data.source(split)

    def backbone_arguments(self, preprocess: Any) -> dict[str, Any]:
        """Name the number of channels."""
        return {"in_channels": preprocess.channels}

    def clean_inputs(self, batch: Mapping[str, Any], preprocess: Any) -> dict[str, Tensor]:
        """Prepare the images as finetuning will."""
        return {"images": preprocess(batch["images"])}

    def function(self, tower: Tower) -> Function:
        """Take prepared images of the one size that the preprocessing makes."""

        def example(rows: int, size: int) -> dict[str, Tensor]:
            channels = tower.preprocess.channels
            return {"images": torch.randn(rows, channels, size, size, generator=torch.Generator().manual_seed(0))}

        preprocess, axes = tower.preprocess, {"images": ("batch",)}
        return Function(tower.backbone, example, [preprocess.size], axes, preprocess.save_for_transformers)

    def show(self, collate: Any, batch: Mapping[str, Any], count: int, path: Path) -> list[str]:
        """Draw the views of some images, where the collate can."""
        if not hasattr(collate, "draw"):
            return []
        picture = path.with_suffix(".png")
        collate.draw(batch, picture, count)
        return [f"views       {picture}"]


IMAGE = Image()
