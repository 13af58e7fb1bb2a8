"""What is measured of an objective without a formula: a real step's operations, in however many micro-batches."""

import copy
import types

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretraining.cli.configuration import complete, compose
from pretraining.cost import measured_flops, row_flops, step_flops
from pretraining.data.loader import collated
from pretraining.engine.batch import Step
from pretraining.engine.trainer import TrainerSettings
from pretraining.launch import build
from pretraining.random import Keys
from tests.one_step import gradient_of

WITHIN = 0.02
OBJECTIVES = [
    ("simclr", "resnet_tiny"),
    ("simclr", "vit_digits"),
    ("supervised", "resnet_tiny"),
    ("denoising_image", "resnet_tiny"),
    ("denoising_image_mae", "vit_digits"),
    ("byol", "resnet_tiny"),
    ("dino", "resnet_tiny"),
    ("i_jepa", "vit_digits"),
]


def parts_of(name, backbone, batch_size, *overrides):
    options = [
        f"objective={name}",
        f"backbone={backbone}",
        f"data.batch_size={batch_size}",
        "logger.wandb.mode=disabled",
    ]
    return build(complete(compose([*options, *overrides])))


def settings(accumulate=1):
    return TrainerSettings(max_steps=1, accumulate=accumulate)


def counted(parts, accumulate, directory):
    """Let torch count a real optimizer step, from views to weights, per image."""
    module, size = copy.deepcopy(parts.objective), parts.data.batch_size // accumulate
    micro_batches = []
    for first in range(0, parts.data.batch_size, size):
        rows = np.arange(first, first + size)
        keys = Keys(1, "train", np.zeros_like(rows), rows)
        micro_batches.append(module.finished(collated(parts.collate, parts.train.read(0, rows), keys)))
    module.on_device = lambda batch: doubled(batch)  # views are no part of what is counted: they are made already
    with FlopCounterMode(display=False) as counter:
        gradient_of(module, micro_batches, directory)
    return counter.get_total_flops() / parts.data.batch_size


def doubled(value):
    if isinstance(value, dict):
        return {name: doubled(part) for name, part in value.items()}
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("name", "backbone"), OBJECTIVES)
def test_a_row_costs_what_torch_counts_of_a_real_step(name, backbone, accumulate, tmp_path):
    parts = parts_of(name, backbone, 32)
    assert parts.row == (1.0, None)
    assert row_flops(parts, settings(accumulate)) == pytest.approx(counted(parts, accumulate, tmp_path), rel=WITHIN)


def test_representing_micro_batches_twice_is_one_more_pass_of_the_network():
    """A forward and a backward pass are three, cached representations make them four; comparisons hardly count here."""
    parts = parts_of("simclr", "vit_digits", 32)
    once, twice = (measured_flops(parts, 8, micro_batches) for micro_batches in (1, 2))
    assert twice / once == pytest.approx(4 / 3, rel=WITHIN)
    alone = parts_of("supervised", "vit_digits", 32)
    assert measured_flops(alone, 8, 2) == measured_flops(alone, 8, 1), "other objectives take three passes at any split"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_comparisons_are_those_of_the_batch_that_the_run_has(accumulate, tmp_path):
    """A narrow network and wide projections: comparisons with the other images are most of what a step computes."""
    wide = ["backbone.width=4", "objective.projector.output=2048", "objective.projector.layers=1"]
    sizes = {size: parts_of("simclr", "resnet_tiny", size, *wide) for size in (32, 128)}
    few, many = (row_flops(parts, settings(accumulate)) for parts in sizes.values())
    # Each of 2 views meets 96 more images' 2 views in 2048 dimensions, 2 operations each: once forward, twice backward.
    assert many - few == pytest.approx(3 * 2 * 96 * 2 * 2048 * 2)
    for parts in sizes.values():
        assert row_flops(parts, settings(accumulate)) == pytest.approx(counted(parts, accumulate, tmp_path), rel=WITHIN)
    assert many > 2 * few


def test_a_measured_objective_is_left_as_it_was():
    parts = parts_of("simclr", "resnet_tiny", 32)
    before = {name: value.clone() for name, value in parts.objective.state_dict().items()}
    torch.manual_seed(5)
    row_flops(parts, settings(2))
    drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert all(torch.equal(before[name], value) for name, value in parts.objective.state_dict().items())
    assert all(parameter.grad is None and parameter.device.type == "cpu" for parameter in parts.objective.parameters())
    assert parts.objective.meter.sums == {}


def test_a_step_costs_its_units():
    parts = parts_of("supervised", "resnet_tiny", 32)
    cost = step_flops(parts, settings())
    assert cost(Step(0, [], examples=32, units=32)) == pytest.approx(32 * row_flops(parts, settings()))


def test_an_objective_whose_work_depends_on_its_data_is_measured_on_the_rows():
    parts = parts_of("supervised", "resnet_tiny", 32)

    def halved(self, batch):
        kept = batch["labels"] < batch["labels"].median()  # how many these are, shapes do not say
        inputs = {"images": batch["inputs"]["images"][kept]}
        return type(self).loss(self, {**batch, "inputs": inputs, "labels": batch["labels"][kept]})

    whole = measured_flops(parts, 16, 1)
    parts.objective.loss = types.MethodType(halved, parts.objective)
    assert 0.2 * whole < measured_flops(parts, 16, 1) < 0.8 * whole
