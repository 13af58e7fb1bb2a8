"""Image networks as transformers' own: the same vectors under other names, and a refusal of what is another network."""

import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretraining import handoff
from pretraining.errors import HandoffError
from pretraining.export import export
from pretraining.image.backbones.fixed_positions import FixedPositions
from pretraining.image.backbones.torchvision_as_transformers import as_transformers
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess

VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
RESNET = {"name": "resnet", "layers": [1, 2, 1, 1], "width": 4}


def disturbed(module):
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return module.eval()


def written(network, directory, channels=3, size=32):
    prepared = ImagePreprocess(size=size, channels=channels, mean=[0.4] * channels, std=[0.3] * channels)
    towers = IMAGE.towers(network, prepared)
    return handoff.read(str(handoff.write(directory / "step-1", towers=towers, origin={"objective": "x"}, heads={})))


@torch.no_grad()
@pytest.mark.parametrize("kind", [BasicBlock, Bottleneck])
def test_a_resnet_of_either_block_has_the_same_maps_and_vectors(kind):
    ours = disturbed(resnet.ResNet(kind, [2, 1, 1, 2]))
    images = torch.randn(2, 3, 64, 64)
    theirs = as_transformers(ours, 3)(pixel_values=images)
    ours.fc = torch.nn.Identity()
    torch.testing.assert_close(theirs.pooler_output.flatten(1), ours(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("make", "channels", "kind"),
    [
        (lambda: TorchvisionBackbone(**RESNET, in_channels=1), 1, "ResNetModel"),
        (lambda: TorchvisionBackbone(name="vision_transformer", options=VIT), 3, "ViTModel"),
        (lambda: FixedPositions(options=VIT, pooling="mean"), 3, "ViTModel"),
    ],
    ids=["resnet", "vit", "vit_mean"],
)
def test_the_folders_own_lines_give_the_hand_offs_vector(make, channels, kind, tmp_path):
    network = disturbed(make())
    given = written(network, tmp_path, channels)
    place = export(given, "transformers", tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)[: 3 if channels == 3 else 2]).astype(np.uint8)
    lines = re.search(r"```python\n(.*?)```", (place / "README.md").read_text(), re.DOTALL).group(1)
    assert "pretraining" not in lines and f"transformers.{kind}" in lines
    scope = {"picture": Image.fromarray(pixels)}
    exec(lines.replace("DIR", str(place)), scope)
    prepared = given.preprocess(torch.from_numpy(pixels.reshape(32, 32, channels)).permute(2, 0, 1)[None])
    torch.testing.assert_close(scope["vector"], network(images=prepared).pooled, rtol=1e-5, atol=1e-5)
    _, report = getattr(transformers, kind).from_pretrained(place, output_loading_info=True)
    assert not report["unexpected_keys"] and not [name for name in report["missing_keys"] if "pooler" not in name]


def test_another_network_or_size_is_refused_and_says_what_takes_it(tmp_path):
    for name, network in {
        "cifar": TorchvisionBackbone(**RESNET, stem="cifar"),
        "grouped": TorchvisionBackbone(name="resnext50_32x4d"),
        "convnext": TorchvisionBackbone(name="convnext_tiny"),
    }.items():
        assert network.as_transformers() is None, name
        if name == "cifar":
            with pytest.raises(HandoffError, match=r"no class for this TorchvisionBackbone \(name=resnet, stem=cifar"):
                export(written(network, tmp_path / name), "transformers", tmp_path / "model")
    vit = TorchvisionBackbone(name="vision_transformer", options=VIT)
    with pytest.raises(HandoffError, match=r"those of 32 pixels, and its images have 48: take to=onnx"):
        export(written(vit, tmp_path / "vit", size=48), "transformers", tmp_path / "model")
    assert not (tmp_path / "model").exists()
