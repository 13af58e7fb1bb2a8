"""Image networks as transformers' own: the same vectors under other names; None for what is another network."""

import pytest
import torch

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_of_either_block_has_the_same_maps_and_vectors(name):
    torch.manual_seed(0)
    ours = TorchvisionBackbone(name=name)
    for tensor in ours.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.01 * torch.rand_like(tensor))
    images = torch.randn(2, 3, 64, 64)
    theirs, found = ours.as_transformers()(pixel_values=images), ours.eval()(images)
    torch.testing.assert_close(theirs.pooler_output.flatten(1), found.pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs.last_hidden_state, found.stages[-1], rtol=1e-5, atol=1e-5)


def test_another_network_has_no_class():
    for name, network in {
        "cifar": TorchvisionBackbone(name="resnet", layers=[1, 2, 1, 1], width=4, stem="cifar"),
        "grouped": TorchvisionBackbone(name="resnext50_32x4d"),
        "convnext": TorchvisionBackbone(name="convnext_tiny"),
    }.items():
        assert network.as_transformers() is None, name
