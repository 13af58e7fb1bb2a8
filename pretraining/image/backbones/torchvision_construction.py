"""torchvision's models with a head, also in sizes that it has no name for, and the python lines that build them."""

from __future__ import annotations

import math
from typing import Any

import torchvision
from torch import nn
from torchvision.models import VGG, ConvNeXt, EfficientNet, ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock

from pretraining.errors import reason_of


def initialised(convolution: nn.Conv2d, model: nn.Module | None = None) -> nn.Conv2d:
    """Draw a convolution's weights as torchvision's ResNets do, or as `model` has its first one drawn; no bias.

    A patch embedding by ResNets' rule, which counts its outputs, would hardly tell one patch from another.
    """
    if isinstance(model, VisionTransformer):
        nn.init.trunc_normal_(convolution.weight, std=math.sqrt(1.0 / convolution.weight[0].numel()))
    elif isinstance(model, ConvNeXt):
        nn.init.trunc_normal_(convolution.weight, std=0.02)
    else:
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def built(name: str, layers: list[int] | None, width: int, options: dict[str, Any], weights: str | None) -> nn.Module:
    """Build what `TorchvisionBackbone` describes, its classifier included."""
    if name == "resnet":
        assert layers is not None
        return _narrowed(ResNet(BasicBlock, layers), layers, width)
    if name == "vision_transformer":
        try:
            return VisionTransformer(**options)
        except (AssertionError, TypeError) as error:
            cure = "image_size (of preprocess.size) must be a multiple of patch_size: change what does not fit"
            raise ValueError(f"backbone.options={options} cannot be built ({reason_of(error)}): {cure}") from error
    if name not in torchvision.models.list_models(module=torchvision.models):
        named = "resnet18, resnet50, vit_b_16, convnext_tiny, efficientnet_b0, vgg16, ..."
        sized = "resnet (with backbone.layers) or vision_transformer (with backbone.options)"
        raise ValueError(f"backbone.name={name!r} is not a model of torchvision: choose {named}, or {sized}")
    model = torchvision.models.get_model(name, weights=weights, **options)
    if not isinstance(model, ResNet | VisionTransformer | ConvNeXt | EfficientNet | VGG):
        families = "ResNet, ViT, ConvNeXt, EfficientNet and VGG families"
        raise ValueError(f"backbone.name={name!r} is none of torchvision's {families}: choose one of those")
    return model


def _narrowed(model: ResNet, layers: list[int], width: int) -> ResNet:
    """Rebuild a ResNet of basic blocks with another number of channels, which torchvision fixes at 64."""
    if width == 64:
        return model
    model.inplanes = width
    model.conv1, model.bn1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(width)
    for stage, blocks in enumerate(layers):
        layer = model._make_layer(BasicBlock, width << stage, blocks, stride=1 if stage == 0 else 2)
        setattr(model, f"layer{stage + 1}", layer)
    model.fc = nn.Linear(width << 3, 1000)
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            initialised(part)
    return model


def lines_of(name: str, layers: list[int] | None, width: int, options: dict[str, Any]) -> list[str]:
    """Write the python lines that build what `built` builds."""
    if name == "vision_transformer":
        return [f"model = torchvision.models.VisionTransformer({_listed(options)})"]
    if name != "resnet":
        return [f"model = torchvision.models.{name}({_listed(options)})"]
    lines = [f"model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, {layers})"]
    if width != 64:
        assert layers is not None
        stem = f"torch.nn.Conv2d(3, {width}, 7, stride=2, padding=3, bias=False)"
        lines += [f"model.inplanes, model.conv1 = {width}, {stem}", f"model.bn1 = torch.nn.BatchNorm2d({width})"]
        for stage, blocks in enumerate(layers):
            sizes = f"{width << stage}, {blocks}, stride={1 if stage == 0 else 2}"
            lines.append(f"model.layer{stage + 1} = model._make_layer(torchvision.models.resnet.BasicBlock, {sizes})")
    return lines


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
