"""Recipes of joint embeddings have solo-learn's numbers, resolved, and their parts are built from them."""

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from pretraining.cli.configuration import CONF, compose, instantiate
from pretraining.launch import main
from pretraining.optim.lars import LARS
from pretraining.optim.optimizers import split_by_decay

EPOCH = 50_000 // 256  # steps
LARS_SOLO = {
    "optimizer._target_": "pretraining.optim.lars.LARS",
    "optimizer.trust": 0.02,
    "optimizer.form": "rate_outside",
    "optimizer.clip": True,
    "optimizer.decay_vectors": False,
}
SGD_SOLO = {"optimizer._target_": "pretraining.optim.optimizers.SGD", "optimizer.decay_vectors": True}
ASYMMETRIC = {"augment.crop.area": [0.08, 1.0], "augment.solarise": [0.0, 0.2], "augment.jitter.saturation": 0.2}
WEAK = {"augment.crop.area": [0.2, 1.0], "augment.solarise": 0.0, "augment.jitter.saturation": 0.4}
VIEWS = {  # of the views that they share
    "augment.jitter.brightness": 0.4,
    "augment.jitter.contrast": 0.4,
    "augment.jitter.hue": 0.1,
    "augment.blur.probability": 0.0,
}


def rising(first, last):
    return {"objective.momentum.first": first, "objective.momentum.last": last, "objective.momentum.shape": "cosine"}


PUBLISHED = {  # optimizer, rate, decay; views; sizes of linear layers; the rest
    "byol": (LARS_SOLO, 1.0, 1e-5, ASYMMETRIC | VIEWS, [(4096, 512), (256, 4096)], [(4096, 256), (256, 4096)],
             rising(0.99, 1.0)),
    "simsiam": (SGD_SOLO, 0.5, 1e-5, WEAK | VIEWS, [(2048, 512), (2048, 2048), (2048, 2048)],
                [(512, 2048), (2048, 512)],
                {"objective.projector.output_norm": "plain", "objective.constant_predictor_rate": True}),
    "vicreg": (LARS_SOLO, 0.3, 1e-4,
               {**VIEWS, "augment.crop.area": [0.2, 1.0], "augment.solarise": 0.1, "augment.jitter.saturation": 0.2},
               [(2048, 512), (2048, 2048), (2048, 2048)], None,
               {"objective.invariance": 25.0, "objective.variance": 2 * 25.0, "objective.covariance": 1.0}),
    "barlow_twins": (LARS_SOLO, 0.3, 1e-4, ASYMMETRIC | VIEWS, [(2048, 512), (2048, 2048), (2048, 2048)], None,
                     {"objective.redundancy": 5e-3, "objective.weight": 0.1}),
    "moco_v2": (SGD_SOLO, 0.3, 1e-4, WEAK | VIEWS, [(2048, 512), (256, 2048)], None,
                rising(0.99, 0.999) | {"objective.contrast.queue": 32768, "objective.contrast.temperature": 0.2,
                                       "objective.contrast.symmetric": True,
                                       "objective.projector.hidden_norm": "none"}),
    "moco_v3": (LARS_SOLO, 0.3, 1e-6, ASYMMETRIC | VIEWS, [(4096, 512), (256, 4096)], [(4096, 256), (256, 4096)],
                rising(0.99, 1.0) | {"objective.temperature": 0.2, "objective.projector.output_norm": "plain",
                                     "objective.predictor.output_norm": "none"}),
    "dino": (LARS_SOLO, 0.3, 1e-6, ASYMMETRIC | VIEWS, [(2048, 512), (2048, 2048), (256, 2048)], None,
             rising(0.9995, 1.0) | {"objective.distillation.prototypes": 4096, "objective.local_views": None,
                                    "objective.projector.hidden_norm": "none"}),
    "swav": (LARS_SOLO, 0.6, 1e-6,
             {"augment.crop.area": [0.08, 1.0], "augment.jitter.brightness": 0.8, "augment.jitter.hue": 0.2,
              "augment.blur.probability": 0.5, "augment.solarise": 0.0},
             [(2048, 512), (128, 2048)], None,
             {"objective.codes.prototypes": 3000, "objective.codes.temperature": 0.1, "objective.codes.epsilon": 0.05,
              "objective.codes.iterations": 3, "objective.codes.queue": 3840,
              "objective.codes.queue_from": 50 * EPOCH, "objective.codes.freeze_steps": 2 * EPOCH}),
}  # fmt: skip
ALL = {
    "backbone.name": "resnet18",
    "backbone.stem": "cifar",
    "preprocess.size": 32,
    "preprocess.mean": [0.4914, 0.4822, 0.4465],
    "preprocess.std": [0.2470, 0.2435, 0.2616],
    "data.batch_size": 256,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.schedule": "cosine",
    "optimizer.final_fraction": 0.0,
    "optimizer.warmup_steps": 10 * EPOCH,
    "trainer.max_steps": 1000 * EPOCH,
    "trainer.clip_norm": None,
    "augment.count": 2,
    "augment.crop.aspect": [3 / 4, 4 / 3],
    "augment.crop.flip": 0.5,
    "augment.crop.interpolation": "bicubic",
    "augment.jitter.probability": 0.8,
    "augment.greyscale": 0.2,
}
DIGITS = ("byol", "simsiam", "vicreg", "barlow_twins", "moco_v2", "moco_v3", "dino", "swav", "ibot")


def composed(name):
    return compose([f"experiment={name}_cifar10_solo", "data.path=somewhere"])


def files(ending):
    found = {path.stem.removesuffix(ending) for path in (Path(CONF) / "experiment").glob(f"*{ending}.yaml")}
    return found - {"simclr", "denoising", "mae"}


def test_every_recipe_is_checked_here():
    assert files("_cifar10_solo") == set(PUBLISHED) and files("_digits") - {"masked_units"} == set(DIGITS)


def run(name, path, cache_dir, *overrides):
    given = [f"data.cache_dir={cache_dir}", f"run_dir={path}", "logger.wandb.mode=disabled", "logger.progress=false"]
    main(compose([f"experiment={name}", *given, *overrides]))
    return json.loads((path / "metrics.json").read_text())


@pytest.mark.slow
def test_ibot_on_digits_reaches_what_it_announces_and_does_not_collapse(tmp_path, cache_dir, capsys):
    found = run("ibot_digits", tmp_path / "run", cache_dir)
    text = (Path(CONF) / "experiment" / "ibot_digits.yaml").read_text()
    announced = float(re.search(r"validation/loss about ([\d.]+)", text)[1])
    assert found["validation/loss"] == pytest.approx(announced, rel=0.1)
    assert found["validation/teacher_divergence"] > 0.6 and found["validation/effective_rank"] > 5
    assert found["probe/knn_accuracy"] > 0.5 and "collapsed" not in capsys.readouterr().err


def test_ibot_s_teacher_tells_digits_apart_after_a_few_steps(tmp_path, cache_dir):
    """Its fast twin: by more than half a nat, where without batch normalisation in the head it is less than that."""
    short = ["trainer.max_steps=15", "trainer.val_every=15", "data.batch_size=32", "optimizer.warmup_steps=2"]
    found = run("ibot_digits", tmp_path / "run", cache_dir, *short)
    plain = ["objective.projector.hidden_norm=none", "objective.projector.bias=true"]
    other = run("ibot_digits", tmp_path / "other", cache_dir, *short, *plain)
    assert found["validation/teacher_divergence"] > 0.5 > other["validation/teacher_divergence"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_numbers(name):
    config = composed(name)
    optimizer, rate, decay, views, _, _, rest = PUBLISHED[name]
    own = {"optimizer.peak_lr": rate, "optimizer.weight_decay": decay, "optimizer.warmup_from": 3e-5 / rate}
    for key, value in (ALL | optimizer | own | views | rest).items():
        found = OmegaConf.select(config, key, throw_on_missing=True)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == (pytest.approx(value, rel=1e-12) if isinstance(value, float | list) else value), key
    assert config.augment.crop.size == 32


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_s_objective_is_built_with_its_heads(name):
    config = composed(name)
    with torch.device("meta"):
        network = instantiate(config.backbone)
        objective = instantiate(config.objective, backbone=network, optimizer=instantiate(config.optimizer))
    for head, shapes in zip(("projector", "predictor"), PUBLISHED[name][4:6], strict=True):
        if shapes is None:
            assert not hasattr(objective, head)
        else:
            layers = [part for part in getattr(objective, head) if isinstance(part, nn.Linear)]
            assert [tuple(part.weight.shape) for part in layers] == shapes
    groups = split_by_decay(objective.named_parameters())
    assert {group.decayed for group in groups} == {True, False}
    assert isinstance(objective.optimizer, LARS) == (PUBLISHED[name][0] is LARS_SOLO)
