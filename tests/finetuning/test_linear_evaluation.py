"""The papers' linear evaluation: every value of the protocol, and where it ends."""

import json
from pathlib import Path

import pytest

from finetuning.launch import compose
from tests.finetuning.conftest import Finetune

PROTOCOL = {  # Chen et al. 2020, appendix B.6
    "peak_lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "final_fraction": 0.0,
    "warmup_steps": 0,
}


def test_it_is_the_published_protocol() -> None:
    config = compose(["task=cifar10", "data.path=x", "handoff=x", "mode=linear_sgd", "data.batch_size=256"])
    assert {name: config.optimizer[name] for name in PROTOCOL} == PROTOCOL and config.optimizer._target_.endswith("SGD")
    assert (
        config.epochs == 100 and config.mode.cache and config.trainer.clip_norm is None and config.task.dropout == 0.0
    )


def test_it_ends_near_the_optimum_that_the_solver_finds(finetune: Finetune, image_handoff: Path) -> None:
    found = {}
    for mode in ("linear_sgd", "linear_probe"):
        run = finetune(
            "task=digits", f"handoff={image_handoff}", f"mode={mode}", "data.batch_size=64", "shots=20", name=mode
        )
        found[mode] = json.loads((run / "metrics.json").read_text())
    assert found["linear_sgd"]["steps"] == 313  # 100 epochs of 200 images
    assert found["linear_probe"]["test/accuracy"] > 0.6
    assert found["linear_sgd"]["test/accuracy"] == pytest.approx(found["linear_probe"]["test/accuracy"], abs=0.08)
