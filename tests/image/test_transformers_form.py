"""Image networks as transformers' own: the same vectors under other names, and a refusal of what is another network."""

import pytest
import torch
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretraining import handoff
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


def test_another_network_has_no_class():
    for name, network in {
        "cifar": TorchvisionBackbone(**RESNET, stem="cifar"),
        "grouped": TorchvisionBackbone(name="resnext50_32x4d"),
        "convnext": TorchvisionBackbone(name="convnext_tiny"),
    }.items():
        assert network.as_transformers() is None, name
