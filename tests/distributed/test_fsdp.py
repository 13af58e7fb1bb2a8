"""Weights shared out over ranks (FSDP2) train what one process trains; checkpoints and hand-offs load anywhere."""

import pytest
import torch

from pretraining.runs.checkpoint_files import newest_valid
from tests.distributed.test_ranks import TWO, assert_same_numbers, one_process, overrides  # noqa: F401 - fixtures
from tests.runs import assert_same_end, finish, kill_group, start, wait_for

SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_ranks_that_share_the_weights_are_one_process(overrides, one_process, tmp_path, accumulate):  # noqa: F811
    path = tmp_path / "two"
    assert finish([*SHARDED, *overrides, f"trainer.accumulate={accumulate}", f"run_dir={path}"]) == 0
    assert_same_numbers(one_process, path, 1e-9)


@pytest.mark.slow
def test_a_checkpoint_of_shared_weights_is_whole_and_continues_under_any_strategy(overrides, tmp_path):  # noqa: F811
    mine = [*overrides, "ema=0.9"]
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    assert finish([*mine, f"run_dir={whole}"]) == 0
    process = start([*SHARDED, *mine, f"run_dir={changing}"])
    wait_for(lambda: (changing / "checkpoints" / "step-0000005.json").exists())
    kill_group(process)
    kept = torch.load(newest_valid(changing / "checkpoints"), weights_only=True)
    one = torch.load(whole / "checkpoints" / "step-0000020.ckpt", weights_only=True)
    for part in ("state_dict", "average"):
        assert {k: v.shape for k, v in kept[part].items()} == {k: v.shape for k, v in one[part].items()}
    process = start([*TWO, *mine, f"run_dir={changing}", "resume=auto"])
    wait_for(lambda: (changing / "checkpoints" / "step-0000010.json").exists())
    kill_group(process)
    assert finish([*SHARDED, *mine, f"run_dir={changing}", "resume=auto"]) == 0
    assert_same_numbers(whole, changing, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_views_are_compared_and_normalised_over_ranks_that_share_the_weights_as_over_others(
    cache_dir, tmp_path, accumulate
):
    digits = [
        "objective=simclr",
        f"data.cache_dir={cache_dir}",
        "data.batch_size=16",
        "data.eval_batch_size=64",
        "preprocess.size=8",
    ]
    few = [
        "backbone.width=4",
        "trainer.max_steps=8",
        "trainer.log_every=1",
        "trainer.val_every=4",
        "trainer.checkpoint_every=4",
    ]
    exact = [
        "trainer.precision=fp64",
        f"trainer.accumulate={accumulate}",
        "trainer.clip_norm=0.05",
        "trainer.clip_each=true",
        "optimizer.last_weight_decay=0.4",
        "logger.wandb.mode=disabled",
        "logger.progress=false",
    ]
    for name, strategy in {"ddp": TWO, "fsdp": SHARDED}.items():
        assert finish([*strategy, *digits, *few, *exact, f"run_dir={tmp_path / name}"]) == 0
    assert_same_numbers(tmp_path / "ddp", tmp_path / "fsdp", 1e-9)


@pytest.mark.slow
def test_shared_weights_that_are_killed_and_resumed_end_bit_for_bit_the_same(overrides, tmp_path):  # noqa: F811
    mine = [*SHARDED, *overrides, "backbone.config.hidden_dropout_prob=0.1", "trainer.precision=fp32", "resume=auto"]
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    assert finish([*mine, f"run_dir={whole}"]) == 0
    process = start([*mine, f"run_dir={ended}"])
    wait_for(lambda: (ended / "checkpoints" / "step-0000005.json").exists())
    kill_group(process)
    assert finish([*mine, f"run_dir={ended}"]) == 0
    assert_same_end(whole, ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", "swav", "moco_v3"])
def test_teachers_prototypes_and_queues_are_the_same_where_weights_are_shared(name, cache_dir, tmp_path):
    own = {"dino": ["objective.export=teacher"], "swav": ["objective.codes.queue=32", "trainer.accumulate=2"]}
    digits = [f"objective={name}", f"data.cache_dir={cache_dir}", "data.batch_size=16", "data.eval_batch_size=64"]
    few = ["backbone.width=4", "trainer.max_steps=4", "trainer.log_every=1", "trainer.val_every=2", "probe=none"]
    exact = ["trainer.precision=fp64", "logger.wandb.mode=disabled", "logger.progress=false", *own.get(name, [])]
    for run, strategy in {"ddp": TWO, "fsdp": SHARDED}.items():
        assert finish([*strategy, *digits, *few, *exact, f"run_dir={tmp_path / run}"]) == 0
    assert_same_numbers(tmp_path / "ddp", tmp_path / "fsdp", 1e-9)
