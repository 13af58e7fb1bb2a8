"""What every backbone does with the settings of a run that change how it is computed, and not what."""

import pytest
import torch

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.text.test_transformers import SMALL


def test_activation_checkpointing_changes_no_gradient_of_a_transformer():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = {"model_type": "bert", **SMALL, "hidden_dropout_prob": 0.1}
        backbone = TransformersBackbone(config=config, vocab_size=90, pad_id=1).double().train()
        backbone.set_compute(compiled=False, activation_checkpointing=checkpointing, sharded=False)
        assert backbone.model.is_gradient_checkpointing is checkpointing
        ids = torch.arange(2, 34).view(2, 16)
        backbone(input_ids=ids, document_ids=torch.ones_like(ids)).positions.square().sum().backward()
        gradients.append([part.grad for part in backbone.parameters() if part.grad is not None])
    assert gradients[0] and len(gradients[0]) == len(gradients[1])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_network_without_activation_checkpointing_says_so():
    backbone = TorchvisionBackbone(name="resnet", stem="cifar", layers=[1, 1, 1, 1], width=4)
    with pytest.raises(ValueError, match=r"TorchvisionBackbone has no .*set trainer\.activation_checkpointing=false"):
        backbone.set_compute(compiled=False, activation_checkpointing=True, sharded=False)
