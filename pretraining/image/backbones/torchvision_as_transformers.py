"""torchvision's ResNets and vision transformers as transformers' own, of the same weights under other names."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet, VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck

Weights = dict[str, Tensor]


def as_transformers(model: nn.Module, in_channels: int) -> Any | None:
    """Build ResNetModel or ViTModel of a torchvision model without its head; None where neither is the same network."""
    if isinstance(model, VisionTransformer):
        return _vision_transformer(model, in_channels)
    return _resnet(model, in_channels) if isinstance(model, ResNet) and _is_standard(model) else None


def _is_standard(model: ResNet) -> bool:
    """Tell a ResNet from its relatives: other stems, grouped, wide or dilated convolutions."""
    blocks = [block for stage in _stages(model) for block in stage]
    if model.conv1.kernel_size != (7, 7) or not isinstance(model.maxpool, nn.MaxPool2d):
        return False
    if any(block.conv2.groups != 1 or block.conv2.dilation != (1, 1) for block in blocks):
        return False
    kind = type(blocks[0])
    narrow = all(block.conv2.out_channels * 4 == block.conv3.out_channels for block in blocks if kind is Bottleneck)
    return kind in (BasicBlock, Bottleneck) and narrow


def _stages(model: ResNet) -> list[Any]:
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def _resnet(model: ResNet, in_channels: int) -> Any:
    import transformers

    deep = isinstance(model.layer1[0], Bottleneck)
    last = "conv3" if deep else "conv2"
    config = transformers.ResNetConfig(
        num_channels=in_channels,
        embedding_size=model.conv1.out_channels,
        hidden_sizes=[getattr(stage[0], last).out_channels for stage in _stages(model)],
        depths=[len(stage) for stage in _stages(model)],
        layer_type="bottleneck" if deep else "basic",
    )
    weights = _conv("embedder.embedder", model.conv1, model.bn1)
    for number, stage in enumerate(_stages(model)):
        for place, block in enumerate(stage):
            prefix = f"encoder.stages.{number}.layers.{place}"
            for index in range(3 if deep else 2):
                parts = (getattr(block, f"{kind}{index + 1}") for kind in ("conv", "bn"))
                weights |= _conv(f"{prefix}.layer.{index}", *parts)
            if block.downsample is not None:
                weights |= _conv(f"{prefix}.shortcut", *block.downsample)
    return _filled(transformers.ResNetModel(config), weights)


def _conv(prefix: str, convolution: nn.Module, norm: nn.Module) -> Weights:
    parts = {"convolution": convolution, "normalization": norm}
    return {f"{prefix}.{part}.{name}": weight for part, module in parts.items()
            for name, weight in module.state_dict().items()}  # fmt: skip


def _vision_transformer(model: VisionTransformer, in_channels: int) -> Any:
    import transformers

    encoder: Any = model.encoder
    config = transformers.ViTConfig(
        hidden_size=model.hidden_dim,
        num_hidden_layers=len(encoder.layers),
        num_attention_heads=encoder.layers[0].num_heads,
        intermediate_size=model.mlp_dim,
        image_size=model.image_size,
        patch_size=model.patch_size,
        num_channels=in_channels,
        layer_norm_eps=encoder.ln.eps,
        hidden_dropout_prob=0.0,
    )
    weights = {
        "embeddings.cls_token": model.class_token,
        "embeddings.position_embeddings": encoder.pos_embedding,
        **_named("embeddings.patch_embeddings.projection", model.conv_proj),
        **_named("layernorm", encoder.ln),
    }
    for number, layer in enumerate(encoder.layers):
        prefix, attention = f"layers.{number}", layer.self_attention
        for name, part in (("weight", attention.in_proj_weight), ("bias", attention.in_proj_bias)):
            for side, third in zip("qkv", part.chunk(3), strict=True):
                weights[f"{prefix}.attention.{side}_proj.{name}"] = third
        weights |= _named(f"{prefix}.attention.o_proj", attention.out_proj)
        weights |= _named(f"{prefix}.mlp.fc1", layer.mlp[0]) | _named(f"{prefix}.mlp.fc2", layer.mlp[3])
        weights |= _named(f"{prefix}.layernorm_before", layer.ln_1) | _named(f"{prefix}.layernorm_after", layer.ln_2)
    return _filled(transformers.ViTModel(config, add_pooling_layer=False), weights)


def _named(prefix: str, module: nn.Module) -> Weights:
    return {f"{prefix}.{name}": weight for name, weight in module.state_dict().items()}


def _filled(model: Any, weights: Weights) -> Any:
    model.load_state_dict({name: weight.detach() for name, weight in weights.items()}, strict=True)
    return model.eval()
