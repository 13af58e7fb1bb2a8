"""A gradient that is no number stops a run, or is left out, a bounded number of times; its batch is kept."""

import json

import pytest
import torch

from pretraining.step import StepModule
from tests.runs import finish, text_overrides, write_corpus


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


def test_a_run_stops_at_the_step_and_keeps_its_batch(overrides, spoil, tmp_path, capfd):
    spoil(7)
    path = tmp_path / "run"
    assert finish([*overrides, f"run_dir={path}", "trainer.accumulate=2"]) == 3
    said = capfd.readouterr().err
    assert "the gradient of step 7 is not finite; examples (epoch, row) of rank 0: (0," in said and "trainer.on_nonfinite=skip" in said
    saved = torch.load(path / "nonfinite-step-0000007.pt", weights_only=True)
    assert saved["step"] == 7 and saved["examples"].shape == (8, 2) and len(saved["micro_batches"]) == 2
    assert saved["micro_batches"][0]["input_ids"].dim() == 2
    assert not (path / "metrics.json").exists() and (path / "checkpoints" / "step-0000005.json").exists()


def test_a_stopped_run_can_be_resumed(overrides, spoil, tmp_path):
    path = tmp_path / "run"
    spoil(7)
    assert finish([*overrides, f"run_dir={path}"]) == 3
    spoil()
    assert finish([*overrides, f"run_dir={path}", "resume=auto"]) == 0


def test_single_steps_can_be_left_out(overrides, spoil, tmp_path):
    spoil(7, 12)
    path = tmp_path / "run"
    assert finish([*overrides, f"run_dir={path}", "trainer.on_nonfinite=skip"]) == 0
    assert sorted(file.name for file in path.glob("nonfinite-*")) == ["nonfinite-step-0000007.pt", "nonfinite-step-0000012.pt"]
    assert json.loads((path / "metrics.json").read_text())["steps"] == 20
    newest = max(path.glob("checkpoints/*.ckpt"))
    state = torch.load(newest, weights_only=True)
    assert state["skipped"] == 2
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())


def test_not_more_than_ten_steps_are_left_out(overrides, spoil, tmp_path, capfd):
    spoil(*range(20))
    assert finish([*overrides, f"run_dir={tmp_path / 'run'}", "trainer.on_nonfinite=skip"]) == 3
    assert "the gradient of step 10 is not finite (10 steps were skipped before)" in capfd.readouterr().err
