"""Takes optimizer steps over given micro-batches, in one process or as one of several ranks, and says how the weights
moved.
"""

import torch

from pretraining.engine.batch import Step, StepSettings
from pretraining.engine.trainer import TrainerSettings, build_trainer
from pretraining.optim.optimizers import SGD


def plain_sgd():
    """Give an optimizer whose one step is minus the gradient."""
    return SGD(
        peak_lr=1.0,
        warmup_steps=0,
        schedule="constant",
        final_fraction=1.0,
        weight_decay=0.0,
        momentum=0.0,
        nesterov=False,
    )


class Steps(list):
    """A loader of given steps."""


def gradient_of(module, micro_batches, tmp_path, *, rank=0, world=1):
    """Take one step of plain SGD over this rank's `micro_batches`; returns {name: gradient} of what was exchanged and
    normalised.
    """
    module = module.double()
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module.settings = StepSettings(seed=5, max_steps=1)
    strategy = "single" if world == 1 else "ddp"
    settings = TrainerSettings(max_steps=1, precision="fp64", devices=world, strategy=strategy)
    steps = Steps([Step(0, micro_batches, examples=1, units=1)])
    build_trainer(settings, [], [], tmp_path).fit(module, steps)
    return {
        name: (before[name] - parameter.detach()).numpy()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def assert_same_gradient(first, second, tolerance=1e-9):
    """Compare two gradients by name, and make sure that they are not all zero."""
    assert first.keys() == second.keys() and first
    for name in first:
        assert abs(first[name] - second[name]).max() < tolerance, name
    assert max(abs(value).max() for value in first.values()) > 1e-4


def doubled(batch):
    """Turn a batch's floats into float64."""
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in batch.items()
    }
