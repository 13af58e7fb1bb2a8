"""SimCLR's gradient is that of the whole step: through cached representations, and over two ranks with synchronised
batch norm.
"""

import numpy as np
import pytest
import torch

from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.objectives.coupled import CoupledObjective
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.simclr import SimCLR
from pretraining.random import Keys
from tests.one_step import assert_same_gradient, gradient_of, plain_sgd
from tests.ranks import in_ranks

BATCH, SIZE = 8, 16


def views():
    return Views(
        count=2,
        crop=Crop(size=SIZE, area=(0.3, 1.0), flip=0.5),
        jitter=Jitter(probability=0.8, hue=0.1, saturation=0.4),
        greyscale=0.2,
        blur=Blur(probability=0.5, kernel_size=3),
        solarise=0.0,
        output=Output(mean=[0.5] * 3, std=[0.25] * 3),
    )


def resnet18():
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet18", stem="cifar")
    return SimCLR(
        backbone=backbone,
        optimizer=plain_sgd(),
        views=views(),
        projector=Projector(layers=2, output=16),
        temperature=0.5,
    )


def transformer():
    """A network without batch statistics: its gradient must not change at all."""
    torch.manual_seed(0)
    options = {"image_size": SIZE, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    backbone = TorchvisionBackbone(name="vision_transformer", options=options)
    projector = Projector(layers=2, output=16, hidden_norm="none", bias=True)
    return SimCLR(backbone=backbone, optimizer=plain_sgd(), views=views(), projector=projector, temperature=0.5)


def batch_of(rows):
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    rows = np.asarray(list(rows))
    keys = Keys(1, "train", np.zeros(len(rows), np.int64), rows)
    preprocess = ImagePreprocess(size=SIZE, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    return StackImages(preprocess=preprocess)(ImageExamples(images[rows], None), keys) | {"keys": keys.to("cpu")}


def split(parts):
    return [batch_of(range(BATCH)[start : start + BATCH // parts]) for start in range(0, BATCH, BATCH // parts)]


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_give_the_gradient_of_the_whole_step(tmp_path, parts):
    whole = gradient_of(transformer(), split(1), tmp_path)
    assert_same_gradient(whole, gradient_of(transformer(), split(parts), tmp_path))


@pytest.mark.parametrize("parts", [1, 4])
def test_phases_are_timed_with_and_without_cached_representations(tmp_path, parts):
    model = transformer()
    gradient_of(model, split(parts), tmp_path)
    phases = model.timer.read()
    assert min(phases[name] for name in ("augment", "forward", "backward")) > 0


def test_without_cached_representations_it_would_not(tmp_path):
    """What the test above is worth: contrasting within micro-batches only is another gradient."""
    whole = gradient_of(transformer(), split(1), tmp_path)
    model = transformer()
    model.backward_step = lambda batches, counts: super(CoupledObjective, model).backward_step(batches, counts)
    with pytest.raises(AssertionError):
        assert_same_gradient(whole, gradient_of(model, split(2), tmp_path))


def rank_gradient(rank, world, directory, builder, splits, sync):
    model = convert_batchnorm(builder()) if sync else builder()
    gradient = gradient_of(model, [batch_of(rows) for rows in splits[rank]], directory, rank=rank, world=world)
    return gradient, {name: value.numpy() for name, value in model.backbone.named_buffers()}


def test_a_resnet_18_on_two_ranks_is_one_process_in_gradient_and_statistics(tmp_path):
    model = resnet18()
    whole = gradient_of(model, split(1), tmp_path)
    for gradient, buffers in in_ranks(rank_gradient, 2, tmp_path, resnet18, [[range(4)], [range(4, 8)]], True):
        assert_same_gradient(whole, gradient, tolerance=1e-8)
        for name, value in model.backbone.named_buffers():
            assert np.allclose(buffers[name], value.numpy(), atol=1e-9), name


def test_two_ranks_with_two_micro_batches_each_give_the_gradient_of_the_whole_step(tmp_path):
    whole = gradient_of(transformer(), split(1), tmp_path)
    for gradient, _ in in_ranks(rank_gradient, 2, tmp_path, transformer, [[[0, 1], [4, 5]], [[2, 3], [6, 7]]], False):
        assert_same_gradient(whole, gradient)


def test_batch_norm_sees_micro_batches_and_its_statistics_move_once_per_chunk(tmp_path):
    """The reference represents each chunk with gradient and contrasts all at once: the same without a cache."""
    model, reference = resnet18(), resnet18().double()
    gradient = gradient_of(model, split(2), tmp_path)
    batches = [reference.on_device(batch) for batch in split(2)]
    representations = torch.cat([reference.represent(batch) for batch in batches])
    term = reference.coupled_loss(representations, batches).terms["nt_xent"]
    (term.total / term.count).backward()
    expected = {
        name: parameter.grad.numpy() for name, parameter in reference.named_parameters() if parameter.requires_grad
    }
    assert_same_gradient(expected, gradient, tolerance=1e-8)
    assert int(model.backbone.model.bn1.num_batches_tracked) == 2
    for (name, ours), (_, theirs) in zip(
        model.backbone.named_buffers(), reference.backbone.named_buffers(), strict=True
    ):
        assert torch.allclose(ours.double(), theirs.double(), atol=1e-9), name
