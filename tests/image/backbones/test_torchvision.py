"""torchvision backbones: the same numbers as torchvision, names and all."""

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone

SMALL_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
KINDS = {
    "resnet18": ({"name": "resnet18"}, 64),
    "resnet50": ({"name": "resnet50"}, 64),
    "resnet18_cifar": ({"name": "resnet18", "stem": "cifar"}, 32),
    "resnet18_small": ({"name": "resnet18", "stem": "small"}, 32),
    "resnet18_grey": ({"name": "resnet18", "in_channels": 1}, 64),
    "resnet_tiny": ({"name": "resnet", "layers": [1, 1, 1, 1], "width": 16, "stem": "cifar", "in_channels": 1}, 16),
    "resnet_narrow": ({"name": "resnet", "layers": [1, 2, 1, 1], "width": 32}, 64),
    "vit": ({"name": "vision_transformer", "options": SMALL_VIT}, 32),
    "vit_grey": ({"name": "vision_transformer", "options": SMALL_VIT, "in_channels": 1}, 32),
    "convnext": ({"name": "convnext_tiny"}, 64),
    "efficientnet": ({"name": "efficientnet_b0"}, 64),
    "vgg": ({"name": "vgg11_bn"}, 64),
}


def made(kind: str) -> tuple[TorchvisionBackbone, torch.Tensor]:
    kwargs, size = KINDS[kind]
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(**kwargs).eval()
    return backbone, torch.randn(2, kwargs.get("in_channels", 3), size, size)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_weights_load_without_us_by_the_lines_of_the_model_card(kind, tmp_path):
    backbone, images = made(kind)
    backbone.export(tmp_path)
    scope = {}
    exec(backbone.usage().replace("DIR", str(tmp_path)), scope)
    pooled = backbone(images).pooled
    torch.testing.assert_close(scope["model"].eval()(images).flatten(1), pooled, rtol=1e-5, atol=1e-5)
    assert pooled.shape == (2, backbone.dim)


def test_a_resnet18_loads_strictly_into_torchvisions(tmp_path):
    backbone, images = made("resnet18")
    backbone.to(memory_format=torch.channels_last).export(tmp_path)
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    torch.testing.assert_close(model.eval()(images), backbone(images).pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kwargs_rebuild_the_architecture_and_load_is_strict(kind, tmp_path):
    backbone, images = made(kind)
    backbone.export(tmp_path)
    twin = TorchvisionBackbone(**backbone.kwargs).eval()
    assert not torch.equal(twin(images).pooled, backbone(images).pooled)
    twin.load(tmp_path)
    assert torch.equal(twin(images).pooled, backbone(images).pooled)


def test_a_missing_weight_is_an_error(tmp_path):
    small, large = (TorchvisionBackbone(name="resnet", layers=[1, 1, 1, last], width=8) for last in (1, 2))
    small.export(tmp_path)
    with pytest.raises(RuntimeError, match="Missing key"):
        large.load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_hold_every_parameter_once_and_more_than_a_few(kind):
    backbone, _ = made(kind)
    held = [id(parameter) for block in backbone.blocks() for parameter in block.parameters()]
    assert sorted(held) == sorted(id(parameter) for parameter in backbone.parameters())
    assert len(backbone.blocks()) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_pooled_vector_summarises_the_positions(kind):
    backbone, images = made(kind)
    features = backbone(images)
    assert features.positions.shape[0] == 2 and features.positions.shape[2] == backbone.dim
    if kind.startswith(("resnet", "efficientnet", "vgg")):
        torch.testing.assert_close(features.positions.mean(1), features.pooled, rtol=1e-4, atol=1e-5)


def test_the_cifar_stem_keeps_the_resolution():
    backbone, images = made("resnet18_cifar")
    assert backbone(images).positions.shape == (2, 16, 512)  # 32 / 8 = 4 cells a side


def test_flops_of_a_resnet18_are_the_published_ones():
    backbone, _ = made("resnet18")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.to("meta")(torch.empty(1, 3, 224, 224, device="meta"))
    published = 2 * 1.814e9  # torchvision's table counts multiply-adds: 1.81 G, classifier included
    assert abs(counter.get_total_flops() - published) / published < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_says_how_positions_lie_and_the_last_stage_is_made_of_them(kind):
    backbone, images = made(kind)
    features = backbone(images)
    assert features.grid[0] * features.grid[1] == features.positions.shape[1] and features.valid is None
    if kind.startswith("vit"):
        assert features.stages is None
        return
    assert torch.equal(features.stages[-1].flatten(2).transpose(1, 2), features.positions)
    sides = [stage.shape[2] for stage in features.stages]
    assert sides == sorted(set(sides), reverse=True) and len(sides) >= 4


def test_channels_last_gives_the_same_features():
    backbone, images = made("resnet18_cifar")
    last = backbone(images.to(memory_format=torch.channels_last)).pooled
    torch.testing.assert_close(last, backbone(images).pooled, rtol=1e-4, atol=1e-4)


def test_the_gradient_under_bf16_on_a_cpu_is_that_of_fp32_even_where_maps_shrink_to_one_cell():
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=32)
    images, gradients = torch.randn(512, 3, 16, 16), []
    for enabled in (False, True, True, True, True, True):
        backbone.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            pooled = backbone(images).pooled
        torch.full((4_000_000,), 1e20)  # what uninitialised memory may hold
        pooled.float().square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in backbone.model.layer4.parameters()]))
    for found in gradients[1:]:
        assert (found - gradients[0]).norm() < 0.1 * gradients[0].norm()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "resnet19"}, "resnet19.*not a model of torchvision"),
        ({"name": "alexnet"}, "none of torchvision's ResNet"),
        ({"name": "vit_b_16", "stem": "cifar"}, "is for ResNets"),
        ({"name": "resnet18", "stem": "tiny"}, "choose imagenet, small or cifar"),
        ({"name": "resnet"}, "give four numbers of blocks"),
        ({"name": "resnet18", "weights": "DEFAULT", "in_channels": 1}, "three channels"),
    ],
)
def test_an_impossible_architecture_is_refused_with_the_choices(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TorchvisionBackbone(**kwargs)


@pytest.mark.parametrize(("kind", "spread"), [("vit_grey", 1 / 8), ("convnext_grey", 0.02)])
def test_a_first_layer_for_grey_images_is_drawn_as_the_family_draws_it(kind, spread):
    """By ResNets' rule a patch embedding had a spread of 0.044 for 1/8 and a bias: all patches looked alike to it."""
    given = {**KINDS, "convnext_grey": ({"name": "convnext_tiny", "in_channels": 1}, 64)}[kind][0]
    torch.manual_seed(0)
    first = next(part for part in TorchvisionBackbone(**given).model.modules() if isinstance(part, nn.Conv2d))
    assert float(first.weight.detach().std()) == pytest.approx(spread, rel=0.1) and not first.bias.any()
