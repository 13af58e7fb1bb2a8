"""A teacher is the average that its formula says, however a step is cut into micro-batches and ranks; also resumed."""

import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from pretraining import TrainerSettings, fit
from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.engine.batch import Loss, Step, StepSettings, Term
from pretraining.engine.step import StepModule
from pretraining.engine.trainer import build_trainer
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.builtin import Digits
from pretraining.image.preprocess import ImagePreprocess
from pretraining.objectives.base import Objective
from pretraining.objectives.teacher import Teacher
from pretraining.optim.optimizers import SGD
from pretraining.optim.schedules import Schedule, ramp_at
from tests.ranks import in_ranks
from tests.runs import assert_equal

SGD_NUMBERS = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "weight_decay": 0.0}
STEPS, EXAMPLES = 4, 8


def sgd():
    return SGD(peak_lr=0.1, momentum=0.0, nesterov=False, **SGD_NUMBERS)


class Taught(StepModule):
    """Predicts what its teacher makes of the same inputs, plus one."""

    def __init__(self, *, normed=False, **options):
        super().__init__(optimizer=sgd())
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(5) if normed else nn.Tanh()
        self.network, self.predictor = nn.Sequential(nn.Linear(3, 5), norm, nn.Linear(5, 2)), nn.Linear(2, 2)
        self.teacher = Teacher(self, ("network",), **{"momentum": 0.5} | options)

    def loss(self, batch):
        goal = self.teacher.network(batch["inputs"]) + 1.0
        assert not goal.requires_grad
        error = (self.predictor(self.network(batch["inputs"])) - goal).square().sum()
        return Loss({"error": Term(error, self.counts(batch)["error"])})

    def counts(self, batch):
        return {"error": torch.tensor(len(batch["inputs"]))}

    def after_step(self, number):
        self.teacher.update(self, number, self.settings.max_steps)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, EXAMPLES, 3, generator=generator, dtype=torch.float64) * 3 + 1


class Steps(list):
    """A loader of given steps."""


def taught(tmp_path, *, accumulate=1, rank=0, world=1, **options):
    """Train; returns the state, and the objective's in training mode."""
    module = convert_batchnorm(Taught(**options)).double()
    module.settings = StepSettings(max_steps=STEPS)
    shares = [step.chunk(world)[rank].chunk(accumulate) for step in inputs()]
    steps = [Step(n, [{"inputs": part} for part in share], EXAMPLES, EXAMPLES) for n, share in enumerate(shares)]
    settings = TrainerSettings(
        max_steps=STEPS, precision="fp64", devices=world, strategy="ddp" if world > 1 else "single"
    )
    build_trainer(settings, [], [], tmp_path).fit(module, Steps(steps))
    return {name: value.numpy() for name, value in module.state_dict().items()}


def assert_close(first, second):
    assert first.keys() == second.keys() and any(name.startswith("teacher.") for name in first)
    for name in first:
        assert np.allclose(first[name], second[name], rtol=0, atol=1e-12), name


def test_the_momentum_rises_on_half_a_cosine():
    assert ramp_at(0, 100, first=0.9, last=1.0) == pytest.approx(0.9)
    assert ramp_at(50, 100, first=0.9, last=1.0) == pytest.approx(0.95)
    assert ramp_at(100, 100, first=0.9, last=1.0) == ramp_at(101, 100, first=0.9, last=1.0) == 1.0
    assert ramp_at(25, 100, first=0.996, last=1.0) == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2)
    assert ramp_at(7, 100, first=0.9, last=0.9) == pytest.approx(0.9)


class Falling(Taught):
    """Its gradient is the same at each step: the mean input."""

    def __init__(self):
        super().__init__(momentum=0.6, last_momentum=0.9)
        self.network = nn.Linear(3, 1, bias=False)
        self.teacher = Teacher(self, ("network",), momentum=0.6, last_momentum=0.9)

    def loss(self, batch):
        return Loss({"error": Term(self.network(batch["inputs"]).sum(), self.counts(batch)["error"])})


def test_after_some_steps_of_sgd_it_is_the_weighted_sum_of_all_weights_so_far(tmp_path):
    module = Falling().double()
    first = module.network.weight.detach().clone()
    module.settings = StepSettings(max_steps=STEPS)
    same = [{"inputs": inputs()[0]}]
    settings = TrainerSettings(max_steps=STEPS, precision="fp64")
    steps = Steps([Step(n, same, EXAMPLES, EXAMPLES) for n in range(STEPS)])
    build_trainer(settings, [], [], tmp_path).fit(module, steps)
    path = [first - 0.1 * n * inputs()[0].mean(0) for n in range(STEPS + 1)]
    assert torch.allclose(module.network.weight, path[-1], atol=1e-12)
    momenta = [0.9 - 0.3 * (1 + math.cos(math.pi * n / STEPS)) / 2 for n in range(STEPS)]
    expected = math.prod(momenta) * path[0]
    for n, momentum in enumerate(momenta):
        expected = expected + math.prod(momenta[n + 1 :]) * (1 - momentum) * path[n + 1]
    assert torch.allclose(module.teacher.network.weight, expected, atol=1e-12)


def test_micro_batches_do_not_change_it(tmp_path):
    assert_close(taught(tmp_path, accumulate=1), taught(tmp_path, accumulate=4))


def rank_of_two(rank, world, directory, options):
    return taught(directory, rank=rank, world=world, **options)


@pytest.mark.parametrize("options", [{"buffers": "copied"}, {"buffers": "averaged", "mode": "train"}])
def test_two_ranks_have_the_teacher_of_one_process(tmp_path, options):
    options = {"normed": True, **options}
    first, second = in_ranks(rank_of_two, 2, tmp_path, options)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert_close(first, taught(tmp_path, **options))


def test_buffers_are_the_student_s_or_follow_it(tmp_path):
    copied = taught(tmp_path, normed=True)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert (
            np.array_equal(copied[f"teacher.network.1.{name}"], copied[f"network.1.{name}"])
            and copied[f"network.1.{name}"].any()
        )
    module = Taught(normed=True, buffers="averaged", momentum=0.75, last_momentum=0.75)
    module.network[1].running_mean.fill_(4.0), module.network[1].num_batches_tracked.fill_(9)
    module.after_step(0)
    assert module.teacher.network[1].running_mean.tolist() == [1.0] * 5
    assert module.teacher.network[1].num_batches_tracked == 9


def test_it_is_kept_in_evaluation_mode_or_goes_with_the_objective():
    kept, going = Taught(normed=True), Taught(normed=True, mode="train")
    for module in (kept, going):
        assert module.train().network.training
    assert not kept.teacher.training and not kept.teacher.network[1].training and going.teacher.network[1].training
    assert not going.eval().teacher.network[1].training


def test_nothing_of_it_is_trained_and_all_of_it_is_in_the_state():
    module = Taught(normed=True)
    trained = {name for group in module.parameter_groups() for name in group.names}
    assert trained and not [name for name in trained if name.startswith("teacher.")]
    parts = {name for name in module.state_dict() if name.startswith("network.")}
    assert {f"teacher.{name}" for name in parts} == {n for n in module.state_dict() if n.startswith("teacher.")}
    other = Taught(normed=True, momentum=0.1)
    module.teacher.network[0].weight.data.fill_(2.0)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.teacher.network[0].weight, torch.full((5, 3), 2.0))


def test_settings_that_make_no_average_are_refused():
    with pytest.raises(ValueError, match=r"must rise within 0 to 1, got 0\.9 to 0\.5"):
        Taught(last_momentum=0.5, momentum=0.9)
    with pytest.raises(ValueError, match="copied, averaged or own"):
        Taught(buffers="shared")
    with pytest.raises(ValueError, match="never moves buffers of its own"):
        Taught(buffers="own")
    with pytest.raises(ValueError, match="eval or train: copied, off"):
        Taught(mode="off")


class Mimic(Objective):
    """Features that are those of a slower self, of digits."""

    def __init__(self, **parts):
        super().__init__(**parts)
        self.predictor = nn.Linear(self.backbone.dim, self.backbone.dim)
        self.teacher = Teacher(self, ("backbone",), momentum=0.8)

    def loss(self, batch):
        images = batch["images"].to(self.dtype) / 255
        error = self.predictor(self.backbone(images).pooled) - self.teacher.backbone(images).pooled - 0.1
        return Loss({"error": Term(error.square().sum(), self.counts(batch)["error"])})

    def counts(self, batch):
        return {"error": torch.tensor(len(batch["images"]))}

    def after_step(self, number):
        self.teacher.update(self, number, self.settings.max_steps)


def pretrained(path, cache_dir, resume):
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", stem="cifar", layers=[1, 1, 1, 1], width=4, in_channels=1)
    data = Digits(batch_size=16, eval_batch_size=256, workers=0, cache_dir=str(cache_dir))
    collate = StackImages(preprocess=ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25]).fit(data))
    settings = TrainerSettings(max_steps=6, checkpoint_every=3, log_every=3, precision="fp32")
    return fit(Mimic(backbone=backbone, optimizer=sgd()), data, collate, run_dir=path, trainer=settings, resume=resume)


def test_a_resumed_run_has_the_teacher_of_an_uninterrupted_one(tmp_path, cache_dir):
    whole = pretrained(tmp_path / "whole", cache_dir, "none")
    shutil.copytree(whole, tmp_path / "cut")
    for path in [*tmp_path.glob("cut/checkpoints/step-0000006.*"), tmp_path / "cut" / "metrics.json"]:
        path.unlink()
    shutil.rmtree(tmp_path / "cut" / "handoff")
    cut = pretrained(tmp_path / "cut", cache_dir, "auto")
    ends = [
        torch.load(path / "checkpoints" / "step-0000006.ckpt", weights_only=True)["state_dict"] for path in (whole, cut)
    ]
    assert_equal(*ends, "state_dict")
    half = torch.load(whole / "checkpoints" / "step-0000003.ckpt", weights_only=True)["state_dict"]
    moved = [name for name in half if name.startswith("teacher.") and not torch.equal(half[name], ends[0][name])]
    assert "teacher.backbone.model.layer1.0.conv1.weight" in moved, sorted(half)


# -- statistics of its own ---------------------------------------------------------------------------------------------


def test_its_own_statistics_are_those_of_its_own_passes():
    """The recursion of momentum 0.1 over what the teacher itself saw, not the student's and not the first values."""
    module = Taught(normed=True, buffers="own", mode="train").double()
    module.settings = StepSettings(max_steps=STEPS)
    norm, expected = module.teacher.network[1], torch.zeros(5, dtype=torch.float64)
    for number, batch in enumerate(inputs()):
        seen = module.teacher.network[0](batch).mean(0).detach()
        expected = 0.9 * expected + 0.1 * seen
        module.loss({"inputs": batch})
        with torch.no_grad():
            module.network[0].weight.mul_(1.5)
        module.after_step(number)
        assert torch.allclose(norm.running_mean, expected, atol=1e-12)
    assert not torch.allclose(norm.running_mean, module.network[1].running_mean, atol=1e-3)


def test_it_shares_no_memory_with_the_student_and_takes_no_gradient():
    module = Taught(normed=True)
    students = {part.data_ptr() for part in module.network.parameters()}
    for part in module.teacher.parameters():
        assert part.data_ptr() not in students and not part.requires_grad


def test_it_has_no_dropout_in_training_either():
    from torchvision.ops import StochasticDepth

    class Dropping(Taught):
        def __init__(self):
            super().__init__()
            attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)
            self.network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), StochasticDepth(0.5, "row"), attention)
            self.teacher = Teacher(self, ("network",), momentum=0.5, mode="train")

    module, given = Dropping().train(), torch.randn(6, 5, 3)
    assert module.teacher.network[1].training
    assert torch.equal(module.teacher.network(given), module.teacher.network(given))
    assert not torch.equal(module.network(given), module.network(given)), "the student keeps its own"


def test_a_schedule_of_another_shape_can_be_its_momentum():
    rise = Schedule(first=0.5, last=1.0, shape="linear", steps=8)
    module = Taught(momentum=rise)
    module.settings = StepSettings(max_steps=4)
    before = module.teacher.network[0].weight.clone()
    with torch.no_grad():
        module.network[0].weight.add_(1.0)
    module.after_step(2)  # 0.5 + 0.5 * 2 / 8
    assert torch.allclose(module.teacher.network[0].weight, before + 0.375, atol=1e-6)
    with pytest.raises(ValueError, match=r"cosine, linear or exponential, over .* steps: got shape=square"):
        Schedule(first=0.5, last=1.0, shape="square")
