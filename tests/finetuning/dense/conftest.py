"""Hand-offs of tiny image networks, never trained."""

from pathlib import Path

import pytest
import torch

from pretraining import handoff
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess

VIT = {"image_size": 48, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}


def written(directory: Path, **backbone) -> Path:
    torch.manual_seed(0)
    preprocess = ImagePreprocess(size=48, channels=3, mean=[0.3, 0.3, 0.3], std=[0.25, 0.25, 0.25])
    towers = IMAGE.towers(TorchvisionBackbone(**backbone), preprocess)
    return handoff.write(directory / "step-0000001", towers=towers, origin={"objective": "none"}, heads={})


@pytest.fixture(scope="session")
def resnet(tmp_path_factory) -> Path:
    """Make one of a ResNet whose maps have strides 2, 4, 8 and 16."""
    return written(tmp_path_factory.mktemp("resnet"), name="resnet", layers=[1, 1, 1, 1], width=16, stem="small")


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> Path:
    """Make one of a vision transformer with patches of 8 pixels."""
    return written(tmp_path_factory.mktemp("vit"), name="vision_transformer", options=VIT)
