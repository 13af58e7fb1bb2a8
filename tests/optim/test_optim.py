"""Schedules: their values at named steps, in the published forms of warm-up; which parameters decay."""

import math
import re

import pytest
import torch
from torch import nn

from pretraining.cli.configuration import CONF, compose, instantiate
from pretraining.engine.batch import Loss, Step, StepSettings, Term
from pretraining.engine.step import StepModule
from pretraining.engine.trainer import TrainerSettings, build_trainer
from pretraining.errors import RunError
from pretraining.optim.optimizers import SGD, clip_by_norm, scale_at, split_by_decay
from tests.one_step import Steps
from tests.ranks import in_ranks, start_group

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))


def rates(steps, **changes):
    values = {"peak_lr": 2.0, "warmup_steps": 4, "schedule": "cosine", "final_fraction": 0.0, "weight_decay": 0.1}
    optimizer = SGD(**(values | {"momentum": 0.0, "nesterov": False} | changes))
    made, schedule = optimizer.build(split_by_decay([("weight", nn.Parameter(torch.ones(2, 2)))]), steps)
    found = []
    for _ in range(steps):
        found.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    return found


def test_warm_up_starts_with_one_steps_share_or_with_a_given_one():
    assert rates(8)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(8, warmup_from=0.0)[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates(8, warmup_from=0.2)[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])


def test_a_rate_that_holds_changes_once_per_epoch():
    by_epoch = [2.0 * 0.5 * (1 + math.cos(math.pi * epoch / 3)) for epoch in range(3)]
    assert rates(12, warmup_steps=0, hold_steps=4) == pytest.approx([rate for rate in by_epoch for _ in range(4)])


def test_a_warm_up_is_a_share_of_the_run_or_so_many_steps_of_it():
    """A tenth of 20 steps is 2; of 5 it is one; a stated number stands as long as the run has that many."""
    assert rates(20, warmup_steps=0.1)[:3] == [1.0, 2.0, 2.0]
    assert rates(5, warmup_steps=0.1)[:2] == [2.0, 2.0]
    assert rates(5, warmup_steps=0.0) == rates(5, warmup_steps=0)
    assert rates(4, warmup_steps=4, schedule="constant") == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("steps", [1, 2, 30, 49])
def test_a_warm_up_that_the_run_does_not_buy_is_cut_to_a_tenth_and_said(steps, capsys):
    """50 steps of 30 left the rate at 60 % of its peak; now the peak is reached, and the rate comes down again."""
    optimizer = instantiate(compose(["optimizer.warmup_steps=50", "optimizer.peak_lr=2.0"]).optimizer)
    kept = max(1, round(steps / 10))
    made, schedule = optimizer.build(split_by_decay([("weight", nn.Parameter(torch.ones(2, 2)))]), steps)
    found = []
    for _ in range(steps):
        found.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    assert max(found) == found[kept - 1] == 2.0 and found[-1] <= found[kept - 1]
    assert capsys.readouterr().err == "", "the step that a dry run times is no run"
    optimizer.announce(steps)
    assert capsys.readouterr().err == (
        f"optimizer.warmup_steps=50 is longer than the run of {steps} steps: warm-up takes {kept}, a tenth of them\n"
    )
    optimizer.announce(50)
    assert capsys.readouterr().err == "", "what fits is left as it was stated"


def test_a_schedule_is_described_by_its_peak_warm_up_and_end():
    optimizer = instantiate(compose(["optimizer.peak_lr=4e-3"]).optimizer)
    assert optimizer.describe(1500) == "peak rate 0.004 after 150 of 1,500 steps, then linear, at the end 0"
    flat = instantiate(compose(["optimizer.schedule=constant", "optimizer.warmup_steps=0"]).optimizer)
    assert flat.describe(20) == "peak rate 0.001 after 0 of 20 steps, then constant, at the end 0.001"
    long = instantiate(compose(["optimizer.schedule=cosine", "optimizer.final_fraction=0.1"]).optimizer)
    assert long.describe(300) == "peak rate 0.001 after 30 of 300 steps, then cosine, at the end 0.0001"


@pytest.mark.parametrize("value", ["1.5", "2.0", "-1", "-0.1", "true", "abc"])
def test_a_warm_up_is_a_whole_number_or_a_share(value):
    with pytest.raises(RunError, match=r"optimizer.warmup_steps=.*give a whole number of at least 0, or a share"):
        compose([f"optimizer.warmup_steps={value}"])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", 0.55), ("cosine", 0.55), ("constant", 1.0), ("inverse_sqrt", math.sqrt(10 / 56))],
)
def test_half_way_down_a_schedule_is_where_it_says(schedule, expected):
    options = {"schedule": schedule, "warmup_steps": 10, "max_steps": 100, "final_fraction": 0.1}
    assert scale_at(55, **options) == pytest.approx(expected)
    if schedule in ("linear", "cosine"):
        assert scale_at(100, **options) == scale_at(1000, **options) == pytest.approx(0.1)


def test_vectors_decay_only_where_asked_to():
    groups = split_by_decay(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).named_parameters())
    values = {
        "peak_lr": 1.0,
        "warmup_steps": 0,
        "schedule": "constant",
        "final_fraction": 0.0,
        "weight_decay": 0.1,
        "momentum": 0.0,
    }
    for decay_vectors, expected in ((False, [0.1, 0.0]), (True, [0.1, 0.1])):
        made, _ = SGD(**values, nesterov=False, decay_vectors=decay_vectors).build(groups, 1)
        assert [group["weight_decay"] for group in made.param_groups] == expected
        assert [[parameter.ndim for parameter in group["params"]] for group in made.param_groups] == [[2], [1, 1, 1]]


def test_impossible_schedules_are_refused():
    for changes, message in (
        ({"hold_steps": 0}, "hold_steps=0: give a whole number of at least 1"),
        ({"warmup_from": 1.5}, "warmup_from=1.5: give a number from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rates(1, **changes)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_conf_learns_to_shrink_a_square(name):
    optimizer = instantiate(compose([f"optimizer={name}", "optimizer.warmup_steps=0"]).optimizer)
    weight = nn.Parameter(torch.full((4, 4), 2.0))
    made, schedule = optimizer.build(split_by_decay([("weight", weight)]), 20)
    for _ in range(20):
        weight.grad = weight.detach().clone()
        made.step()
        schedule.step()
    assert weight.detach().abs().max() < 2.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_defaults_of_a_class_are_those_of_its_file(name):
    config = compose([f"optimizer={name}"]).optimizer
    built = instantiate(config)
    fields = type(built).__dataclass_fields__
    assert {key for key in config if key != "_target_"} == set(fields)
    for key, value in fields.items():
        if not isinstance(value.default, type(fields["peak_lr"].default)):
            assert value.default == config[key], key


def test_three_stages_are_a_rise_a_plateau_and_an_exponential_fall():
    """fairseq's tri_stage with phases of 0.2, 0.3 and 0.5 over 20 steps, written out: from 0.01, down to 0.05."""
    found = rates(20, schedule="tri_stage", warmup_steps=0.2, warmup_from=0.01, plateau=0.3, final_fraction=0.05)
    rise = [0.01 + 0.99 * step / 4 for step in range(4)]
    fall = [math.exp(math.log(0.05) / 10 * step) for step in range(10)]
    assert found == pytest.approx([2.0 * scale for scale in [*rise, *[1.0] * 6, *fall]])
    assert scale_at(
        20, schedule="tri_stage", warmup_steps=4, max_steps=20, final_fraction=0.05, plateau=0.3
    ) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schedule": "tri_stage"}, "schedule=tri_stage and optimizer.final_fraction=0.0: give a share above 0"),
        ({"plateau": 0.4}, "plateau=0.4 and optimizer.schedule=cosine: set optimizer.schedule=tri_stage"),
    ],
)
def test_stages_that_cannot_be_are_said(changes, told):
    with pytest.raises(RunError, match=told):
        rates(8, **changes)


class Still(StepModule):
    """A matrix and a vector whose loss is `pull` times their sums: at 0 only decay moves them."""

    def __init__(self, pull=0.0, **changes):
        shape = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "momentum": 0.0, "nesterov": False}
        super().__init__(optimizer=SGD(**({"peak_lr": 1.0, "weight_decay": 0.04} | shape | changes)))
        self.matrix, self.vector, self.pull = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3)), pull

    def loss(self, batch):
        total = self.pull * (self.matrix.sum() + 2.0 * self.vector.sum())
        return Loss({"sum": Term(total, torch.tensor(1))})

    def counts(self, batch):
        return {"sum": torch.tensor(1)}


def moved(module, steps, directory, **settings):
    module.double().settings = StepSettings(max_steps=steps, **settings)
    served = Steps([Step(number, [{}], examples=1, units=1) for number in range(steps)])
    build_trainer(TrainerSettings(max_steps=steps, precision="fp64"), [], [], directory).fit(module, served)
    return module


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            {"sum": torch.tensor(2)},
            "Still.counts says 2 of the term 'sum', and loss counts 1: the gradient would be off",
        ),
        ({"all": torch.tensor(1)}, "Still.loss returns the term 'sum', of which counts() says nothing: it has all"),
    ],
)
def test_counts_that_are_not_those_of_the_loss_are_refused(counts, said, tmp_path, monkeypatch):
    """They divide the gradient: twice as many would halve it without a word."""
    monkeypatch.setattr(Still, "counts", lambda self, batch: counts)
    with pytest.raises(RunError, match=re.escape(said)):
        moved(Still(), 1, tmp_path)


@pytest.mark.parametrize("vectors", [False, True])
def test_weight_decay_moves_on_half_a_cosine_and_spares_what_does_not_decay(vectors, tmp_path):
    """DINO's cos(0.04 -> 0.4): step k of K multiplies weights by 1 - rate * its decay; here at a gradient of zero."""
    module = moved(Still(last_weight_decay=0.4, decay_vectors=vectors), 8, tmp_path)
    expected = 1.0
    for step in range(8):
        expected *= 1 - (0.4 - 0.36 * (1 + math.cos(math.pi * step / 8)) / 2)
    assert module.matrix.flatten().tolist() == pytest.approx([expected] * 6, rel=1e-12)
    assert module.vector.tolist() == pytest.approx([expected if vectors else 1.0] * 3, rel=1e-12)
    assert moved(Still(), 8, tmp_path).matrix[0, 0].item() == pytest.approx(0.96**8)


def test_a_gradient_is_clipped_as_a_whole_or_tensor_by_tensor(tmp_path):
    """Norms are root 6 of the matrix's and 2 * root 3 of the vector's: 3.0 leaves the first alone, by itself."""
    whole = {"matrix": 3 / math.sqrt(18), "vector": 2 * 3 / math.sqrt(18)}
    for each, expected in ((False, whole), (True, {"matrix": 1.0, "vector": 3 / math.sqrt(3)})):
        module = moved(Still(1.0, weight_decay=0.0), 1, tmp_path, clip_norm=3.0, clip_each=each)
        for name, size in expected.items():
            assert (1 - getattr(module, name)).flatten().tolist() == pytest.approx(
                [size] * getattr(module, name).numel(), rel=1e-6
            )
        assert float(module.gradient_norm) == pytest.approx(math.sqrt(18))


def test_no_limit_leaves_gradients_alone():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([30.0, 40.0])
    assert clip_by_norm([weight], None, each=True) == 50.0 and weight.grad.tolist() == [30.0, 40.0]


def clipped_shards(rank, world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    start_group(rank, world)
    mesh = init_device_mesh("cpu", (world,))
    weights = [nn.Parameter(distribute_tensor(torch.zeros(4, 2), mesh, [Shard(0)])) for _ in range(2)]
    for weight, size in zip(weights, (1.0, 10.0), strict=True):
        weight.grad = distribute_tensor(size * torch.arange(8.0).view(4, 2), mesh, [Shard(0)])
    norm = clip_by_norm(weights, 20.0, each=True)
    return float(norm), [weight.grad.full_tensor().numpy() for weight in weights]


def test_a_tensor_that_is_shared_out_over_ranks_is_clipped_by_its_whole_norm():
    """Squares of 0 to 7 add up to 140: norms of 11.8 and 118, of which only the second is above 20."""
    for norm, (first, second) in in_ranks(clipped_shards, 2):
        assert norm == pytest.approx(math.sqrt(101 * 140))
        assert first.flatten().tolist() == pytest.approx(list(range(8)))
        assert second.flatten().tolist() == pytest.approx([20 / math.sqrt(140) * n for n in range(8)], rel=1e-5)
