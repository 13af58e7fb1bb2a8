"""The image networks of transformers' CLIP and SigLIP, fresh or from a checkpoint.

Shapes: B images, C channels, S pixels to a side, L patches, D width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretraining.backbones.base import Backbone, Features
from pretraining.backbones.transformers_loading import build, quieten, read, read_pair
from pretraining.image.backbones.transformer_parts import PatchEmbedding, embed_by_product
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.modality import Tower

KINDS = ("clip_vision_model", "siglip_vision_model")


class TransformersVision(Backbone):
    """A vision transformer as CLIP or SigLIP has it, built from `config` with one of their `model_type`s.

    An image's vector is what theirs is before the projection: the class token's (CLIP), or that of a learnt query which
    attends to the patches (SigLIP).
    """

    modality = IMAGE
    model: Any  # transformers', whose parts the type checker does not know

    def __init__(self, *, config: dict[str, Any], in_channels: int = 3) -> None:
        super().__init__()
        if config.get("model_type") not in KINDS:
            what = f"backbone.config.model_type={config.get('model_type')!r}"
            raise ValueError(f"{what} is no image network that is read here: choose {' or '.join(KINDS)}")
        self.model = build("encoder", {**config, "num_channels": in_channels}, None, None, {})
        self.dim = self.model.config.hidden_size
        plain = self.model.config.to_diff_dict() | {"model_type": config["model_type"]}
        plain.pop("transformers_version", None)
        self.kwargs = {"config": plain, "in_channels": in_channels}
        embed_by_product(self.model.embeddings.patch_embedding)

    @property
    def convolves(self) -> bool:
        """Patches are embedded by a matrix product, and nothing else convolves."""
        return any(isinstance(part, nn.Conv2d) and not isinstance(part, PatchEmbedding) for part in self.modules())

    def forward(self, images: Tensor) -> Features:
        """Compute the features of normalised images [B, C, S, S]; other sizes have positions in between."""
        config = self.model.config
        resized = images.shape[2:] != (config.image_size, config.image_size)
        found = self.model(pixel_values=images, interpolate_pos_encoding=resized)
        grid = (images.shape[2] // config.patch_size, images.shape[3] // config.patch_size)
        return Features(found.last_hidden_state[:, -math.prod(grid) :], found.pooler_output, grid=grid)

    def blocks(self) -> list[nn.Module]:
        """List the embeddings, each layer, and what follows or precedes them."""
        parts = [part for name, part in self.model.named_children() if name not in ("embeddings", "encoder")]
        return [self.model.embeddings, *self.model.encoder.layers, nn.ModuleList(parts)]

    def export(self, directory: Path) -> None:
        """Write config.json and model.safetensors as `save_pretrained` does."""
        quieten()
        self.model.save_pretrained(directory)

    def load(self, directory: Path) -> None:
        """Read the weights strictly."""
        self.model.load_state_dict(read("encoder", str(directory), {}).state_dict())

    def as_transformers(self) -> Any:
        """See `Backbone.as_transformers`."""
        return self.model

    def usage(self) -> str:
        """Write the lines that load it with transformers alone."""
        return f'import transformers\n\nmodel = transformers.{type(self.model).__name__}.from_pretrained("DIR")'


def read_checkpoint(name: str) -> Tower:
    """Take the image network of a CLIP or SigLIP checkpoint, with its preparation of images."""
    model = read_pair(name).vision_model
    backbone = TransformersVision(config=model.config.to_diff_dict() | {"model_type": model.config.model_type},
                                  in_channels=model.config.num_channels)  # fmt: skip
    backbone.model.load_state_dict(model.state_dict())
    return Tower(backbone, ImagePreprocess.of_transformers(name))
