"""Recipes of joint embeddings on ImageNet and lightly's on CIFAR-10 have the published numbers, resolved.

The tables are the papers', their repositories' and lightly's benchmark's, as their headers say. Each recipe's objective
is built, and steps are counted from epochs, images and batch.
"""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from pretraining.cli.configuration import CONF, compose, instantiate

IMAGES = 1_281_167
ASYMMETRIC = {"augment.blur.probability": [1.0, 0.1], "augment.solarise": [0.0, 0.2], "augment.jitter.saturation": 0.2}
WEAK = {"augment.blur.probability": 0.5, "augment.solarise": 0.0, "augment.jitter.saturation": 0.4,
        "augment.crop.area": [0.2, 1.0]}  # fmt: skip
LARS = {"optimizer._target_": "pretraining.optim.lars.LARS", "optimizer.trust": 1e-3, "optimizer.clip": False,
        "optimizer.form": "rate_outside", "optimizer.momentum": 0.9, "optimizer.decay_vectors": False,
        "optimizer.adapt_vectors": False}  # fmt: skip
SGD = {"optimizer._target_": "pretraining.optim.optimizers.SGD", "optimizer.momentum": 0.9,
       "optimizer.nesterov": False, "optimizer.decay_vectors": True, "optimizer.warmup_steps": 0}  # fmt: skip
ADAMW = {"optimizer._target_": "pretraining.optim.optimizers.AdamW", "optimizer.betas": [0.9, 0.999],
         "optimizer.decay_vectors": False}  # fmt: skip
SMALL = {"backbone.options.num_layers": 12, "backbone.options.hidden_dim": 384, "backbone.options.mlp_dim": 1536,
         "backbone.options.patch_size": 16}  # fmt: skip


def rising(first, last, shape="cosine"):
    return {f"objective.momentum.{key}": value for key, value in
            {"first": first, "last": last, "shape": shape, "steps": None}.items()}  # fmt: skip


def local(count, area):
    return {"objective.local_views.count": count, "objective.local_views.crop.size": 96,
            "objective.local_views.crop.area": area, "objective.local_views.blur.probability": 0.5}  # fmt: skip


def sharp(last, steps, prototypes, freeze, learn):
    given = {"teacher_temperature.first": 0.04, "teacher_temperature.last": last, "teacher_temperature.steps": steps,
             "temperature": 0.1, "centre_momentum": 0.9, "prototypes": prototypes, "freeze_steps": freeze,
             "learn_lengths": learn}  # fmt: skip
    return {f"objective.distillation.{key}": value for key, value in given.items()}


DINO_HEAD = ([(2048, 384), (2048, 2048), (256, 2048)], None)
IMAGENET = {  # epochs, batch, warm-up epochs, peak rate, decay; published; sizes of projector and predictor; the rest
    "byol": (1000, 4096, 10, 0.2 * 4096 / 256, 1.5e-6, "74.3 %",
             [(4096, 2048), (256, 4096)], [(4096, 256), (256, 4096)],
             LARS | ASYMMETRIC | rising(0.996, 1.0) | {"optimizer.final_fraction": 0.0,
                                                       "augment.crop.area": [0.08, 1.0],
                                                       "backbone.options.zero_init_residual": True}),
    "simsiam": (100, 512, 0, 0.05 * 512 / 256, 1e-4, "68.1 %", [(2048, 2048)] * 3, [(512, 2048), (2048, 512)],
                SGD | WEAK | {"optimizer.hold_steps": IMAGES // 512, "objective.constant_predictor_rate": True,
                              "objective.projector.output_norm": "plain", "objective.predictor.output_norm": "none",
                              "backbone.options.zero_init_residual": True}),
    "moco_v2": (200, 256, 0, 0.03, 1e-4, "67.5 %", [(2048, 2048), (128, 2048)], None,
                SGD | WEAK | rising(0.999, 0.999) | {
                    "optimizer.hold_steps": IMAGES // 256, "objective.contrast.queue": 65536,
                    "objective.contrast.temperature": 0.2, "objective.contrast.symmetric": False,
                    "objective.projector.hidden_norm": "none"}),
    "moco_v3": (100, 4096, 10, 0.6 * 4096 / 256, 1e-6, "68.9 %",
                [(4096, 2048), (256, 4096)], [(4096, 256), (256, 4096)],
                LARS | ASYMMETRIC | rising(0.99, 1.0) | {
                    "objective.temperature": 1.0, "augment.crop.area": [0.2, 1.0], "optimizer.final_fraction": 0.0,
                    "objective.projector.output_norm": "plain", "objective.predictor.output_norm": "none",
                    "backbone.options.zero_init_residual": True}),
    "moco_v3_vit": (300, 4096, 40, 1.5e-4 * 4096 / 256, 0.1, "73.2 %",
                    [(4096, 384), (4096, 4096), (256, 4096)], [(4096, 256), (256, 4096)],
                    ADAMW | SMALL | ASYMMETRIC | rising(0.99, 1.0) | {
                        "objective.temperature": 0.2, "augment.crop.area": [0.08, 1.0], "optimizer.final_fraction": 0.0,
                        "optimizer.last_weight_decay": None, "backbone.options.num_heads": 12,
                        "backbone.frozen_patches": True, "objective.projector.output_norm": "plain",
                        "objective.predictor.output_norm": "plain"}),
    "barlow_twins": (1000, 2048, 10, 0.2 * 2048 / 256, 1e-6, "73.5 %", [(8192, 2048), (8192, 8192), (8192, 8192)], None,
                     LARS | ASYMMETRIC | {"objective.redundancy": 0.0051, "objective.weight": 1.0,
                                          "augment.crop.area": [0.08, 1.0], "optimizer.final_fraction": 1e-3,
                                          "backbone.options.zero_init_residual": True}),
    "vicreg": (1000, 2048, 10, 0.2 * 2048 / 256, 1e-6, "73.2 %", [(8192, 2048), (8192, 8192), (8192, 8192)], None,
               LARS | ASYMMETRIC | {"objective.invariance": 25.0, "objective.variance": 25.0,
                                    "objective.covariance": 1.0, "augment.crop.area": [0.08, 1.0],
                                    "optimizer.final_fraction": 1e-3, "objective.projector.output_norm": "none",
                                    "objective.projector.bias": True, "objective.projector.output_bias": False,
                                    "backbone.options.zero_init_residual": True}),
    "swav": (400, 4096, 10, 4.8, 1e-6, "74.6 %", [(2048, 2048), (128, 2048)], None,
             LARS | local(6, [0.05, 0.14]) | {
                 "optimizer.decay_vectors": True, "optimizer.adapt_vectors": True, "optimizer.warmup_from": 0.3 / 4.8,
                 "optimizer.final_fraction": 0.0048 / 4.8, "augment.crop.area": [0.14, 1.0],
                 "augment.jitter.brightness": 0.8, "augment.jitter.saturation": 0.8, "augment.jitter.hue": 0.2,
                 "augment.blur.probability": 0.5, "objective.codes.prototypes": 3000, "objective.codes.epsilon": 0.05,
                 "objective.codes.temperature": 0.1, "objective.codes.iterations": 3, "objective.codes.queue": 0,
                 "objective.codes.freeze_steps": 313, "preprocess.std": [0.228, 0.224, 0.225]}),
    "dino": (100, 512, 10, 5e-4 * 512 / 256, 0.04, "74.0 %", *DINO_HEAD,
             ADAMW | SMALL | ASYMMETRIC | rising(0.996, 1.0) | local(8, [0.05, 0.4])
             | sharp(0.04, 0, 65_536, IMAGES // 512, False) | {
                 "optimizer.last_weight_decay": 0.4, "optimizer.final_fraction": 1e-6 / 1e-3,
                 "backbone.options.num_heads": 6, "augment.crop.area": [0.4, 1.0], "trainer.clip_norm": 3.0,
                 "trainer.clip_each": True}),
    "ibot": (800, 1024, 10, 5e-4 * 1024 / 256, 0.04, "77.9 %", *DINO_HEAD,
             ADAMW | SMALL | ASYMMETRIC | rising(0.996, 1.0) | local(10, [0.05, 0.25])
             | sharp(0.07, 30 * (IMAGES // 1024), 8192, IMAGES // 1024, True) | {
                 "objective.distillation.mask_chance": 0.5, "objective.distillation.mask_ratio": [0.1, 0.5],
                 "objective.distillation.patch_weight": 1.0, "optimizer.last_weight_decay": 0.4,
                 "optimizer.final_fraction": 1e-6 / 2e-3, "augment.crop.area": [0.25, 1.0], "trainer.clip_norm": 3.0,
                 "trainer.clip_each": True}),
    "i_jepa": (300, 2048, 40, 1e-3, 0.04, "79.3 %", None, None,
               ADAMW | rising(0.996, 1.0, "linear") | {
                   "optimizer.last_weight_decay": 0.4, "optimizer.warmup_from": 2e-4 / 1e-3,
                   "optimizer.final_fraction": 1e-6 / 1e-3, "augment.crop.area": [0.3, 1.0], "augment.crop.flip": 0.0,
                   "augment.count": 1, "augment.jitter.probability": 0.0, "augment.blur.probability": 0.0,
                   "backbone.options.patch_size": 14, "backbone.options.num_layers": 32,
                   "backbone.options.num_heads": 16, "backbone.options.hidden_dim": 1280, "backbone.pooling": "mean",
                   "backbone.init": "small",
                   "objective.predictor.width": 384, "objective.predictor.layers": 12, "objective.predictor.heads": 16,
                   "objective.blocks.targets": 4, "objective.blocks.scale": [0.15, 0.2],
                   "objective.blocks.aspect": [0.75, 1.5]}),
}  # fmt: skip
BYOL_VIEWS = {"augment.crop.area": [0.08, 1.0], "augment.solarise": [0.0, 0.2], "augment.jitter.saturation": 0.2}
STILL = {"objective.momentum.first": 0.99, "objective.momentum.last": 0.99}
LIGHTLY = {  # published; sizes of projector and predictor; the rest
    "byol": ("86.9 %", [(1024, 512), (256, 1024)], [(1024, 256), (256, 1024)],
             # Its loss, half the sum of two cosines, is a quarter of BYOL's: the same steps at a quarter of the rate.
             SGD | BYOL_VIEWS | STILL | {"optimizer.peak_lr": 0.06 / 4, "optimizer.weight_decay": 4 * 5e-4}),
    "simsiam": ("81.9 %", [(2048, 512), (2048, 2048)], [(512, 2048), (2048, 512)],
                SGD | {"augment.crop.area": [0.2, 1.0], "augment.solarise": 0.0, "augment.jitter.saturation": 0.4,
                       "objective.constant_predictor_rate": False, "objective.projector.output_norm": "full"}),
    "barlow_twins": ("84.2 %", [(2048, 512), (2048, 2048)], None,
                     SGD | BYOL_VIEWS | {"objective.redundancy": 5e-3, "objective.weight": 1.0}),
    "moco_v2": ("83.8 %", [(512, 512), (128, 512)], None,
                SGD | STILL | {"augment.crop.area": [0.08, 1.0], "augment.solarise": 0.0,
                               "augment.jitter.saturation": 0.4, "objective.contrast.queue": 4096,
                               "objective.contrast.temperature": 0.1, "objective.contrast.symmetric": True}),
    "swav": ("81.2 %", [(512, 512), (128, 512)], None,
             {"optimizer._target_": "pretraining.optim.optimizers.AdamW", "optimizer.peak_lr": 1e-3,
              "optimizer.weight_decay": 1e-6, "augment.crop.area": [0.14, 1.0], "augment.solarise": 0.0,
              "augment.jitter.saturation": 0.4, "objective.codes.prototypes": 512, "objective.codes.queue": 0}),
    "dino": ("84.0 %", [(2048, 512), (256, 2048)], None,
             SGD | STILL | sharp(0.04, 0, 2048, 0, False) | {
                 "augment.crop.area": [0.4, 1.0], "augment.crop.interpolation": "bicubic",
                 "augment.solarise": [0.0, 0.2], "augment.jitter.saturation": 0.2, "objective.local_views": None,
                 "objective.projector.hidden_norm": "full"}),
}  # fmt: skip


def composed(name):
    return compose([f"experiment={name}", "data.path=somewhere"])


def assert_values(config, expected):
    for key, value in expected.items():
        found = OmegaConf.select(config, key)
        assert found is not None or value is None, key
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == (pytest.approx(value, rel=1e-12) if isinstance(value, float | list) else value), key


def assert_heads(config, *heads):
    """Build the objective, without memory for its weights, and compare its linear layers."""
    with torch.device("meta"):
        network = instantiate(config.backbone)
        objective = instantiate(config.objective, backbone=network, optimizer=instantiate(config.optimizer))
    for head, shapes in zip(("projector", "predictor"), heads, strict=True):
        if shapes is not None:
            layers = [part for part in getattr(objective, head) if isinstance(part, nn.Linear)]
            assert [tuple(part.weight.shape) for part in layers] == shapes, head


def header(name):
    text = (Path(CONF) / "experiment" / f"{name}.yaml").read_text()
    return text[: text.index("defaults:")]


def names(ending):
    found = {path.stem.removesuffix(ending) for path in (Path(CONF) / "experiment").glob(f"*{ending}.yaml")}
    return found - {"simclr"}


def test_every_recipe_is_checked_here():
    assert names("_imagenet_paper") == set(IMAGENET) and names("_cifar10_lightly") == set(LIGHTLY)


@pytest.mark.parametrize("name", IMAGENET)
def test_a_recipe_for_imagenet_has_the_paper_s_numbers(name):
    epochs, batch, warmup, rate, decay, published, projector, predictor, rest = IMAGENET[name]
    config = composed(f"{name}_imagenet_paper")
    clip = {} if "trainer.clip_norm" in rest else {"trainer.clip_norm": None}
    numbers = {"trainer.max_steps": epochs * (IMAGES // batch), "data.batch_size": batch, "optimizer.peak_lr": rate,
               "optimizer.weight_decay": decay, "optimizer.warmup_steps": warmup * (IMAGES // batch),
               "optimizer.schedule": "cosine", "preprocess.size": 224, "augment.crop.size": 224}  # fmt: skip
    assert_values(config, numbers | clip | rest)
    assert published in header(f"{name}_imagenet_paper")
    assert_heads(config, projector, predictor)


@pytest.mark.parametrize("name", LIGHTLY)
def test_a_recipe_of_lightly_has_its_benchmark_s_numbers(name):
    published, projector, predictor, rest = LIGHTLY[name]
    config = composed(f"{name}_cifar10_lightly")
    epoch = 50_000 // 128
    shared = {"trainer.max_steps": 200 * epoch, "data.batch_size": 128, "optimizer.hold_steps": epoch,
              "optimizer.schedule": "cosine", "optimizer.warmup_steps": 0, "optimizer.decay_vectors": True,
              "trainer.clip_norm": None, "backbone.name": "resnet18", "backbone.stem": "cifar", "preprocess.size": 32,
              "preprocess.mean": [0.485, 0.456, 0.406], "augment.crop.size": 32, "augment.blur.probability": 0.0,
              "augment.jitter.brightness": 0.4, "augment.jitter.hue": 0.1, "augment.greyscale": 0.2}  # fmt: skip
    rates = {"optimizer.peak_lr": 0.06, "optimizer.weight_decay": 5e-4}
    assert_values(config, shared | rates | rest)
    assert published in header(f"{name}_cifar10_lightly")
    assert_heads(config, projector, predictor)
