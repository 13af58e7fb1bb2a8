"""A gradient that is no number stops a run, or is left out, a bounded number of times; its batch is kept."""

import json

import pytest
import torch

from pretraining.engine.batch import Step, StepSettings
from pretraining.engine.nonfinite import Guard
from pretraining.engine.step import StepModule
from pretraining.errors import NonFiniteError
from tests.runs import assert_equal, finish, text_overrides, write_corpus


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    return text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir)


@pytest.fixture
def spoil(monkeypatch):
    """Make the gradients of some steps infinite, in this process and those forked from it."""
    whole = StepModule.backward_step

    def at(*steps):
        def backward_step(module, batches, counts):
            whole(module, batches, counts)
            if module.global_step in steps:
                next(module.parameters()).grad.fill_(float("inf"))

        monkeypatch.setattr(StepModule, "backward_step", backward_step)

    return at


@pytest.fixture(params=[None, True], ids=["read at once", "read a step later"])
def deferred(request, monkeypatch):
    """The second way is that of GPUs: the optimizer leaves the step out by a flag that the host reads later."""
    monkeypatch.setattr(Guard, "deferred", request.param)


def test_a_run_stops_at_the_step_and_keeps_its_batch(overrides, spoil, deferred, tmp_path, capfd):
    spoil(7)
    path = tmp_path / "run"
    assert finish([*overrides, f"run_dir={path}", "trainer.accumulate=2"]) == 3
    said = capfd.readouterr().err
    assert (
        "the gradient of step 7 is not finite; examples (epoch, row) of rank 0: (0," in said
        and "trainer.on_nonfinite=skip" in said
    )
    saved = torch.load(path / "nonfinite-step-0000007.pt", weights_only=True)
    assert saved["step"] == 7 and saved["examples"].shape == (8, 2) and len(saved["micro_batches"]) == 2
    assert saved["micro_batches"][0]["inputs"]["input_ids"].dim() == 2
    assert not (path / "metrics.json").exists() and (path / "checkpoints" / "step-0000005.json").exists()


def test_a_stopped_run_can_be_resumed(overrides, spoil, tmp_path):
    path = tmp_path / "run"
    spoil(7)
    assert finish([*overrides, f"run_dir={path}"]) == 3
    spoil()
    assert finish([*overrides, f"run_dir={path}", "resume=auto"]) == 0


def test_single_steps_can_be_left_out(overrides, spoil, deferred, tmp_path):
    spoil(7, 12)
    path = tmp_path / "run"
    assert finish([*overrides, f"run_dir={path}", "trainer.on_nonfinite=skip"]) == 0
    assert sorted(file.name for file in path.glob("nonfinite-*")) == [
        "nonfinite-step-0000007.pt",
        "nonfinite-step-0000012.pt",
    ]
    assert json.loads((path / "metrics.json").read_text())["steps"] == 20
    newest = max(path.glob("checkpoints/*.ckpt"))
    state = torch.load(newest, weights_only=True)
    assert state["skipped"] == 2
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_not_more_than_ten_steps_are_left_out(overrides, spoil, deferred, tmp_path, capfd):
    spoil(*range(20))
    assert finish([*overrides, f"run_dir={tmp_path / 'run'}", "trainer.on_nonfinite=skip"]) == 3
    assert "the gradient of step 10 is not finite (10 steps were skipped before)" in capfd.readouterr().err


def test_a_step_left_out_by_flag_ends_like_one_left_out_at_once(overrides, spoil, tmp_path, monkeypatch):
    """Weights, moments and the moments' step count: the flag undoes nothing, it lets nothing happen."""
    spoil(7, 10)  # step 10 is checkpointed before a later step could read its flag
    ends = []
    for name, deferred in (("at-once", False), ("by-flag", True)):
        monkeypatch.setattr(Guard, "deferred", deferred)
        assert finish([*overrides, f"run_dir={tmp_path / name}", "trainer.on_nonfinite=skip"]) == 0
        ends.append(torch.load(max((tmp_path / name).glob("checkpoints/*.ckpt")), weights_only=True))
    first, second = ends
    assert first["skipped"] == second["skipped"] == 2
    assert_equal(first["state_dict"], second["state_dict"], "weights")
    moments = [
        {number: {k: v for k, v in part.items()} for number, part in end["optimizer_states"][0]["state"].items()}
        for end in ends
    ]
    assert moments[0] and {float(part["step"]) for part in moments[0].values()} == {18.0}
    assert_equal(*moments, "moments")


def test_an_optimizer_that_cannot_leave_a_step_out_is_guarded_at_once():
    guard, weight = Guard(), torch.nn.Parameter(torch.ones(2))
    guard.deferred = True
    weight.grad = torch.full((2,), float("nan"))
    with pytest.raises(NonFiniteError, match="the gradient of step 3 is not finite"):
        guard.check(Step(3, [], 1, 1), weight.grad.norm(), torch.optim.SGD([weight], lr=0.1), [weight], StepSettings())
