"""A step of any joint-embedding objective is the same however it is cut into ranks and micro-batches: its loss, its
gradient, and the state that it leaves (statistics, teacher, queue, centre).
"""

import numpy as np
import pytest
import torch
from torch import nn

from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.engine.batch import Step, StepSettings
from pretraining.engine.trainer import TrainerSettings, build_trainer
from tests.objectives.image.joint_small import BATCH, CASES, CELLS, PATCHES_ALONE, batch_of, built, split
from tests.one_step import Steps
from tests.ranks import in_ranks

STEPS = 2
CUTS = {  # rows of each micro-batch, of each of two ranks
    "whole": [[range(4)], [range(4, 8)]],
    "in_two": [[[0, 1], [4, 5]], [[2, 3], [6, 7]]],
}
RUNS = [(*cell, "whole") for cell in CELLS] + [(name, "vit", "in_two") for name in CASES]


def taken(module, steps, directory, *, rank=0, world=1, sync=False):
    """Take steps of plain SGD; returns the mean loss, the weights' movement and the state, by name."""
    module = (convert_batchnorm(module) if sync else module).double()
    for parameter in module.parameters():  # a whole rate of 1 would be felt in the second step
        parameter.register_hook(lambda gradient: gradient * 0.02) if parameter.requires_grad else None
    module.settings = StepSettings(seed=5, max_steps=len(steps))
    settings = TrainerSettings(
        max_steps=len(steps), precision="fp64", devices=world, strategy="single" if world == 1 else "ddp"
    )
    served = Steps([Step(number, batches, examples=1, units=1) for number, batches in enumerate(steps)])
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    build_trainer(settings, [], [], directory).fit(module, served)
    loss = module.meter.read("train")
    moved = {name: (parameter.detach() - before[name]).numpy() for name, parameter in module.named_parameters()}
    return loss, moved, {name: value.numpy() for name, value in module.state_dict().items()}


def taken_by_rank(rank, world, directory, runs):
    found = {}
    for name, kind, cut in runs:
        steps = [[batch_of(rows, seed) for rows in CUTS[cut][rank]] for seed in range(STEPS)]
        found[name, kind, cut] = taken(built(name, kind), steps, directory, rank=rank, world=world, sync=True)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Take the steps in one process, in one piece."""
    directory = tmp_path_factory.mktemp("alone")
    whole = [split(1, seed) for seed in range(STEPS)]
    return {(name, kind): taken(built(name, kind), whole, directory) for name, kind in CELLS}


@pytest.fixture(scope="module")
def in_two_ranks(tmp_path_factory):
    return in_ranks(taken_by_rank, 2, tmp_path_factory.mktemp("ranks"), RUNS)


def assert_same_step(first, second, tolerance=1e-8):
    assert first[0].keys() == second[0].keys() and first[0]
    for name, value in first[0].items():
        assert value == pytest.approx(second[0][name], rel=tolerance, abs=tolerance), name
    for ours, theirs in zip(first[1:], second[1:], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            size = 1.0 + abs(theirs[name]).max(initial=0.0)
            assert abs(ours[name] - theirs[name]).max(initial=0.0) < tolerance * size, name
    assert max(abs(value).max(initial=0.0) for value in first[1].values()) > 1e-6


@pytest.mark.parametrize(("name", "kind", "cut"), RUNS)
def test_two_ranks_are_one_process(alone, in_two_ranks, name, kind, cut):
    for found in in_two_ranks:
        assert_same_step(found[name, kind, cut], alone[name, kind])


@pytest.mark.parametrize("name", CASES)
def test_four_micro_batches_are_one(alone, tmp_path, name):
    """Without batch statistics, which are a micro-batch's."""
    cut = taken(built(name), [split(4, seed) for seed in range(STEPS)], tmp_path)
    assert_same_step(cut, alone[name, "vit"])


FULL = [(name, kind) for name in CASES if name not in ("simclr", "moco_v2_symmetric")
        for kind in ("resnet18", "vit_tiny") if kind == "vit_tiny" or name not in PATCHES_ALONE]  # fmt: skip


def sketched(found):
    """Shrink what a step of millions of weights leaves: of each tensor its norm and two random projections."""
    loss, *parts = found
    draws = np.random.default_rng(3)
    sketches = [{name: (np.linalg.norm(value), [float(draws.standard_normal(value.size) @ value.ravel().astype(float))
                 for _ in range(2)]) for name, value in sorted(part.items())} for part in parts]  # fmt: skip
    return loss, sketches


def sketched_by_rank(rank, world, directory, cells):
    steps = [[batch_of(CUTS["whole"][rank][0])]]
    return {cell: sketched(taken(built(*cell), steps, directory, rank=rank, world=world, sync=True)) for cell in cells}


@pytest.mark.slow
def test_two_ranks_are_one_process_on_whole_networks(tmp_path):
    """ResNet-18 and ViT-Ti, with every objective: loss, gradient, buffers, queue, centre, teacher."""
    in_two = in_ranks(sketched_by_rank, 2, tmp_path, FULL, timeout=900)
    for cell in FULL:
        loss, parts = sketched(taken(built(*cell), [split(1)], tmp_path))
        assert max(norm for norm, _ in parts[0].values()) > 1e-6
        for found_loss, found in (answer[cell] for answer in in_two):
            assert found_loss == pytest.approx(loss, rel=1e-9, abs=1e-9), cell
            for ours, theirs in zip(parts, found, strict=True):
                assert ours.keys() == theirs.keys()
                for name, (norm, projections) in ours.items():
                    assert theirs[name][1] == pytest.approx(projections, abs=1e-8 * (1 + norm)), (cell, name)


@pytest.mark.parametrize("name", CASES)
def test_what_a_step_leaves_behind_is_not_what_it_found(alone, name):
    """What the tests above are worth: weights, statistics, teacher, queue and centre all move."""
    for kind in [kind for cell, kind in CELLS if cell == name]:
        before, after = built(name, kind).state_dict(), alone[name, kind][2]
        still = {key for key, value in before.items() if np.array_equal(after[key], value.double().numpy())}
        # A bias before a norm has no gradient, and the mean after one is zero.
        assert not {key for key in still if not key.endswith(("bias", "predictor.1.running_mean"))}, still


def test_a_loss_of_each_rank_s_own_images_would_be_another(alone, tmp_path):
    """What equality is worth: VICReg's moments of four images are not those of eight."""
    module = built("vicreg")
    module.gathered = lambda representations: representations[:4]
    with pytest.raises(AssertionError):
        assert_same_step(taken(module, [split(1, seed) for seed in range(STEPS)], tmp_path), alone["vicreg", "vit"])


def test_batch_norms_see_each_view_size_once_a_step():
    for name, passes in (("byol", 1), ("dino", 2)):
        module = built(name, "resnet")
        module.loss(module.on_device(batch_of(range(BATCH))))
        norms = [part for part in module.backbone.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert norms and {int(norm.num_batches_tracked) for norm in norms} == {passes}, name
        assert {int(norm.num_batches_tracked) for norm in module.teacher.modules() if hasattr(norm, "running_var")} == {
            1
        }


def test_batch_statistics_tell_of_other_images():
    """MoCo's reason to shuffle keys, which is left out here: an image's key depends on those that it is with."""
    module = built("moco_v2", "resnet")
    prepared = module.on_device(batch_of(range(BATCH)))["inputs"]["images"]
    with torch.no_grad():
        together, alone = module.targets(prepared)[:2], module.targets(prepared[:2])
    assert not torch.allclose(together, alone, atol=1e-3)
