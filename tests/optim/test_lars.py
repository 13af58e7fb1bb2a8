"""LARS: both published forms against step-by-step references, the exclusions, vanishing norms, and resumption."""

import math

import pytest
import torch
from torch import nn

from pretraining.optim.lars import LARS
from pretraining.optim.optimizers import split_by_decay
from tests.ranks import in_ranks, start_group

STEPS = 100
SHAPES = {"filter": (4, 3, 3, 3), "matrix": (7, 5), "bias": (7,), "norm": (4,), "zero": (3, 2)}


def settings(**changes):
    values = {"peak_lr": 0.3, "warmup_steps": 10, "schedule": "cosine", "final_fraction": 0.0, "weight_decay": 1e-2}
    return LARS(**(values | {"momentum": 0.9, "nesterov": False, "trust": 0.02, "form": "rate_inside"} | changes))


def parameters():
    torch.manual_seed(0)
    made = {name: nn.Parameter(torch.randn(shape, dtype=torch.float64)) for name, shape in SHAPES.items()}
    made["zero"].data.zero_()  # a weight without length: no ratio can be told
    return made


def gradient(step, name):
    generator = torch.Generator().manual_seed(step * 100 + list(SHAPES).index(name))
    drawn = torch.randn(SHAPES[name], dtype=torch.float64, generator=generator)
    return drawn * 0 if (step, name) in ((3, "matrix"), (0, "zero")) else drawn


def learnt(optimizer, steps=STEPS, weights=None, made=None, first=0):
    weights = weights or parameters()
    torch_optimizer, schedule = made or optimizer.build(split_by_decay(weights.items()), STEPS)
    for step in range(first, first + steps):
        for name, weight in weights.items():
            weight.grad = gradient(step, name)
        torch_optimizer.step()
        schedule.step()
    return {name: weight.detach() for name, weight in weights.items()}, (torch_optimizer, schedule)


def rate_at(step):
    if step < 10:
        return 0.3 * (step + 1) / 10
    return 0.15 * (1 + math.cos(math.pi * (step - 10) / 90))


def norm(values):
    return math.sqrt(sum(value * value for value in values))


def google(name, weights, moments, gradients, rate, *, nesterov):
    """Gradients with decay; ratio from their norm; the rate goes into the moment. Vectors are plain."""
    vector = len(SHAPES[name]) < 2
    decayed = [g + (0.0 if vector else 1e-2) * w for g, w in zip(gradients, weights, strict=True)]
    ratio = 1.0
    if not vector and norm(weights) > 0 and norm(decayed) > 0:
        ratio = 0.02 * norm(weights) / norm(decayed)
    moments = [0.9 * m + rate * ratio * d for m, d in zip(moments, decayed, strict=True)]
    moves = [0.9 * m + rate * ratio * d for m, d in zip(moments, decayed, strict=True)] if nesterov else moments
    return [w - move for w, move in zip(weights, moves, strict=True)], moments


def bolts(name, weights, moments, gradients, rate, *, nesterov, clip):
    """Ratio from the norms of gradient and weight, without decay where one is zero; rate last. Vectors are plain."""
    vector, scaled = len(SHAPES[name]) < 2, gradients
    if not vector and norm(weights) != 0 and norm(gradients) != 0:
        ratio = 0.02 * norm(weights) / (norm(gradients) + norm(weights) * 1e-2 + 1e-8)
        if clip:
            ratio = min(ratio / rate, 1.0)
        scaled = [ratio * (g + 1e-2 * w) for g, w in zip(gradients, weights, strict=True)]
    moments = [0.9 * m + s for m, s in zip(moments, scaled, strict=True)]
    moves = [s + 0.9 * m for m, s in zip(moments, scaled, strict=True)] if nesterov else moments
    return [w - rate * move for w, move in zip(weights, moves, strict=True)], moments


def slowly(form, **options):
    """Take all steps on lists of Python floats."""
    found = {}
    for name, start in parameters().items():
        weights, moments = start.flatten().tolist(), [0.0] * start.numel()
        for step in range(STEPS):
            weights, moments = form(
                name, weights, moments, gradient(step, name).flatten().tolist(), rate_at(step), **options
            )
        found[name] = torch.tensor(weights, dtype=torch.float64).view(SHAPES[name])
    return found


def assert_same(found, expected, tolerance=1e-12):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_hundred_steps_with_the_rate_inside_are_googles(nesterov):
    found, _ = learnt(settings(nesterov=nesterov))
    assert_same(found, slowly(google, nesterov=nesterov))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_hundred_steps_with_the_rate_outside_are_those_of_bolts_and_its_heirs(nesterov, clip):
    found, _ = learnt(settings(form="rate_outside", nesterov=nesterov, clip=clip))
    assert_same(found, slowly(bolts, nesterov=nesterov, clip=clip))


def test_the_forms_and_options_are_different_optimizers():
    changes = [
        {},
        {"nesterov": True},
        {"form": "rate_outside"},
        {"form": "rate_outside", "clip": True},
        {"trust": 0.01},
    ]
    changes += [{"momentum": 0.0}, {"decay_vectors": True}, {"adapt_vectors": True}]
    found = [torch.cat([value.flatten() for value in learnt(settings(**change))[0].values()]) for change in changes]
    for place, first in enumerate(found):
        assert all((first - second).abs().max() > 1e-3 for second in found[place + 1 :]), changes[place]


def test_lightlys_optimizer_agrees():
    lightly = pytest.importorskip("lightly.utils.lars", reason="lightly is not installed")
    weights = parameters()
    groups = [
        {"params": [weight for weight in weights.values() if weight.ndim > 1], "weight_decay": 1e-2},
        {"params": [weight for weight in weights.values() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    theirs = lightly.LARS(groups, lr=0.3, momentum=0.9, trust_coefficient=0.02)
    for step in range(STEPS):
        for group in theirs.param_groups:
            group["lr"] = rate_at(step)
        for name, weight in weights.items():
            weight.grad = gradient(step, name)
        theirs.step()
    found, _ = learnt(settings(form="rate_outside"))
    assert_same(found, {name: weight.detach() for name, weight in weights.items()})


@pytest.mark.parametrize("form", ["rate_inside", "rate_outside"])
def test_a_step_is_as_long_as_rate_and_trust_say(form):
    weight = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))
    before = weight.detach().clone()
    optimizer = settings(form=form, warmup_steps=0, schedule="constant", weight_decay=0.0, eps=0.0)
    made, _ = optimizer.build(split_by_decay([("weight", weight)]), 10)
    weight.grad = torch.randn(5, 4, dtype=torch.float64) * 1e6
    made.step()
    assert abs((weight.detach() - before).norm() / before.norm() - 0.3 * 0.02) < 1e-12


def test_a_rate_of_zero_moves_nothing_and_gives_no_nan():
    for form, clip in (("rate_inside", False), ("rate_outside", True)):
        found, _ = learnt(settings(form=form, clip=clip, warmup_from=0.0), steps=1)
        assert_same(found, {name: weight.detach() for name, weight in parameters().items()}, tolerance=0.0)


@pytest.mark.parametrize("form", ["rate_inside", "rate_outside"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(form):
    whole, _ = learnt(settings(form=form))
    half, (made, schedule) = learnt(settings(form=form), steps=STEPS // 2)
    weights = {name: nn.Parameter(value.clone()) for name, value in half.items()}
    again = settings(form=form).build(split_by_decay(weights.items()), STEPS)
    again[0].load_state_dict(made.state_dict())
    again[1].load_state_dict(schedule.state_dict())
    resumed, _ = learnt(settings(form=form), steps=STEPS // 2, weights=weights, made=again, first=STEPS // 2)
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def sharded(rank, world, forms):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    start_group(rank, world)
    mesh, found = init_device_mesh("cpu", (world,)), []
    for form in forms:
        weights = {
            name: nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)]))
            for name, value in parameters().items()
        }
        optimizer, schedule = settings(form=form).build(split_by_decay(weights.items()), STEPS)
        for step in range(5):
            for name, weight in weights.items():
                weight.grad = distribute_tensor(gradient(step, name), mesh, [Shard(0)])
            optimizer.step()
            schedule.step()
        found.append({name: weight.detach().full_tensor().numpy() for name, weight in weights.items()})
    return found


def test_sharded_weights_have_the_ratio_of_the_whole():
    forms = ["rate_inside", "rate_outside"]
    expected = [learnt(settings(form=form), steps=5)[0] for form in forms]
    for found in in_ranks(sharded, 2, forms):
        for of_form, whole in zip(found, expected, strict=True):
            assert_same({name: torch.from_numpy(value) for name, value in of_form.items()}, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", ["rate_inside", "rate_outside"])
def test_a_gpu_takes_the_same_steps_without_the_host_waiting(form):
    weights = {name: nn.Parameter(weight.detach().cuda()) for name, weight in parameters().items()}
    optimizer, schedule = settings(form=form).build(split_by_decay(weights.items()), STEPS)
    for step in range(3):
        for name, weight in weights.items():
            weight.grad = gradient(step, name).cuda()
        torch.cuda.set_sync_debug_mode("error")
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
        schedule.step()
    assert_same(
        {name: weight.detach().cpu() for name, weight in weights.items()}, learnt(settings(form=form), steps=3)[0]
    )


def test_impossible_settings_are_refused_with_what_to_choose():
    for changes, message in (
        ({"form": "classic"}, "choose rate_inside or rate_outside"),
        ({"clip": True}, "optimizer.clip belongs to optimizer.form=rate_outside"),
        ({"trust": 0.0}, "optimizer.trust=0.0: give a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            settings(**changes)
