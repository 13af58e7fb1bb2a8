"""Batch normalisation with what follows it is as near to the exact one as bf16 comes, and used only where it fits."""

import copy
import os
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50

from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.image.backbones import resnet_parts
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.kernels import batchnorm
from pretraining.kernels.batchnorm import activate

has_compiler = shutil.which(os.environ.get("CC", "cc")) is not None
needs_processor = pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16") or not has_compiler,
    reason="no AVX512-BF16, or no C compiler: see test_what_it_does_not_suit_is_torchs and after",
)
SHAPES = [(2, 64, 8, 8), (3, 16, 5, 7), (5, 80, 3, 3), (7, 2048, 2, 1), (40, 48, 31, 33)]


def norm(channels, **options):
    draw = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm2d(channels, **options)
    layer.weight.data = torch.randn(channels, generator=draw)
    layer.bias.data = torch.randn(channels, generator=draw)
    return layer


def maps(shape, seed=1, mean=0.5):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).add_(mean)
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def plain(layer, images, added=None):
    normalised = layer(images)
    return (normalised if added is None else normalised + added).relu()


def passes(function, layer, images, added, gradient):
    """Output, then gradients for the images, what is added, weight and bias, then the running statistics."""
    layer = copy.deepcopy(layer)
    given = [
        part.clone(memory_format=torch.preserve_format).requires_grad_() for part in (images, added) if part is not None
    ]
    output = function(layer, *given)
    output.backward(gradient.to(output.dtype))
    parts = [*given, layer.weight, layer.bias]
    return [output.detach(), *(part.grad for part in parts), layer.running_mean, layer.running_var]


def off(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(batchnorm, "LEAST", 0)
    monkeypatch.setattr(batchnorm, "CHUNK", 2**10)  # several chunks, of unequal sizes


@needs_processor
@pytest.mark.parametrize("with_addition", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_gradients_and_statistics_are_as_near_as_bf16_comes(small, shape, with_addition):
    layer, images, gradient = norm(shape[1]), maps(shape), maps(shape, seed=3, mean=0.0)
    added = maps(shape, seed=2) if with_addition else None
    found = passes(activate, layer, images, added, gradient)
    doubled = [None if part is None else part.double() for part in (images, added, gradient)]
    exact = passes(plain, layer.double(), *doubled)
    limits = [0.003] * (3 if with_addition else 2) + [1e-4, 1e-4, 1e-6, 1e-6]
    errors = [off(one, true) for one, true in zip(found, exact, strict=True)]
    assert all(error < limit for error, limit in zip(errors, limits, strict=True)), errors
    assert found[0].dtype == found[1].dtype == torch.bfloat16 and found[-3].dtype == found[-1].dtype == torch.float32
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@needs_processor
def test_values_far_from_zero_keep_their_spread(small):
    layer, images = norm(16), maps((64, 16, 4, 4), mean=0.0).float().mul_(0.5).add_(100.0).bfloat16()
    images = images.contiguous(memory_format=torch.channels_last)
    found, exact = activate(layer, images), plain(copy.deepcopy(layer).double(), images.double())
    assert off(found, exact) < 0.003


@needs_processor
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_they_are_the_same_bits_for_any_number_of_threads(small, threads):
    shape = (40, 48, 31, 33)
    given = norm(48), maps(shape), maps(shape, seed=2), maps(shape, seed=3)
    expected, before = passes(activate, *given), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert all(map(torch.equal, passes(activate, *given), expected))
    finally:
        torch.set_num_threads(before)


@needs_processor
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_move_as_torchs(small, momentum):
    ours, theirs = norm(16, momentum=momentum), norm(16, momentum=momentum)
    for seed in range(3):
        images = maps((4, 16, 6, 6), seed=seed)
        activate(ours, images)
        theirs(images.float())
    assert ours.num_batches_tracked == 3
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)


@needs_processor
def test_numbers_that_are_none_stay_so(small):
    images = maps((4, 16, 6, 6))
    images[0, 3, 0, 0] = torch.nan
    found = activate(norm(16), images)
    assert found[:, 3].isnan().all() and not found[:, :3].isnan().any()


@pytest.fixture
def calls(monkeypatch):
    """Normalisations that were computed here, one entry each."""
    known, follow = [], batchnorm._follow
    monkeypatch.setattr(batchnorm, "LEAST", 0)
    monkeypatch.setattr(batchnorm, "_follow", lambda *given: (known.append(1), follow(*given)))
    return known


@needs_processor
@pytest.mark.parametrize(
    ("build", "place", "shape"),
    [(resnet18, 0, (16, 64, 16, 16)), (resnet18, 1, (16, 128, 8, 8)), (resnet50, 0, (16, 256, 16, 16))],
)
def test_blocks_are_as_near_to_exact_ones_as_torchs(calls, monkeypatch, build, place, shape):
    torch.manual_seed(0)
    block = build().layer2[place].to(memory_format=torch.channels_last)
    resnet_parts.adopt(block)
    images, code = maps(shape, mean=0.0), batchnorm.library()

    def gradients(low, fast):
        monkeypatch.setattr(batchnorm, "library", lambda: code if fast else None)
        twin, given = copy.deepcopy(block), (images if low else images.float()).clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            found = twin(given)
        (found.float() * maps(tuple(found.shape), seed=5, mean=0.0)).sum().backward()
        return [given.grad, *(weight.grad for weight in twin.parameters())]

    single, torchs, ours = gradients(False, False), gradients(True, False), gradients(True, True)
    assert len(calls) == len([part for part in block.children() if isinstance(part, nn.BatchNorm2d)])
    for one, other, true in zip(ours, torchs, single, strict=True):
        assert off(one, true.double()) < 1.3 * off(other, true.double()) < 0.2


@needs_processor
@pytest.mark.parametrize(("name", "places"), [("resnet18", 17), ("resnet50", 49)])
def test_each_relu_behind_a_normalisation_is_computed_with_it(calls, monkeypatch, name, places):
    torch.manual_seed(0)
    network = TorchvisionBackbone(name=name, stem="cifar").to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images).pooled
        assert len(calls) == places
        monkeypatch.setattr(batchnorm, "library", lambda: None)
        torchs = network(images).pooled
    exact = network(images).pooled.double()
    assert off(found, exact) < 1.3 * off(torchs, exact) < 0.25


def unsuited():
    """Give normalisations and maps for which torch's operations stand."""
    images = maps((4, 16, 6, 6))
    yield "evaluation", norm(16).eval(), images, None
    yield "single precision", norm(16), images.float(), None
    yield "another order", norm(16), images.contiguous(), None
    yield "narrow", norm(8), maps((4, 8, 6, 6)), None
    yield "without weights", nn.BatchNorm2d(16, affine=False), images, None
    yield "without statistics", norm(16, track_running_stats=False), images, None
    yield "other precision added", norm(16), images, images.float()
    yield "over ranks", convert_batchnorm(nn.Sequential(norm(16)))[0], images, None


@pytest.mark.parametrize("case", list(unsuited()), ids=lambda case: case[0])
def test_what_it_does_not_suit_is_torchs(small, case, monkeypatch):
    _, layer, images, added = case
    monkeypatch.setattr(batchnorm, "_Activated", None)
    expected = copy.deepcopy(layer)(images)
    expected = expected if added is None else expected.add_(added)
    assert torch.equal(activate(layer, images, added), F.relu(expected))


def test_small_maps_are_torchs(monkeypatch):
    monkeypatch.setattr(batchnorm, "_Activated", None)
    images = maps((4, 16, 6, 6))
    assert torch.equal(activate(norm(16), images), F.relu(norm(16)(images)))


def test_other_processors_keep_torchs(small, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    monkeypatch.setattr(batchnorm, "_Activated", None)
    batchnorm.library.cache_clear()
    try:
        images = maps((4, 16, 6, 6))
        assert torch.equal(activate(norm(16), images), F.relu(norm(16)(images)))
    finally:
        batchnorm.library.cache_clear()


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_blocks_in_single_precision_are_torchvisions_to_the_bit(build):
    torch.manual_seed(0)
    theirs = build()
    ours, images = copy.deepcopy(theirs), torch.randn(2, 3, 64, 64)
    resnet_parts.adopt(ours)
    assert any(type(part) in resnet_parts.BLOCKS.values() for part in ours.modules())
    for model in (ours, theirs):
        model(images).square().mean().backward()
    pairs = zip([*ours.parameters(), *ours.buffers()], [*theirs.parameters(), *theirs.buffers()], strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)
