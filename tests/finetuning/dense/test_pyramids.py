"""Pyramids follow the backbone's maps, and points learn the objects that torchvision's FCOS gives them."""

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.image_list import ImageList

from finetuning.dense.fcos import FCOSDetector
from finetuning.dense.mask_rcnn import KeyedSampler, MaskDetector
from finetuning.dense.pyramid import Pyramid, example_features
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.random import Keys
from tests.finetuning.dense.conftest import VIT


def resnet(stem="small"):
    return TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem=stem)


def vit():
    return TorchvisionBackbone(name="vision_transformer", options=VIT)


@pytest.mark.parametrize(
    ("make", "strides", "expected"),
    [
        (lambda: resnet("cifar"), None, [4, 8, 16]),
        (resnet, None, [4, 8, 16, 32]),
        (lambda: resnet("imagenet"), None, [4, 8, 16, 32, 64]),
        (resnet, [2, 8, 16, 32, 64], [2, 8, 16, 32, 64]),
        (vit, None, [4, 8, 16]),
        (vit, [2, 8, 16, 32], [2, 8, 16, 32]),
    ],
)
def test_maps_have_the_strides_that_they_say(make, strides, expected):
    torch.manual_seed(0)
    backbone = make()
    size = 48 if make is vit else 64
    pyramid = Pyramid(example_features(backbone, 3, size), size=size, strides=strides, width=32)
    assert pyramid.strides == expected and backbone.training
    maps = pyramid(backbone.eval()(torch.randn(2, 3, size, size)))
    assert [tuple(part.shape) for part in maps] == [(2, 32, size // stride, size // stride) for stride in expected]
    sum(part.sum() for part in maps).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@pytest.mark.parametrize(
    ("make", "strides", "message"),
    [
        (resnet, [1, 2], r"the backbone's maps have the strides \[2, 4, 8, 16\]"),
        (resnet, [8, 64], "doubles of the last one"),
        (resnet, [8, 4], "from fine to coarse"),
        (vit, [1, 8], "patches of 8 pixels: give 2, 4, 8, 16"),
        (vit, [6], "patches of 8 pixels"),
    ],
)
def test_strides_that_there_are_not_are_refused(make, strides, message):
    with pytest.raises(RunError, match=message):
        Pyramid(example_features(make(), 3, 48), size=48, strides=strides, width=32)


def test_a_size_that_the_backbone_does_not_take_is_refused():
    with pytest.raises(RunError, match=r"task.inputs.size=50, which this backbone does not take"):
        example_features(vit(), 3, 50)  # no multiple of its patches


def test_black_images_leave_norm_statistics_as_they_are():
    backbone = resnet()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    example_features(backbone, 3, 48)
    assert all(value.equal(before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("seed", range(5))
def test_points_and_losses_are_those_of_torchvision(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    backbone = resnet()
    example = example_features(backbone, 3, 64)
    pyramid = Pyramid(example, size=64, strides=[4, 8, 16], width=32)
    detector = FCOSDetector(pyramid, example, 3, size=64, most=100).eval()
    images = torch.randn(3, 3, 64, 64, generator=generator)
    maps = pyramid(backbone.eval()(images))
    anchors = detector.fcos.anchor_generator(ImageList(images, [(64, 64)] * 3), maps)
    assert all(part.equal(detector.anchors) for part in anchors)
    targets = []
    for count in (0, 1, 9):
        corners = torch.rand(count, 2, generator=generator) * 44
        boxes = torch.cat([corners, corners + 2 + torch.rand(count, 2, generator=generator) ** 2 * 40], 1)
        targets.append({"boxes": boxes.clamp(max=64), "labels": torch.arange(count) % 3})
    outputs = detector.fcos.head(maps)
    theirs = detector.fcos.compute_loss(targets, outputs, anchors, detector.per_map)
    matched = [detector.matched(target["boxes"]) for target in targets]
    ours = detector.fcos.head.compute_loss(targets, outputs, anchors, matched)
    assert sum(int((part >= 0).sum()) for part in matched) > 3
    for name in theirs:
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-6), name


@pytest.mark.parametrize("kind", [FCOSDetector, MaskDetector])
def test_images_without_objects_teach_what_is_background(kind):
    torch.manual_seed(0)
    backbone = resnet()
    example = example_features(backbone, 3, 64)
    detector = kind(Pyramid(example, size=64, strides=[4, 8, 16], width=32), example, 3, size=64, most=100)
    answers = detector(backbone.eval()(torch.randn(2, 3, 64, 64)))
    rows = np.arange(2)
    keys = Keys(0, "train", np.zeros_like(rows), rows)
    batch = {"boxes": torch.zeros(0, 4), "classes": torch.zeros(0, dtype=torch.int64), "keys": keys}
    batch |= {"masks": torch.zeros(0, 64, 64, dtype=torch.bool), "objects_per_row": torch.tensor([0, 0])}
    terms = detector.loss(answers, batch)
    assert terms.keys() == detector.counts(batch).keys()
    assert all(torch.isfinite(term.total) for term in terms.values())
    learnt = {"classification", "loss_objectness", "loss_classifier"}
    assert {name for name, term in terms.items() if float(term.total.detach()) > 0} == learnt & terms.keys()
    sum(term.total for term in terms.values()).backward()
    gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
    assert len(gradients) > 5 and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_samples_are_as_many_as_torchvision_draws_and_belong_to_the_key():
    ours, theirs = (kind(64, 0.25) for kind in (KeyedSampler, BalancedPositiveNegativeSampler))
    keys = Keys(0, "train", np.array([0]), np.array([5]))
    for positives, negatives in [(0, 100), (3, 100), (50, 100), (50, 10), (5, 0)]:
        kinds = torch.cat([torch.ones(positives), torch.zeros(negatives), -torch.ones(7)])
        ours.keys, ours.slot = keys, "anchors"
        drawn, expected = ours([kinds]), theirs([kinds])
        assert [int(part[0].sum()) for part in drawn] == [int(part[0].sum()) for part in expected]
        assert (kinds[drawn[0][0].bool()] == 1).all() and (kinds[drawn[1][0].bool()] == 0).all()
        assert all(again[0].equal(part[0]) for again, part in zip(ours([kinds]), drawn, strict=True))
    ours.keys = keys._replace(index=np.array([6]))
    kinds = torch.zeros(1000)
    ours.slot = "anchors"
    first = ours([kinds])[1][0]
    ours.keys = keys
    assert not first.equal(ours([kinds])[1][0])
