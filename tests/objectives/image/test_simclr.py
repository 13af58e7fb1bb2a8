"""SimCLR: the objective's parts; its loss is tested beside."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.simclr import SimCLR
from pretraining.optim.optimizers import AdamW
from pretraining.random import Keys

# -- the objective -----------------------------------------------------------------------------------------------------


def views(count=2, **changes) -> Views:
    settings = {
        "crop": Crop(size=8, area=(0.5, 1.0), flip=0.0),
        "jitter": Jitter(probability=0.5, hue=0.0, saturation=0.0),
        "greyscale": 0.0,
        "blur": Blur(probability=0.0, kernel_size=3),
        "solarise": 0.0,
        "output": Output(mean=[0.5], std=[0.25]),
    }
    return Views(count=count, **(settings | changes))


def objective(**changes) -> SimCLR:
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=1)
    optimizer = AdamW(
        peak_lr=1e-3,
        warmup_steps=0,
        schedule="constant",
        final_fraction=0.0,
        weight_decay=0.0,
        betas=[0.9, 0.999],
        eps=1e-8,
    )
    settings = {"views": views(), "projector": Projector(layers=2, output=16), "temperature": 0.5} | changes
    return SimCLR(backbone=backbone, optimizer=optimizer, **settings)


def batch(count=6) -> dict:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    keys = Keys(1, "train", np.zeros(count, np.int64), np.arange(count))
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25])
    collated = StackImages(preprocess=preprocess)(ImageExamples(images, np.arange(count) % 3), keys)
    return collated | {"keys": keys.to("cpu")}


@pytest.mark.parametrize("count", [2, 3])
def test_the_objective_counts_its_anchors_before_and_after_the_forward_pass(count):
    model = objective(views=views(count))
    loss = model.loss(model.on_device(batch()))
    assert loss.terms["nt_xent"].count == model.counts(batch())["nt_xent"] == 6 * count
    mean = loss.terms["nt_xent"].total.item() / (6 * count)
    assert abs(mean - math.log(6 * count - 1)) < 2.0  # in the range that 1 / temperature allows
    loss.terms["nt_xent"].total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_representations_belong_to_their_images():
    model = objective().eval()
    prepared = model.on_device(batch())
    together = model.represent(prepared)
    for view in range(2):
        alone = model.projector(model.backbone(images=prepared["inputs"]["images"][6 * view : 6 * view + 6]).pooled)
        torch.testing.assert_close(together[:, view], F.normalize(alone, dim=-1), rtol=0, atol=1e-5)


def test_supervised_positives_need_labels_of_the_batch():
    model = objective(supervised=True)
    prepared = model.on_device(batch())
    plain = objective().loss(prepared).terms["nt_xent"].total
    assert not torch.isclose(model.loss(prepared).terms["nt_xent"].total, plain)


def test_one_view_or_no_temperature_is_refused():
    for changes in ({"views": views(1)}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="at least 2 views at a temperature above 0"):
            objective(**changes)


def test_images_with_other_channels_than_the_backbone_are_refused_with_what_to_set():
    preprocess = ImagePreprocess(size=8, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(ValueError, match=r"preprocess.channels=1"):
        StackImages(preprocess=preprocess)(ImageExamples(np.zeros((2, 1, 8, 8), np.uint8), None), None)


def test_a_picture_shows_originals_above_their_views(tmp_path):
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25])
    prepared = objective().on_device(batch())
    StackImages(preprocess=preprocess).draw(prepared, tmp_path / "views.png")
    picture = np.asarray(Image.open(tmp_path / "views.png").convert("L"))
    assert picture.shape == (3 * 66 + 2, 6 * 66 + 2)  # three rows of six, 64 pixels each and 2 between them
    assert np.array_equal(picture[2:66:8, 2:66:8], prepared["images"][0, 0].numpy())


# -- projectors of the published recipes -------------------------------------------------------------------------------


def kinds(projector: nn.Sequential) -> list[str]:
    return [type(part).__name__ for part in projector]


def test_googles_projector_has_three_layers_with_norms_after_each_and_no_last_shift():
    built = Projector(layers=3, output=128, output_norm="scale", init_std=0.01).build(512)
    assert kinds(built) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [tuple(part.weight.shape) for part in built if isinstance(part, nn.Linear)] == [
        (512, 512),
        (512, 512),
        (128, 512),
    ]
    assert all(part.bias is None for part in built if isinstance(part, nn.Linear))
    assert abs(built[0].weight.std().item() - 0.01) < 1e-4
    assert not built[7].bias.requires_grad and built[7].weight.requires_grad and built[4].bias.requires_grad


def test_solo_learns_and_lightlys_projectors_can_be_said():
    solo = Projector(layers=2, hidden=2048, output=256, hidden_norm="none", bias=True).build(512)
    assert kinds(solo) == ["Linear", "ReLU", "Linear"] and solo[0].bias is not None and solo[0].out_features == 2048
    lightly = Projector(layers=2, hidden=2048, output=128, output_norm="full").build(2048)
    assert kinds(lightly) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]
