"""Any network of timm without its classifier, fresh or pretrained.

Shapes: B images, C channels, L feature-map cells or patches, D width, N tokens (patches, and a class token or others).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretraining.backbones.base import Backbone, Features
from pretraining.errors import RunError, reason_of
from pretraining.image.backbones.timm_construction import LACKING, blocks_of, built, lines_of, read_directory
from pretraining.image.backbones.transformer_parts import PatchEmbedding, embed_by_product
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.modality import Tower


class TimmBackbone(Backbone):
    """A model of timm, whose weights keep timm's names.

    `name` is one that `timm.create_model` knows, `arguments` are further ones of its constructor. Networks that are
    made for one size of images get `size`; plain vision transformers take other sizes, too. `pooling` says what stands
    for an image: what the model's classifier reads (`model`), or in a plain vision transformer the mean of its patches.
    Where a classifier has hidden layers (VGG, MobileNetV3), these are left out with it: the mean of the cells remains.
    `weights` is a file, timm's directory, or `pretrained` (timm's own, from the hub); null starts fresh.
    """

    modality = IMAGE
    model: Any  # timm's, whose parts the type checker does not know

    def __init__(
        self,
        *,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        size: int | None = None,
        in_channels: int = 3,
        pooling: Literal["model", "mean"] = "model",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        self.kwargs = {"name": name, "arguments": dict(arguments or {}), "size": size, "in_channels": in_channels}
        self.model, self.averages = built(**self.kwargs, weights=weights)
        self.kwargs["pooling"] = pooling
        self.plain = is_plain_transformer(self.model)
        if pooling not in ("model", "mean") or (pooling == "mean" and not self.plain):
            cure = "choose model, or mean with a plain vision transformer (other networks average their cells anyway)"
            raise ValueError(f"backbone.pooling={pooling} with backbone.name={name}: {cure}")
        if pooling == "mean":
            self.model.reset_classifier(0, "avg")
        self.dim = self.model.num_features
        if self.plain:
            embed_by_product(self.model.patch_embed.proj)

    @property
    def convolves(self) -> bool:
        """Patches are embedded by a matrix product; other convolutions of timm were not checked in bf16."""
        return any(isinstance(part, nn.Conv2d) and not isinstance(part, PatchEmbedding) for part in self.modules())

    @property
    def patches(self) -> tuple[int, int] | None:
        """See `TorchvisionBackbone.patches`."""
        if not self.plain:
            return None
        embedding = self.model.patch_embed
        (height, width), (rows, columns) = embedding.patch_size, embedding.grid_size
        return (height, rows) if height == width and rows == columns else None

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Features:
        """Compute the features of normalised images [B, C, H, W]; see `TorchvisionBackbone.forward`."""
        if self.plain:
            return self._features_of_patches(images, visible, masked, mask_token)
        try:
            final, maps = self.model.forward_intermediates(images)
        except (AssertionError, RuntimeError) as error:  # of a network that is made for one size, or for larger ones
            if images.is_meta or self._takes(images):
                raise
            height, width = images.shape[2:]
            told = f"backbone.name={self.kwargs['name']} does not take images of {height} x {width} pixels"
            cure = "choose another preprocess.size (backbone.size follows it), or another model"
            raise RunError(f"{told} ({reason_of(error)}): {cure}") from error
        cells = self._as_map(final, maps[-1].shape[2:])
        pooled = cells.mean((2, 3)) if self.averages else self.model.forward_head(final, pre_logits=True)
        if cells.shape[1] != self.dim or pooled.shape != (len(images), self.dim):
            told = f"backbone.name={self.kwargs['name']} answers with cells of {cells.shape[1]} and images of"
            raise RunError(f"{told} {list(pooled.shape[1:])} channels, which should be {self.dim}: choose another")
        kept = [*maps[:-1], cells] if maps[-1].shape[2:] == cells.shape[2:] else [*maps, cells]
        stages = [part for part, after in itertools.pairwise(kept) if part.shape[2:] != after.shape[2:]]
        grid = (cells.shape[2], cells.shape[3])
        return Features(
            cells.flatten(2).transpose(1, 2), pooled, grid=grid, stages=(*stages, cells) if stages else None
        )

    def _takes(self, images: Tensor) -> bool:
        """Tell whether images of this shape go through, whatever else has failed: on shapes alone."""
        try:
            copy.deepcopy(self.model).to("meta").eval().forward_intermediates(images.detach().to("meta"))
        except (AssertionError, RuntimeError):
            return False
        return True

    def _as_map(self, final: Any, grid: tuple[int, int]) -> Tensor:
        """Lay out what a network ends with, as timm has it, as a map. [B, D, rows, columns]"""
        if not isinstance(final, Tensor) or final.dim() not in (3, 4):
            told = f"backbone.name={self.kwargs['name']} ends with no single map of cells"
            raise RunError(f"{told}: choose another model of timm")
        if final.dim() == 3:
            tokens = final[:, getattr(self.model, "num_prefix_tokens", 0) :]
            return tokens.transpose(1, 2).unflatten(2, grid)
        return final.permute(0, 3, 1, 2) if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else final

    def _features_of_patches(
        self, images: Tensor, visible: Tensor | None, masked: Tensor | None, mask_token: Tensor | None
    ) -> Features:
        model = self.model
        height, width = model.patch_embed.patch_size
        if images.shape[2] % height or images.shape[3] % width:
            told = f"images of {images.shape[2]} x {images.shape[3]} pixels are no whole number of patches"
            raise RunError(f"{told} of {height} x {width}: choose another preprocess.size, or another model of timm")
        patches = model.patch_embed(images)  # [B, rows, columns, D] where it takes images of any size
        if masked is not None and mask_token is not None:
            hidden = masked.view(*patches.shape[:-1], 1)
            patches = torch.where(hidden, mask_token.to(patches.dtype), patches)
        tokens = model._pos_embed(patches)  # [B, N, D]
        if visible is not None:
            own, first = model.num_prefix_tokens, tokens[:, : model.num_prefix_tokens]
            kept = (visible + own)[..., None].expand(-1, -1, tokens.shape[2])
            tokens = torch.cat([first, tokens.gather(1, kept)], 1)
        tokens = model.norm_pre(model.patch_drop(tokens))
        for block in model.blocks:
            run = partial(checkpoint, block, use_reentrant=False) if model.grad_checkpointing else block
            tokens = run(tokens)
        tokens = model.norm(tokens)
        grid = None if visible is not None else (images.shape[2] // height, images.shape[3] // width)
        return Features(tokens[:, model.num_prefix_tokens :], model.forward_head(tokens, pre_logits=True), grid=grid)

    def stack(self) -> list[nn.Module]:
        """List a ResNet's stages, or a plain vision transformer's blocks; of others the last map alone is read."""
        from timm.models import ResNet

        model: Any = self.model
        if isinstance(self.model, ResNet):
            return [model.layer1, model.layer2, model.layer3, model.layer4]
        return list(model.blocks) if self.plain else []

    @property
    def layer_widths(self) -> list[int]:
        """See `Backbone.layer_widths`: a ResNet's stages grow wider."""
        stack = self.stack()
        return (
            super().layer_widths if self.plain or not stack else [info["num_chs"] for info in self.model.feature_info]
        )

    def of_layer(self, output: Tensor, last: Features) -> Features:
        """See `Backbone.of_layer`."""
        if self.plain:
            return Features(output[:, self.model.num_prefix_tokens :], self.model.pool(output), grid=last.grid)
        cells = output.flatten(2).transpose(1, 2)
        return Features(cells, cells.mean(1), grid=(output.shape[2], output.shape[3]))

    def blocks(self) -> list[nn.Module]:
        """List the parts in timm's own order and division, by which timm decays rates over layers, too."""
        return blocks_of(self.model)

    def set_compute(self, *, compiled: bool, activation_checkpointing: bool, sharded: bool) -> None:
        """See `Backbone.set_compute`: plain vision transformers have activation checkpointing."""
        if activation_checkpointing and self.plain:
            self.model.set_grad_checkpointing()
            activation_checkpointing = False
        super().set_compute(compiled=compiled, activation_checkpointing=activation_checkpointing, sharded=sharded)

    def export(self, directory: Path) -> None:
        """Write model.safetensors under timm's names."""
        from safetensors.torch import save_file

        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        save_file(weights, directory / "model.safetensors")

    def load(self, directory: Path) -> None:
        """Read the weights strictly."""
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)

    def usage(self) -> str:
        """Write the lines that load it with timm alone."""
        lines = ["import timm", "from safetensors.torch import load_file", ""]
        lines += lines_of(self.kwargs, hidden=self.averages)
        lines.append('model.load_state_dict(load_file("DIR/model.safetensors"), strict=True)')
        if self.averages:
            lines.append("# an image's features are the mean of model.forward_features(images) over rows and columns")
        return "\n".join(lines)


def is_plain_transformer(model: Any) -> bool:
    """Tell a vision transformer of timm's one class for them, without the variants that compute otherwise."""
    from timm.models import VisionTransformer

    pools = getattr(model, "attn_pool", None) is None
    return type(model) is VisionTransformer and pools and type(model.patch_embed.proj) is nn.Conv2d


def read_checkpoint(name: str) -> Tower:
    """Take timm's weights, with the preparation that they were trained with.

    `name` is one of timm's models (its weights come from the hub), `NAME:FILE`, or a directory in timm's form.
    """
    try:
        from timm.data import resolve_data_config
    except ImportError as error:
        raise ValueError(LACKING) from error
    arguments: dict[str, Any] = {"weights": "pretrained"}
    described: dict[str, Any] | None = None
    if Path(name).is_dir():
        name, arguments, described = read_directory(Path(name))
    elif ":" in name:
        name, _, arguments["weights"] = name.partition(":")
    backbone = TimmBackbone(name=name, **arguments)
    config = resolve_data_config(pretrained_cfg=described or backbone.model.pretrained_cfg)
    return Tower(backbone, ImagePreprocess.of_timm(config, name))
