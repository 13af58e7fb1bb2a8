"""The fast 3x3 convolutions are exact where bf16 is, near elsewhere, and used only where they should be."""

import copy
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finetuning import training
from pretraining.engine.trainer import TrainerSettings
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.kernels import compile as native
from pretraining.kernels import winograd
from pretraining.kernels.winograd import Convolution, adopt
from tests.runs import finish, history

CAPABLE = torch.cpu.get_capabilities()
has_compiler = shutil.which(os.environ.get("CC", "cc")) is not None
needs_processor = pytest.mark.skipif(
    not CAPABLE.get("avx512_bf16") or CAPABLE.get("amx_bf16", False) or not has_compiler,
    reason="no AVX512-BF16, or AMX, or no C compiler: see test_other_processors_keep_the_direct_algorithm and after",
)
SHAPES = [
    (2, 64, 64, 4, 4),
    (3, 64, 128, 5, 7),
    (1, 128, 64, 32, 32),
    (5, 64, 64, 9, 4),
    (2, 192, 64, 6, 13),
    (2, 256, 256, 25, 23),
]


def convolution(taken, given, *, exact=False, seed=0):
    """One with weights that are multiples of 4, whose transforms bf16 holds exactly, or with those of a network."""
    layer = nn.Conv2d(taken, given, 3, padding=1, bias=False)
    draw = torch.Generator().manual_seed(seed)
    whole = 4.0 * torch.randint(-2, 3, layer.weight.shape, generator=draw)
    layer.weight.data = whole if exact else torch.randn(layer.weight.shape, generator=draw) / (3 * taken**0.5)
    model = nn.Sequential(layer)
    adopt(model)
    assert type(model[0]) is Convolution
    return model[0]


def maps(*shape, exact=False, seed=1):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, shape, generator=draw).float() if exact else torch.randn(shape, generator=draw)
    return values.bfloat16().contiguous(memory_format=torch.channels_last)


def passes(layer, images, gradient, *, fast=True):
    """Output, and gradients for the images and the weight, under bf16 autocast."""
    layer = copy.deepcopy(layer)
    layer.winograd = fast
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(images)
    found.backward(gradient)
    return found.detach(), images.grad, layer.weight.grad


def exactly(layer, images, gradient):
    """The same in fp64, by torch."""
    weight, images = layer.weight.detach().double().requires_grad_(), images.double().requires_grad_()
    found = F.conv2d(images, weight, padding=1)
    found.backward(gradient.double())
    return found.detach(), images.grad, weight.grad


def off(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@needs_processor
@pytest.mark.parametrize(("count", "taken", "given", "height", "width"), SHAPES)
@pytest.mark.parametrize(
    "layout", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 2, 0, 1)], ids=["contiguous", "channels last", "columns first"]
)
def test_whole_numbers_are_convolved_exactly(count, taken, given, height, width, layout):
    layer = convolution(taken, given, exact=True)
    places = [layout.index(axis) for axis in range(4)]
    layer.weight.data = layer.weight.data.permute(layout).contiguous().permute(places)
    images, gradient = (
        maps(count, taken, height, width, exact=True),
        maps(count, given, height, width, exact=True, seed=2),
    )
    output, of_images, of_weight = passes(layer, images, gradient)
    true_output, true_of_images, true_of_weight = exactly(layer, images, gradient)
    assert torch.equal(output, true_output.bfloat16()) and torch.equal(of_images, true_of_images.bfloat16())
    assert torch.equal(of_weight.double(), true_of_weight)  # fp32 sums hold these numbers exactly
    assert output.is_contiguous(memory_format=torch.channels_last)


@needs_processor
@pytest.mark.parametrize("relu", [False, True])
def test_rounding_errors_are_at_most_two_and_a_half_times_those_of_the_direct_algorithm(relu):
    layer, images, gradient = convolution(64, 64), maps(4, 64, 16, 16), maps(4, 64, 16, 16, seed=2)
    images = images.relu() if relu else images
    fast, direct = (passes(layer, images, gradient, fast=fast) for fast in (True, False))
    for one, other, true in zip(fast, direct, exactly(layer, images, gradient), strict=True):
        assert off(other, true) < off(one, true) < 2.5 * off(other, true) < 0.006


@needs_processor
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_maps_are_the_same_bits_for_any_number_of_threads_and_any_batch(threads):
    layer, images, gradient = convolution(64, 128), maps(7, 64, 9, 10), maps(7, 128, 9, 10, seed=2)
    together, before = passes(layer, images, gradient), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(passes(layer, images, gradient)[2], together[2])
        for rows in (slice(0, 7), slice(2, 3), slice(4, 7)):
            alone = passes(layer, images[rows], gradient[rows])
            assert torch.equal(alone[0], together[0][rows]) and torch.equal(alone[1], together[1][rows])
    finally:
        torch.set_num_threads(before)


@needs_processor
def test_threads_that_are_not_torchs_do_the_same(monkeypatch):
    layer, images, gradient = convolution(64, 64), maps(5, 64, 8, 8), maps(5, 64, 8, 8, seed=2)
    expected = passes(layer, images, gradient)
    monkeypatch.setattr(native, "_openmp", lambda: None)
    assert all(map(torch.equal, passes(layer, images, gradient), expected))


@needs_processor
def test_gradients_of_a_whole_network_are_as_near_as_bf16_comes():
    torch.manual_seed(0)
    network = TorchvisionBackbone(name="resnet18", stem="cifar").to(memory_format=torch.channels_last)
    assert sum(isinstance(part, Convolution) for part in network.modules()) == 13
    images, target = torch.randn(16, 3, 32, 32), torch.randn(16, 512)

    def gradients(low, fast):
        twin = copy.deepcopy(network)
        for part in twin.modules():
            if isinstance(part, Convolution):
                part.winograd = fast
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            found = twin(images.contiguous(memory_format=torch.channels_last)).pooled
        (found.float() * target).sum().backward()
        return [weight.grad for weight in twin.parameters()]

    single, direct, fast = gradients(False, True), gradients(True, False), gradients(True, True)
    errors = [[off(one, true.double()) for one, true in zip(low, single, strict=True)] for low in (direct, fast)]
    means = [sum(each) / len(each) for each in errors]
    assert means[0] != means[1] and means[1] < 1.4 * means[0]


def unsuited():
    """Give convolutions and maps to which the algorithm does not apply."""
    layer, wide = convolution(64, 64), maps(2, 64, 8, 8)
    yield "small maps", layer, wide[:, :, :3]
    yield "no images", layer, wide[:0]
    yield "switched off", copy.deepcopy(layer), wide
    for name, options in (
        ("stride", {"stride": 2}),
        ("groups", {"groups": 2}),
        ("bias", {"bias": True}),
        ("dilation", {"dilation": 2}),
    ):
        model = nn.Sequential(nn.Conv2d(64, 64, 3, **({"padding": 1, "bias": False} | options)))
        adopt(model)
        yield name, model[0], wide
    narrow = nn.Sequential(nn.Conv2d(64, 32, 3, padding=1, bias=False))
    adopt(narrow)
    yield "narrow", narrow[0], wide


@pytest.mark.parametrize("case", list(unsuited()), ids=lambda case: case[0])
def test_what_the_algorithm_does_not_suit_is_torchs(case, monkeypatch):
    name, layer, images = case
    if name == "switched off":
        layer.winograd = False
    monkeypatch.setattr(winograd, "_Winograd", None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(images)
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    bias = None if layer.bias is None else layer.bias.bfloat16()
    assert torch.equal(found, F.conv2d(images, layer.weight.bfloat16(), bias, *settings))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_other_precisions_are_torchs(dtype, monkeypatch):
    monkeypatch.setattr(winograd, "_Winograd", None)
    layer, images = convolution(64, 64).to(dtype), maps(2, 64, 8, 8).to(dtype)
    assert torch.equal(layer(images), F.conv2d(images, layer.weight, padding=1))
    with torch.autocast("cpu", dtype=torch.float16):
        assert layer(images).dtype == (torch.float16 if dtype != torch.float64 else torch.float64)


@needs_processor
def test_networks_held_in_bf16_use_it_without_autocast():
    layer, images = convolution(64, 64, exact=True).bfloat16(), maps(2, 64, 8, 8, exact=True)
    expected = F.conv2d(images.double(), layer.weight.double(), padding=1).bfloat16()
    images.requires_grad_()
    found = layer(images)
    assert type(found.grad_fn).__name__ == "_WinogradBackward" and torch.equal(found, expected)
    found.sum().backward()
    assert layer.weight.grad.dtype == images.grad.dtype == torch.bfloat16


@needs_processor
def test_compiled_layers_hold_torchs_algorithm_in_one_graph():
    layer, images = convolution(64, 64), maps(2, 64, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.compile(layer, backend="eager", fullgraph=True)(images)
        assert torch.equal(found, F.conv2d(images, layer.weight, padding=1))
        assert not torch.equal(found, layer(images))


@pytest.mark.parametrize("processor", [{"avx512_bf16": False}, {"avx512_bf16": True, "amx_bf16": True}, {}])
def test_other_processors_keep_the_direct_algorithm(monkeypatch, processor):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    winograd.library.cache_clear()
    try:
        layer, images = convolution(64, 64), maps(2, 64, 8, 8)
        monkeypatch.setattr(winograd, "_Winograd", None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(images), F.conv2d(images, layer.weight.bfloat16(), padding=1))
    finally:
        winograd.library.cache_clear()


SCRIPT = """
import torch
from torch import nn
from pretraining.kernels.winograd import adopt
torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}
model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False))
adopt(model)
with torch.autocast("cpu", dtype=torch.bfloat16):
    for _ in range(2):
        print(tuple(model(torch.ones(1, 64, 8, 8)).shape))
"""


def test_without_a_compiler_the_direct_algorithm_computes_and_it_is_said(tmp_path):
    environment = os.environ | {"CC": "no-such-compiler", "PRETRAINING_CACHE": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout.splitlines() == ["(1, 64, 8, 8)"] * 2
    assert ended.stderr.count("3x3 convolutions in bf16 are torch's") == 1 and "no-such-compiler" in ended.stderr


@pytest.mark.skipif(not has_compiler, reason="no C compiler; without one: the last test")
def test_a_compiler_that_does_not_know_the_processor_leaves_the_direct_algorithm(tmp_path):
    compiler = tmp_path / "old-cc"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CC", "cc")} "$@" -U__AVX512BF16__\n', "utf-8")
    compiler.chmod(0o755)
    environment = os.environ | {"CC": str(compiler), "PRETRAINING_CACHE": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout.splitlines() == ["(1, 64, 8, 8)"] * 2 and not ended.stderr


def test_weights_and_their_names_stay():
    torch.manual_seed(0)
    ours = TorchvisionBackbone(name="resnet18", stem="imagenet").model.state_dict()
    torch.manual_seed(0)
    from torchvision.models import resnet18

    theirs = resnet18().state_dict()
    theirs = {name: weight for name, weight in theirs.items() if not name.startswith("fc.")}
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@needs_processor
def test_a_run_may_keep_torchs_algorithm(cache_dir, tmp_path):
    common = [
        "objective=simclr",
        f"data.cache_dir={cache_dir}",
        "data.batch_size=8",
        "preprocess.size=16",
        "backbone.width=64",
    ]
    common += [
        "trainer.precision=bf16",
        "trainer.max_steps=1",
        "trainer.log_every=1",
        "trainer.val_every=0",
        "optimizer.warmup_steps=0",
    ]
    losses = []
    for name, allowed in (("fast", "true"), ("direct", "false")):
        assert finish([*common, f"run_dir={tmp_path / name}", f"trainer.winograd={allowed}"]) == 0
        losses.append(float(history(tmp_path / name)[-1]["train/loss"]))
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_vectors_that_finetuning_caches_are_torchs_where_the_run_asks_for_it(monkeypatch):
    class Seen(Exception):  # noqa: N818 - no error: what the task was when its vectors were due
        pass

    class Task(nn.Sequential):
        mode, cacheable = SimpleNamespace(cache=True), True

        def cache_vectors(self, loader):
            raise Seen(self[0].winograd)

    monkeypatch.setattr(training, "evaluation", lambda part, data: None)
    for allowed in (False, True):
        task, settings = Task(convolution(64, 64)), TrainerSettings(winograd=allowed)
        run = training.Run(task=task, splits={"train": None}, data=None, settings=settings, seed=1, show=False)
        with pytest.raises(Seen, match=str(allowed)):
            training.finetune(run, None, [])
