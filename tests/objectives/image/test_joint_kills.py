"""Killed with -9 in a step or in a checkpoint's write, joint embeddings end the same: teacher, queue, centre and all.

The fast twin, cut and resumed in one process, is in test_joint_runs, for all of them.
"""

import random

import pytest

from tests.engine.test_kills import AT_RANDOM, IN_CHECKPOINT, SEED, kill_once, on_ranks
from tests.killing import examples, finish
from tests.objectives.image.test_joint_runs import SMALL, state
from tests.runs import assert_same_end

pytestmark = pytest.mark.slow
STEPS = 24
MOVED = {  # what must be in a checkpoint, beside the weights
    "moco_v2": ("teacher.backbone", "queue.rows"),
    "ibot": ("teacher.backbone", "centre.value", "patch_centre.value", "temperature_now"),
    "swav": ("queue.rows", "prototypes"),
}


@pytest.mark.parametrize(("name", "ranks"), [("moco_v2", 2), ("ibot", 1), ("swav", 1)])
def test_a_killed_run_ends_bit_for_bit_as_one_that_was_not(name, ranks, tmp_path, cache_dir):
    moments = random.Random(f"{SEED} {name}")
    print(f"KILLS_SEED={SEED}")
    cadences = [
        f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=4", "trainer.log_every=4", "trainer.val_every=8",
        "trainer.precision=fp32", "data.batch_size=16", f"data.cache_dir={cache_dir}", "resume=auto",
        "logger.wandb.mode=disabled", "logger.progress=false", "optimizer.last_weight_decay=0.1",
    ]  # fmt: skip
    cadences += [] if name == "ibot" else ["backbone.width=8"]
    cadences += ["objective.distillation.teacher_temperature.steps=24"] if name == "ibot" else []
    mine = on_ranks([f"objective={name}", *SMALL[name], *cadences], ranks)
    whole, path = tmp_path / "whole", tmp_path / "run"
    code, life = finish([*mine, f"run_dir={whole}"], ranks)
    assert code == 0
    for how in (IN_CHECKPOINT, AT_RANDOM):
        kill_once([*mine, f"run_dir={path}"], ranks, path, how, life, moments)
    assert finish([*mine, f"run_dir={path}"], ranks)[0] == 0
    assert_same_end(whole, path)
    assert examples(path) == examples(whole)
    first, last = state(whole, STEPS - 4), state(whole, STEPS)
    for part in MOVED[name]:
        assert any(not first[key].equal(last[key]) for key in last if key.startswith(part)), part
