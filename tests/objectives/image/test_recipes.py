"""SimCLR's recipes have the published numbers, resolved, and their parts are built from them."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from pretraining.cli.configuration import CONF, compose, instantiate
from pretraining.optim.lars import LARS
from pretraining.optim.optimizers import SGD, split_by_decay

CIFAR, IMAGENET, IMAGENET100 = 50_000, 1_281_167, 126_689  # training images

GOOGLE = {
    "backbone.options.zero_init_residual": True,
    "optimizer._target_": "pretraining.optim.lars.LARS",
    "optimizer.momentum": 0.9,
    "optimizer.trust": 1e-3,
    "optimizer.form": "rate_inside",
    "optimizer.weight_decay": 1e-4,
    "optimizer.warmup_from": 0.0,
    "optimizer.final_fraction": 0.0,
    "preprocess.mean": [0.0, 0.0, 0.0],
    "preprocess.std": [1.0, 1.0, 1.0],
    "augment.crop.interpolation": "bicubic",
    "objective.weight": 2.0,
    "objective.projector.layers": 3,
    "objective.projector.hidden": None,
    "objective.projector.output": 128,
    "objective.projector.hidden_norm": "full",
    "objective.projector.output_norm": "scale",
    "objective.projector.bias": False,
    "objective.projector.init_std": 0.01,
}
SOLO = {
    "optimizer._target_": "pretraining.optim.lars.LARS",
    "optimizer.momentum": 0.9,
    "optimizer.trust": 0.02,
    "optimizer.form": "rate_outside",
    "optimizer.clip": True,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 1e-4,
    "optimizer.final_fraction": 0.0,
    "data.batch_size": 256,
    "augment.crop.interpolation": "bicubic",
    "augment.blur.probability": 0.5,
    "objective.temperature": 0.2,
    "objective.weight": 1.0,
    "objective.projector.layers": 2,
    "objective.projector.hidden_norm": "none",
    "objective.projector.output_norm": "none",
    "objective.projector.bias": True,
    "objective.projector.init_std": None,
}
LIGHTLY = {
    "optimizer.momentum": 0.9,
    "optimizer.warmup_from": None,
    "preprocess.mean": [0.485, 0.456, 0.406],
    "preprocess.std": [0.229, 0.224, 0.225],
    "augment.crop.interpolation": "bilinear",
    "objective.weight": 1.0,
    "objective.projector.layers": 2,
    "objective.projector.output": 128,
    "objective.projector.hidden_norm": "full",
    "objective.projector.output_norm": "full",
    "objective.projector.bias": False,
    "objective.projector.init_std": None,
}
PUBLISHED = {
    "simclr_cifar10_google": GOOGLE
    | {
        "backbone.name": "resnet18",
        "backbone.stem": "cifar",
        "preprocess.size": 32,
        "data.batch_size": 512,
        "optimizer.peak_lr": 1.0 * 512 / 256,
        "optimizer.warmup_steps": 10 * CIFAR // 512,
        "trainer.max_steps": 1000 * CIFAR // 512 + 1,
        "objective.temperature": 0.5,
        "augment.blur.probability": 0.0,
    },
    "simclr_imagenet_google": GOOGLE
    | {
        "backbone.name": "resnet50",
        "backbone.stem": "imagenet",
        "preprocess.size": 224,
        "data.batch_size": 4096,
        "optimizer.peak_lr": 0.075 * math.sqrt(4096),
        "optimizer.warmup_steps": 10 * IMAGENET // 4096,
        "trainer.max_steps": 100 * IMAGENET // 4096 + 1,
        "objective.temperature": 0.1,
        "augment.blur.probability": 0.5,
        "augment.blur.kernel_size": 23,
    },
    "simclr_cifar10_solo": SOLO
    | {
        "backbone.name": "resnet18",
        "backbone.stem": "cifar",
        "preprocess.size": 32,
        "preprocess.mean": [0.4914, 0.4822, 0.4465],
        "preprocess.std": [0.2470, 0.2435, 0.2616],
        "optimizer.peak_lr": 0.4 * 256 / 256,
        "optimizer.warmup_steps": 10 * (CIFAR // 256),
        "optimizer.warmup_from": 3e-5 / 0.4,
        "trainer.max_steps": 1000 * (CIFAR // 256),
        "objective.projector.hidden": 2048,
        "objective.projector.output": 256,
    },
    "simclr_imagenet100_solo": SOLO
    | {
        "backbone.name": "resnet18",
        "backbone.stem": "imagenet",
        "preprocess.size": 224,
        "preprocess.mean": [0.485, 0.456, 0.406],
        "preprocess.std": [0.229, 0.224, 0.225],
        "optimizer.peak_lr": 0.3 * 256 / 256,
        "optimizer.warmup_steps": 10 * (IMAGENET100 // 256),
        "optimizer.warmup_from": 3e-5 / 0.3,
        "trainer.max_steps": 400 * (IMAGENET100 // 256),
        "objective.projector.hidden": 4096,
        "objective.projector.output": 512,
    },
    "simclr_cifar10_lightly": LIGHTLY
    | {
        "backbone.name": "resnet18",
        "backbone.stem": "cifar",
        "preprocess.size": 32,
        "data.batch_size": 128,
        "optimizer._target_": "pretraining.optim.optimizers.SGD",
        "optimizer.peak_lr": 0.06 * 128 / 128,
        "optimizer.warmup_steps": 0,
        "optimizer.hold_steps": CIFAR // 128,
        "optimizer.weight_decay": 5e-4,
        "optimizer.decay_vectors": True,
        "optimizer.final_fraction": 0.0,
        "trainer.max_steps": 200 * (CIFAR // 128),
        "objective.temperature": 0.5,
        "objective.projector.hidden": 512,
        "augment.blur.probability": 0.0,
    },
    "simclr_imagenet_lightly": LIGHTLY
    | {
        "backbone.name": "resnet50",
        "backbone.stem": "imagenet",
        "preprocess.size": 224,
        "data.batch_size": 256,
        "optimizer._target_": "pretraining.optim.lars.LARS",
        "optimizer.peak_lr": 0.075 * math.sqrt(256),
        "optimizer.warmup_steps": 10 * (IMAGENET // 256),
        "optimizer.weight_decay": 1e-6,
        "optimizer.trust": 1e-3,
        "optimizer.form": "rate_outside",
        "optimizer.clip": False,
        "optimizer.final_fraction": 1e-3,
        "trainer.max_steps": 100 * (IMAGENET // 256),
        "objective.temperature": 0.1,
        "objective.projector.hidden": 2048,
        "augment.blur.probability": 0.5,
        "augment.blur.kernel_size": 23,
    },
}
ALL = {  # what the recipes agree in; strengths of colour distortion are in COLOUR
    "objective._target_": "pretraining.objectives.image.simclr.SimCLR",
    "objective.decoupled": False,
    "objective.supervised": False,
    "optimizer.schedule": "cosine",
    "optimizer.nesterov": False,
    "trainer.clip_norm": None,
    "augment.count": 2,
    "augment.crop.area": [0.08, 1.0],
    "augment.crop.aspect": [3 / 4, 4 / 3],
    "augment.crop.flip": 0.5,
    "augment.jitter.probability": 0.8,
    "augment.greyscale": 0.2,
    "augment.blur.sigma": [0.1, 2.0],
    "augment.solarise": 0.0,
}
COLOUR = {"simclr_cifar10_google": 0.5, "simclr_cifar10_lightly": 0.5}


def composed(name):
    return compose([f"experiment={name}", "data.path=somewhere"])


def test_every_image_recipe_is_checked_here():
    files = {path.stem for path in (Path(CONF) / "experiment").glob("simclr_*.yaml")}
    assert {name for name in files if name.endswith(("_google", "_solo", "_lightly"))} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_numbers(name):
    config = composed(name)
    for key, value in (ALL | PUBLISHED[name]).items():
        found = OmegaConf.select(config, key, throw_on_missing=True)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == (pytest.approx(value, rel=1e-12) if isinstance(value, float | list) else value), key
    strength, jitter = COLOUR.get(name, 1.0), config.augment.jitter
    assert [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue] == pytest.approx(
        [0.8 * strength] * 3 + [0.2 * strength]
    )
    assert config.augment.crop.size == config.preprocess.size and list(config.augment.output.mean) == list(
        config.preprocess.mean
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_optimizer_of_a_recipe_decays_and_adapts_the_published_kinds(name):
    settings = instantiate(composed(name).optimizer)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 4))
    optimizer, schedule = settings.build(split_by_decay(network.named_parameters()), composed(name).trainer.max_steps)
    filters, vectors = optimizer.param_groups
    assert {parameter.ndim for parameter in filters["params"]} == {2, 4} and {
        parameter.ndim for parameter in vectors["params"]
    } == {1}
    assert filters["weight_decay"] == settings.weight_decay
    if isinstance(settings, LARS):
        assert (vectors["weight_decay"], filters["adapted"], vectors["adapted"]) == (0.0, True, False)
    else:
        assert isinstance(settings, SGD) and vectors["weight_decay"] == settings.weight_decay
    first = {None: 1 / max(settings.warmup_steps, 1)}.get(settings.warmup_from, settings.warmup_from)
    assert schedule.get_last_lr()[0] == pytest.approx(settings.peak_lr * first, abs=1e-12)
    scale = schedule.lr_lambdas[0]
    assert scale(settings.warmup_steps) == 1.0 and scale(10**7) == pytest.approx(settings.final_fraction, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "dim", "shapes"),
    [
        ("simclr_cifar10_google", 512, [(512, 512), (512, 512), (128, 512)]),
        ("simclr_imagenet_google", 2048, [(2048, 2048), (2048, 2048), (128, 2048)]),
        ("simclr_cifar10_solo", 512, [(2048, 512), (256, 2048)]),
        ("simclr_imagenet100_solo", 512, [(4096, 512), (512, 4096)]),
        ("simclr_cifar10_lightly", 512, [(512, 512), (128, 512)]),
        ("simclr_imagenet_lightly", 2048, [(2048, 2048), (128, 2048)]),
    ],
)
def test_the_objective_of_a_recipe_is_built_with_its_projector_and_views(name, dim, shapes):
    config = composed(name)
    with torch.device("meta"):
        backbone = instantiate(config.backbone)
        objective = instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer))
    assert backbone.dim == dim
    assert [tuple(part.weight.shape) for part in objective.projector if isinstance(part, nn.Linear)] == shapes
    assert objective.views.count == 2 and objective.temperature == config.objective.temperature
    norms = [part for part in objective.projector if isinstance(part, nn.BatchNorm1d)]
    assert len(norms) == (0 if "solo" in name else len(shapes))
    assert all(
        norm.eps == 1e-5 and norm.momentum == 0.1 for norm in norms
    )  # Google's decay of 0.9 is torch's momentum of 0.1
    if "google" in name:
        assert not norms[-1].bias.requires_grad
