"""No operation of a training step makes the host wait for the device, so a GPU never runs dry between two steps.

Without a GPU, the operations themselves are watched: those that hand a value to the host, or whose shape depends on
one.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretraining.engine.batch import Step, StepSettings
from pretraining.engine.nonfinite import Guard
from pretraining.engine.trainer import TrainerSettings, build_trainer
from pretraining.objectives.text.masked_language import MaskedLanguage
from pretraining.optim.optimizers import AdamW
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.text.test_transformers import SMALL, packed_rows

WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_consecutive",
    "repeat_interleave",
    "equal",
}


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.name().removeprefix("aten::").split(".")[0])
        return function(*arguments, **(options or {}))


class Watched(MaskedLanguage):
    def training_step(self, step, number):
        with Recorder() as recorder:
            super().training_step(step, number)
        self.operations = recorder.names


def batch():
    ids, documents = packed_rows()
    places = torch.tensor([1, 5, 12, 40, 70, 0])
    labels = torch.where(places > 0, ids.flatten()[places], -100)
    inputs = {"input_ids": ids, "document_ids": documents}
    return {"inputs": inputs, "target_positions": places, "labels": labels}


def operations(impl, tmp_path, device="cpu"):
    """The operations of the last of three steps."""
    config = {"model_type": "bert", **SMALL, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    backbone = TransformersBackbone(config=config, vocab_size=90, pad_id=1, impl=impl)
    if impl == "fast":
        backbone._fast.static = True  # as on a GPU
    rates = {"peak_lr": 1e-3, "warmup_steps": 2, "schedule": "linear", "final_fraction": 0.0, "weight_decay": 0.01}
    module = Watched(backbone=backbone, optimizer=AdamW(**rates, betas=(0.9, 0.999), eps=1e-8))
    module.settings = StepSettings(max_steps=3, clip_norm=1.0, ema=0.9)

    class Steps(list):
        """A loader of given steps."""

    steps = Steps([Step(number, [batch(), batch()], examples=3, units=92) for number in range(3)])
    build_trainer(
        TrainerSettings(accelerator=device, max_steps=3, accumulate=2, precision="fp32"), [], [], tmp_path
    ).fit(module, steps)
    return module.operations


@pytest.mark.parametrize("impl", ["fast", "transformers"])
def test_no_operation_of_a_step_makes_the_host_wait(impl, tmp_path, monkeypatch):
    monkeypatch.setattr(Guard, "deferred", True)
    monkeypatch.setattr(Guard, "flush", lambda *_, **__: None)  # reads a flag that has arrived on the host
    seen = operations(impl, tmp_path)
    assert {"_fused_adamw_", "_softmax", "addmm"} & seen
    assert not (seen & WAITING), sorted(seen & WAITING)


def test_the_watch_sees_a_host_that_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(Guard, "deferred", False)
    assert "_local_scalar_dense" in operations("fast", tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_itself_finds_no_synchronisation_in_a_step(tmp_path, monkeypatch):
    whole = MaskedLanguage.training_step

    def strict(module, step, number):
        torch.cuda.set_sync_debug_mode("error" if step.number else "default")  # the first step sets things up
        try:
            whole(module, step, number)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(MaskedLanguage, "training_step", strict)
    operations("fast", tmp_path, device="cuda")
