"""The same network in another library: ResNets and plain vision transformers of torchvision, timm and transformers.

Each is built in the sizes of the one that is given, takes its weights strictly, and must give the same features;
whatever has no equal is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer

from pretraining.backbones.base import Backbone
from pretraining.errors import RunError, reason_of
from pretraining.image.backbones.timm_model import TimmBackbone
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone

WORDS = {  # of a block: torchvision's, timm's and transformers'
    "ln_1": ("norm1", "layernorm_before"),
    "self_attention.out_proj": ("attn.proj", "attention.o_proj"),
    "ln_2": ("norm2", "layernorm_after"),
    "mlp.0": ("mlp.fc1", "mlp.fc1"),
    "mlp.3": ("mlp.fc2", "mlp.fc2"),
}
AROUND = {  # what stands beside the blocks
    "class_token": ("cls_token", "embeddings.cls_token"),
    "encoder.pos_embedding": ("pos_embed", "embeddings.position_embeddings"),
    "conv_proj.weight": ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    "conv_proj.bias": ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    "encoder.ln.weight": ("norm.weight", "layernorm.weight"),
    "encoder.ln.bias": ("norm.bias", "layernorm.bias"),
}


def as_timm(backbone: Backbone) -> TimmBackbone:
    """Give the network as timm's."""
    if isinstance(backbone, TimmBackbone):
        return backbone
    refuse = refusal(backbone, "timm")
    if not isinstance(backbone, TorchvisionBackbone):
        raise refuse("ResNets and vision transformers of torchvision are written")
    model, named = backbone.model, backbone.kwargs.get("name")
    common: dict[str, Any] = {"in_channels": channels_of(model)}
    weights = model.state_dict()
    if isinstance(model, VisionTransformer):
        sizes, width, mlp = model.encoder.layers, model.hidden_dim, model.mlp_dim
        ratio = mlp / width if int(width * (mlp / width)) == mlp else (mlp + 0.5) / width  # timm rounds it down
        arguments: dict[str, Any] = {"patch_size": model.patch_size, "embed_dim": width, "mlp_ratio": ratio}
        arguments |= {"depth": len(sizes), "num_heads": sizes[0].num_heads}
        common |= {"name": "vit_base_patch16_224", "arguments": arguments, "size": model.image_size}
        common["pooling"] = "mean" if backbone.kwargs["pooling"] == "mean" else "model"
        names = vision_names(len(sizes), 0)
        weights = {names.get(name, name): value for name, value in weights.items()}
    elif isinstance(model, ResNet):
        check_stem(backbone, refuse)
        layers = backbone.kwargs["layers"]
        common |= {"name": named} if layers is None else {"name": "resnet18", "arguments": {"layers": layers}}
    else:
        raise refuse("ResNets and vision transformers are written")
    fresh = TimmBackbone(**common)
    fill(fresh.model, weights, refuse)
    return same(fresh, backbone, lambda images: fresh(images).pooled, refuse)


def as_torchvision(backbone: Backbone, library: str = "torchvision") -> TorchvisionBackbone:
    """Give the network as torchvision's, on the way to the form of `library`."""
    if isinstance(backbone, TorchvisionBackbone):
        return backbone
    refuse = refusal(backbone, library)
    if not isinstance(backbone, TimmBackbone):
        raise refuse("ResNets and vision transformers of timm are written")
    model, named = backbone.model, backbone.kwargs["name"].partition(".")[0]
    common: dict[str, Any] = {"in_channels": backbone.kwargs["in_channels"]}
    arguments, weights = backbone.kwargs["arguments"], model.state_dict()
    if backbone.plain and backbone.patches is not None:
        patch, side = backbone.patches
        options = {"image_size": patch * side, "patch_size": patch, "num_layers": len(model.blocks)}
        options |= {"num_heads": model.blocks[0].attn.num_heads, "hidden_dim": backbone.dim}
        options["mlp_dim"] = model.blocks[0].mlp.fc1.out_features
        pooling = "class" if model.global_pool == "token" else "mean"
        common |= {"name": "vision_transformer", "options": options, "pooling": pooling}
        names = {theirs: ours for ours, theirs in vision_names(len(model.blocks), 0).items()}
        weights = {names.get(name, name): value for name, value in weights.items()}
    elif hasattr(model, "layer4") and named in torchvision.models.list_models(module=torchvision.models):
        small = named in ("resnet18", "resnet34") and set(arguments) == {"layers"}
        common |= {"name": "resnet", "layers": list(arguments["layers"])} if small else {"name": named}
    else:
        raise refuse("plain ResNets and vision transformers with a class token are written")
    fresh = TorchvisionBackbone(**common)
    fill(fresh.model, weights, refuse)
    return same(fresh, backbone, lambda images: fresh(images).pooled, refuse)


def as_transformers(backbone: Backbone) -> Any:
    """Give the network as transformers' ResNetModel, or ViTModel without its pooler."""
    model: Any = backbone.model
    if hasattr(model, "layer4") and hasattr(model, "conv1"):
        return _resnet(backbone, model)
    ours = as_torchvision(backbone, "transformers")
    if not isinstance(ours.model, VisionTransformer):
        raise refusal(backbone, "transformers")("ResNets and vision transformers are written")
    return _vision_transformer(backbone, ours)


def transformers_or_none(backbone: Backbone) -> Any | None:
    """Give the network as transformers'; None where it has no equal there."""
    try:
        return as_transformers(backbone)
    except RunError:
        return None


def _resnet(backbone: Backbone, given: Any) -> Any:
    import transformers

    refuse, layers = refusal(backbone, "transformers"), [given.layer1, given.layer2, given.layer3, given.layer4]
    deep = hasattr(given.layer1[0], "conv3")
    config: Any = transformers.ResNetConfig(
        num_channels=channels_of(given),
        embedding_size=convolutions(given.conv1)[-1].out_channels,
        hidden_sizes=[(layer[-1].conv3 if deep else layer[-1].conv2).out_channels for layer in layers],
        depths=[len(layer) for layer in layers],
        layer_type="bottleneck" if deep else "basic",
    )
    check_stem(backbone, refuse)
    model: Any = transformers.ResNetModel(config)
    fill(model, {resnet_name(name): value for name, value in given.state_dict().items()}, refuse)
    return same(model, backbone, lambda images: model(images).pooler_output.flatten(1), refuse)


def _vision_transformer(backbone: Backbone, ours: TorchvisionBackbone) -> Any:
    import transformers

    given, refuse = ours.model, refusal(backbone, "transformers")
    config: Any = transformers.ViTConfig(
        hidden_size=given.hidden_dim,
        num_hidden_layers=len(given.encoder.layers),
        num_attention_heads=given.encoder.layers[0].num_heads,
        intermediate_size=given.mlp_dim,
        layer_norm_eps=given.encoder.ln.eps,
        image_size=given.image_size,
        patch_size=given.patch_size,
        num_channels=channels_of(given),
    )
    model: Any = transformers.ViTModel(config, add_pooling_layer=False)
    names, weights = vision_names(len(given.encoder.layers), 1), dict[str, Tensor]()
    for name, value in given.state_dict().items():
        before, whole, kind = name.partition("self_attention.in_proj_")
        if whole:  # queries, keys and values are one matrix here, and three there
            block = "layers." + before.removesuffix(".").rpartition("_")[2]
            parts = zip("qkv", value.chunk(3), strict=True)
            weights |= {f"{block}.attention.{part}_proj.{kind}": rows for part, rows in parts}
        else:
            weights[names.get(name, name)] = value
    fill(model, weights, refuse)

    def pooled(images: Tensor) -> Tensor:
        tokens = model(images).last_hidden_state
        return tokens[:, 1:].mean(1) if ours.kwargs["pooling"] == "mean" else tokens[:, 0]

    return same(model, backbone, pooled, refuse)


# -- names -------------------------------------------------------------------------------------------------------------


def vision_names(layers: int, place: int) -> dict[str, str]:
    """Pair torchvision's names of a vision transformer's weights with timm's (`place` 0) or transformers' (1)."""
    names = {ours: theirs[place] for ours, theirs in AROUND.items()}
    for number in range(layers):
        ours, block = f"encoder.layers.encoder_layer_{number}.", f"{('blocks', 'layers')[place]}.{number}."
        for kind in ("weight", "bias"):
            names |= {f"{ours}{word}.{kind}": f"{block}{other[place]}.{kind}" for word, other in WORDS.items()}
            if place == 0:
                names[f"{ours}self_attention.in_proj_{kind}"] = f"{block}attn.qkv.{kind}"
    return names


def resnet_name(name: str) -> str:
    """Give transformers' name of a ResNet's weight, which is one name in torchvision and timm."""
    name = re.sub(r"^layer(\d)\.(\d+)\.", lambda at: f"encoder.stages.{int(at[1]) - 1}.layers.{at[2]}.", name)
    inside = "layer." if name.startswith("encoder") else "embedder.embedder."
    name = re.sub(r"\bdownsample\.0\.", "shortcut.convolution.", name)
    name = re.sub(r"\bdownsample\.1\.", "shortcut.normalization.", name)
    for short, long in (("conv", "convolution"), ("bn", "normalization")):
        if found := re.search(rf"\b{short}(\d)\.", name):
            number = f"{int(found[1]) - 1}." if inside == "layer." else ""
            name = name.replace(found[0], f"{inside}{number}{long}.")
    return name


# -- weights and features ----------------------------------------------------------------------------------------------


def refusal(backbone: Any, library: str) -> Callable[[str], RunError]:
    """Make what words that a network has no equal in a library."""
    told = f"to={library}: {type(backbone).__name__} {backbone.kwargs.get('name', '')}".rstrip()
    return lambda why: RunError(f"{told} has no equal there ({why}): load the hand-off by the lines of its README.md")


def check_stem(backbone: Any, refuse: Callable[[str], RunError]) -> None:
    """Refuse the stems for small images, which torchvision's form alone can say."""
    stem = backbone.kwargs.get("stem", "imagenet")
    if stem != "imagenet":
        raise refuse(f"its ResNets have no stem={stem}; to=torchvision and to=onnx have it")


def fill(model: nn.Module, weights: Mapping[str, Tensor], refuse: Callable[[str], RunError]) -> None:
    """Load weights strictly."""
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise refuse(f"{reason_of(error)[:160]} ...") from error


@torch.no_grad()
def same(fresh: Any, backbone: Any, pooled: Callable[[Tensor], Tensor], refuse: Callable[[str], RunError]) -> Any:
    """Return `fresh` if its features of noise are those of `backbone`."""
    patches = getattr(backbone, "patches", None)
    side = 64 if patches is None else patches[0] * patches[1]
    images = torch.randn(2, channels_of(backbone), side, side, generator=torch.Generator().manual_seed(0))
    was, _ = backbone.training, fresh.eval()
    wanted, found = backbone.eval()(images).pooled, pooled(images)
    backbone.train(was)
    if wanted.shape != found.shape or not torch.allclose(wanted, found, rtol=1e-5, atol=1e-5):
        raise refuse("its features would be others")
    return fresh


def channels_of(model: nn.Module) -> int:
    """Count the channels of the images that a network takes."""
    return convolutions(model)[0].in_channels


def convolutions(part: nn.Module) -> list[nn.Conv2d]:
    """List the convolutions inside."""
    return [inner for inner in part.modules() if isinstance(inner, nn.Conv2d)]
