"""torchvision's classifiers without their last layer: ResNets, vision transformers, ConvNeXt, EfficientNet and VGG.

Shapes: B images, L feature-map cells or patches, D width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG, ConvNeXt, ResNet, VisionTransformer

from pretraining.backbones.base import Backbone, Features
from pretraining.errors import RunError
from pretraining.image.backbones import resnet_parts, transformer_parts
from pretraining.image.backbones.torchvision_construction import built, initialised, lines_of
from pretraining.image.backbones.transformer_parts import PatchEmbedding
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.kernels import winograd
from pretraining.kernels.batchnorm import activate
from pretraining.modality import Tower, named

EQUAL_IN_TRANSFORMERS = "pretraining.image.backbones.equivalents.transformers_or_none"  # which stands on this module
Stem = Literal["imagenet", "small", "cifar"]
STEM_STRIDES = {"small": 2, "cifar": 1}  # of the 3x3 convolution that stands for torchvision's 7x7 one and its pooling


class TorchvisionBackbone(Backbone):
    """A torchvision model, whose weights keep torchvision's names.

    `name` is one that `torchvision.models.get_model` knows, with `options` for its constructor; or `resnet` for basic
    blocks, `layers` of them per stage, the first stage of `width` channels; or `vision_transformer`, with its sizes in
    `options`. `stem="cifar"` starts a ResNet with a 3x3 convolution of stride 1 and no pooling, for small images;
    `stem="small"` the same of stride 2, at a quarter of the cost. `pooling` says what stands for an image in a vision
    transformer: its class token, or the mean of its patches. `weights` names torchvision's weights; null starts fresh.
    """

    modality = IMAGE
    model: Any  # torchvision's, whose parts the type checker does not know

    def __init__(
        self,
        *,
        name: str,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        layers: list[int] | None = None,
        width: int = 64,
        options: dict[str, Any] | None = None,
        pooling: Literal["class", "mean"] = "class",
        weights: str | None = None,
    ) -> None:
        super().__init__()
        layers, options = None if layers is None else list(layers), dict(options or {})
        self.kwargs = {"name": name, "stem": stem, "in_channels": in_channels}
        self.kwargs |= {"layers": layers, "width": width, "options": options, "pooling": pooling}
        self._check(weights)
        self.model = built(name, layers, width, options, weights)
        if pooling not in ("class", "mean") or (pooling == "mean" and not isinstance(self.model, VisionTransformer)):
            cure = "choose class, or mean with a vision transformer (other networks average their cells anyway)"
            raise ValueError(f"backbone.pooling={pooling} with backbone.name={name}: {cure}")
        self._recipe = lines_of(name, layers, width, options)
        if stem != "imagenet":
            self._replace_stem(STEM_STRIDES[stem])
        if in_channels != 3:
            self._take_channels(in_channels)
        self.dim = self._remove_head()
        winograd.adopt(self.model)
        resnet_parts.adopt(self.model)
        transformer_parts.adopt(self.model)

    def _check(self, weights: str | None) -> None:
        name, stem, layers = self.kwargs["name"], self.kwargs["stem"], self.kwargs["layers"]
        if stem not in ("imagenet", *STEM_STRIDES):
            raise ValueError(f"backbone.stem={stem!r} is unknown: choose imagenet, small or cifar")
        if stem != "imagenet" and not name.startswith(("resnet", "resnext", "wide_resnet")):
            what = f"backbone.stem={stem} is for ResNets, not for backbone.name={name}"
            raise ValueError(f"{what}: set backbone.stem=imagenet")
        if (name == "resnet") != (layers is not None) or (layers is not None and len(layers) != 4):
            cure = "give four numbers of blocks with the name resnet, and null with others"
            raise ValueError(f"backbone.layers={layers} with backbone.name={name}: {cure}")
        if weights is not None and (stem != "imagenet" or self.kwargs["in_channels"] != 3):
            cure = "set backbone.in_channels=3 backbone.stem=imagenet, or backbone.weights=null"
            raise ValueError(f"torchvision's weights are for three channels and the imagenet stem: {cure}")

    def _replace_stem(self, stride: int) -> None:
        channels = self.model.conv1.out_channels
        self.model.conv1 = initialised(nn.Conv2d(3, channels, 3, stride=stride, padding=1, bias=False))
        self.model.maxpool = nn.Identity()
        written = f"torch.nn.Conv2d(3, {channels}, 3, stride={stride}, padding=1, bias=False)"
        self._recipe += [f"model.conv1 = {written}", "model.maxpool = torch.nn.Identity()"]

    def _take_channels(self, channels: int) -> None:
        """Change the number of input channels of the first convolution."""
        path, old = next((path, part) for path, part in self.model.named_modules() if isinstance(part, nn.Conv2d))
        arguments: dict[str, Any] = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding")}
        arguments["bias"] = old.bias is not None
        self.model.set_submodule(path, initialised(nn.Conv2d(channels, old.out_channels, **arguments), self.model))
        listed = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        self._recipe.append(f'model.set_submodule("{path}", torch.nn.Conv2d({channels}, {old.out_channels}, {listed}))')

    def _remove_head(self) -> int:
        """Put an identity in place of the classifier; returns the width of what went into it."""
        paths: dict[type, str] = {ResNet: "fc", VisionTransformer: "heads", ConvNeXt: "classifier.2"}
        path = next((path for kind, path in paths.items() if isinstance(self.model, kind)), "classifier")
        head = self.model.get_submodule(path)
        dim = next(part.in_features for part in head.modules() if isinstance(part, nn.Linear))
        self.model.set_submodule(path, nn.Identity())
        nested = f'model.set_submodule("{path}", torch.nn.Identity())'
        self._recipe.append(nested if "." in path else f"model.{path} = torch.nn.Identity()")
        if isinstance(self.model, VGG):
            dim //= 49
            self.model.avgpool = nn.AdaptiveAvgPool2d(1)
            self._recipe.append("model.avgpool = torch.nn.AdaptiveAvgPool2d(1)")
        return dim

    @property
    def convolves(self) -> bool:
        """ResNets' convolutions were checked in bf16 on CPUs; `_at_safe_precision` sees to the kind that is wrong."""
        kinds = (part for part in self.modules() if isinstance(part, nn.Conv2d))
        return not isinstance(self.model, ResNet) and any(not isinstance(part, PatchEmbedding) for part in kinds)

    @property
    def patches(self) -> tuple[int, int] | None:
        """The side of a patch in pixels, and how many there are to a side; None where a network has no patches."""
        model = self.model
        if not isinstance(model, VisionTransformer):
            return None
        return model.patch_size, model.image_size // model.patch_size

    def forward(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        masked: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Features:
        """Compute the features of normalised images [B, C, H, W].

        A vision transformer may be shown the patches `visible` alone, int64 [B, K], in rows from the top left;
        positions are then theirs. Or `mask_token` [D] stands for the patches `masked`, bool [B, L].
        """
        model = self.model
        if isinstance(model, VisionTransformer):
            return self._features_of_patches(images, visible, masked, mask_token)
        if isinstance(model, ResNet):
            cells = model.maxpool(activate(model.bn1, model.conv1(images)))
            stages: list[Tensor] = []
            for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
                cells = _at_safe_precision(stage, cells)
                stages.append(cells)
        else:
            cells, stages = self._through_stages(images)
        pooled, grid = model.avgpool(cells), (cells.shape[2], cells.shape[3])
        pooled = model.classifier(pooled) if isinstance(model, ConvNeXt) else pooled
        return Features(cells.flatten(2).transpose(1, 2), pooled.flatten(1), grid=grid, stages=tuple(stages))

    def _through_stages(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run `features` part by part, keeping the last map of each resolution."""
        cells = images
        stages: list[Tensor] = []
        for part in self.model.features:
            before, cells = cells, part(cells)
            if stages and cells.shape[2:] == before.shape[2:]:
                stages.pop()
            stages.append(cells)
        return cells, stages

    def _features_of_patches(
        self, images: Tensor, visible: Tensor | None, masked: Tensor | None, mask_token: Tensor | None
    ) -> Features:
        model, encoder = self.model, self.model.encoder
        if images.shape[2] % model.patch_size or images.shape[3] % model.patch_size:
            told = f"images of {images.shape[2]} x {images.shape[3]} pixels are no whole number of patches"
            raise RunError(f"{told} of {model.patch_size}: choose another preprocess.size, or another patch size")
        cells = model.conv_proj(images)
        grid = (cells.shape[2], cells.shape[3])
        patches = cells.flatten(2).transpose(1, 2)
        if masked is not None and mask_token is not None:
            patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
        tokens = torch.cat([model.class_token.expand(len(images), -1, -1), patches], 1)
        tokens = tokens + _positions_at(encoder.pos_embedding, grid)
        if visible is not None:
            kept = (visible + 1)[..., None].expand(-1, -1, tokens.shape[2])
            tokens = torch.cat([tokens[:, :1], tokens.gather(1, kept)], 1)
        tokens = encoder.ln(encoder.layers(encoder.dropout(tokens)))
        return self._of_tokens(tokens, None if visible is not None else grid)

    def _of_tokens(self, tokens: Tensor, grid: tuple[int, ...] | None) -> Features:
        pooled = tokens[:, 1:].mean(1) if self.kwargs["pooling"] == "mean" else tokens[:, 0]
        return Features(tokens[:, 1:], pooled, grid=grid)

    def stack(self) -> list[nn.Module]:
        """List a ResNet's stages, or a vision transformer's layers; of other networks the last map alone is read."""
        model = self.model
        if isinstance(model, ResNet):
            return [model.layer1, model.layer2, model.layer3, model.layer4]
        return list(model.encoder.layers) if isinstance(model, VisionTransformer) else []

    @property
    def layer_widths(self) -> list[int]:
        """See `Backbone.layer_widths`: a ResNet's stages grow wider."""
        if not isinstance(self.model, ResNet):
            return super().layer_widths
        last = [[part for part in stage.modules() if isinstance(part, nn.Conv2d)][-1] for stage in self.stack()]
        return [self.model.conv1.out_channels, *(part.out_channels for part in last)]

    def of_layer(self, output: Tensor, last: Features) -> Features:
        """See `Backbone.of_layer`."""
        if isinstance(self.model, VisionTransformer):
            return self._of_tokens(output, last.grid)
        cells = output.flatten(2).transpose(1, 2)
        return Features(cells, cells.mean(1), grid=(output.shape[2], output.shape[3]))

    def blocks(self) -> list[nn.Module]:
        """List the stem, each block of each stage, and what follows them."""
        model = self.model
        if isinstance(model, ResNet):
            stages = (model.layer1, model.layer2, model.layer3, model.layer4)
            return [nn.ModuleList([model.conv1, model.bn1]), *(block for stage in stages for block in stage)]
        if isinstance(model, VisionTransformer):
            tokens = nn.ParameterList([model.class_token, model.encoder.pos_embedding])
            return [nn.ModuleList([model.conv_proj, tokens]), *model.encoder.layers, model.encoder.ln]
        parts = [part for stage in model.features for part in (stage if _is_stage(stage) else [stage])]
        return [part for part in (*parts, model.classifier) if any(True for _ in part.parameters())]

    def export(self, directory: Path) -> None:
        """Write model.safetensors under torchvision's names."""
        from safetensors.torch import save_file

        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.model.state_dict().items()}
        save_file(weights, directory / "model.safetensors")

    def load(self, directory: Path) -> None:
        """Read the weights strictly."""
        from safetensors.torch import load_file

        self.model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)

    def as_transformers(self) -> Any | None:
        """See `Backbone.as_transformers`."""
        return named(EQUAL_IN_TRANSFORMERS)(self)

    def usage(self) -> str:
        """Write the lines that load it with torchvision alone."""
        lines = ["import torch", "import torchvision", "from safetensors.torch import load_file", "", *self._recipe]
        lines.append('model.load_state_dict(load_file("DIR/model.safetensors"), strict=True)')
        if self.kwargs["pooling"] == "mean":
            lines.append(
                "# an image's features are the mean of the encoder's outputs for patches, not the class token's"
            )
        return "\n".join(lines)


def read_checkpoint(name: str) -> Tower:
    """Take torchvision's pretrained weights, with the preparation that they were trained with."""
    return Tower(TorchvisionBackbone(name=name, weights="DEFAULT"), ImagePreprocess.imagenet())


def _positions_at(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Take a vision transformer's embeddings of class token and places [1, 1 + L, D] to another grid of patches.

    By bicubic interpolation (Dosovitskiy et al. 2021, section 3.2); at the grid that they were made for, unchanged.
    """
    side = math.isqrt(embedding.shape[1] - 1)
    if grid == (side, side):
        return embedding
    places = embedding[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    places = F.interpolate(places, grid, mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :1], places.flatten(2).transpose(1, 2)], 1)


def _at_safe_precision(stage: nn.Module, cells: Tensor) -> Tensor:
    """Run a stage, in single precision where a CPU's bf16 is wrong: on 1x1 maps.

    Torch 2.15 leaves parts of the weight gradient of a strided 3x3 convolution of them uninitialised.
    """
    if cells.device.type != "cpu" or cells.shape[2:] != (1, 1):
        return stage(cells)
    with torch.autocast("cpu", enabled=False):
        return stage(cells.float() if cells.dtype == torch.bfloat16 else cells)


def _is_stage(part: nn.Module) -> bool:
    """Tell a stage of blocks from a single block: both can be sequential, but only a stage holds nothing but blocks."""
    return type(part) is nn.Sequential and all(len(list(child.children())) > 0 for child in part)
