"""A run killed with -9 again and again, at times drawn from a logged seed, ends as one that never was."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter

import pytest

from pretraining.data.loader import StepLoader
from pretraining.runs.checkpoint_files import newest_valid
from tests.killing import examples, finish, kill_when, reached, start
from tests.runs import assert_same_end, kill_group, text_overrides, wait_for, write_corpus
from tests.slow_writes import slow_checkpoints

pytestmark = pytest.mark.slow
STEPS = 40
CADENCES = [
    f"trainer.max_steps={STEPS}", "trainer.accumulate=2", "trainer.log_every=4", "trainer.val_every=8",
    "trainer.checkpoint_every=4", "trainer.handoff_every=12", "trainer.keep_last=3", "trainer.precision=fp32",
    "resume=auto", "logger.wandb.mode=disabled", "logger.progress=false",
]  # fmt: skip
AT_RANDOM, IN_CHECKPOINT, IN_HANDOFF = "at random", "in a checkpoint's write", "in a hand-off's write"
KILLS = [
    AT_RANDOM,
    IN_CHECKPOINT,
    AT_RANDOM,
    IN_HANDOFF,
    AT_RANDOM,
    AT_RANDOM,
]  # of each recipe and number of ranks: 36 in all
SEED = int(os.environ.get("KILLS_SEED", time.time_ns() % 1_000_000))
HISTOGRAM: Counter = Counter()
KILLED = set()


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, cache_dir):
    """Give the overrides of each smoke recipe: dropout where the model has any, a schedule, validation."""
    text = text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir)
    bart = ["backbone.config.d_model=16", "backbone.config.encoder_ffn_dim=32", "backbone.config.decoder_ffn_dim=32"]
    without_bert = [o for o in text if not o.startswith(("objective=", "backbone"))]
    digits = [
        "objective=simclr",
        f"data.cache_dir={cache_dir}",
        "data.batch_size=16",
        "data.eval_batch_size=256",
        "backbone.width=4",
    ]
    return {
        "masked_language": [*text, *CADENCES, "ema=0.9"],
        "denoising": ["objective=denoising_bart", *without_bert, "preprocess.vocab_size=400", *bart, *CADENCES],
        "simclr": [*digits, "preprocess.size=8", "optimizer.warmup_steps=4", *CADENCES],
    }


def on_ranks(overrides, ranks):
    return (
        overrides if ranks == 1 else ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={ranks}", *overrides]
    )


def kill_once(overrides, ranks, path, how, life, moments):
    """Start the run, and kill it in the way asked for; False if it ended first."""
    if how == AT_RANDOM:
        end = time.monotonic() + moments.uniform(0, life)
        return kill_when(start(overrides, ranks), lambda: time.monotonic() >= end)
    pattern = {IN_CHECKPOINT: "checkpoints/.step-*.ckpt.writing", IN_HANDOFF: "handoff/.step-*/handoff.json"}[how]
    return kill_when(start(overrides, ranks, lambda: slow_checkpoints(0.3)), lambda: any(path.glob(pattern)))


def note(path, how):
    step = reached(path)
    HISTOGRAM["before the first step" if step is None else f"{step // 5 * 5:3d}-{step // 5 * 5 + 4}"] += 1
    HISTOGRAM[how] += 1


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("recipe", ["masked_language", "denoising", "simclr"])
def test_killed_at_any_moment_a_run_ends_the_same(recipes, tmp_path, recipe, ranks):
    moments = random.Random(f"{SEED} {recipe} {ranks}")
    print(f"KILLS_SEED={SEED}")
    mine = on_ranks(recipes[recipe], ranks)
    whole = tmp_path / "whole"
    code, life = finish([*mine, f"run_dir={whole}"], ranks)
    assert code == 0
    wanted, lives = list(KILLS), 0
    while wanted:  # three kills, or fewer where a run ends before its kill; the next run takes those that are left
        path = tmp_path / f"run{lives}"
        overrides = [*mine, f"run_dir={path}"]
        for how in wanted[:3]:
            if not kill_once(overrides, ranks, path, how, life, moments):
                break
            note(path, wanted.pop(0))
        assert finish(overrides, ranks)[0] == 0
        assert_same_end(whole, path)
        seen = examples(path)
        assert seen == examples(whole) and len(seen) == STEPS * ranks
        lives += 1
        assert lives < 20
    KILLED.add((recipe, ranks))
    shutil.rmtree(tmp_path)


def test_the_kills_were_many_and_everywhere():
    if len(KILLED) < 6:
        pytest.skip("counts the kills of all the tests above, and not all of them ran")
    print("\n".join(f"{name:>24} {'#' * count} {count}" for name, count in sorted(HISTOGRAM.items())))
    assert sum(HISTOGRAM[how] for how in (AT_RANDOM, IN_CHECKPOINT, IN_HANDOFF)) >= 30
    assert HISTOGRAM[IN_CHECKPOINT] >= 5 and HISTOGRAM[IN_HANDOFF] >= 3


def forget_position():
    """Break resuming on purpose: count steps, but read the data from the start."""
    StepLoader.load_state_dict = lambda loader, state: loader._position.update(step=state["step"])


def test_a_run_that_forgets_its_position_does_not_end_the_same(recipes, tmp_path):
    mine, whole, path = recipes["masked_language"], tmp_path / "whole", tmp_path / "run"
    assert finish([*mine, f"run_dir={whole}"])[0] == 0
    process = start([*mine, f"run_dir={path}"])
    wait_for(lambda: (path / "checkpoints" / "step-0000012.json").exists())
    kill_group(process)
    assert finish([*mine, f"run_dir={path}"], change=forget_position)[0] == 0
    with pytest.raises(AssertionError):
        assert_same_end(whole, path)
    with pytest.raises(AssertionError):
        assert examples(path) == examples(whole)


@pytest.fixture
def small_disk(tmp_path):
    """Give a directory on a file system of 8 MB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("handoff_every", [12, 0])  # what the full disk meets first: a hand-off, a checkpoint
def test_a_full_disk_loses_nothing_that_was_there(recipes, small_disk, tmp_path, capfd, handoff_every):
    mine, whole, path = (
        [*recipes["masked_language"], f"trainer.handoff_every={handoff_every}"],
        tmp_path / "whole",
        small_disk / "run",
    )
    assert finish([*mine, f"run_dir={whole}"])[0] == 0
    process = start([*mine, f"run_dir={path}"], change=lambda: slow_checkpoints(0.2))
    wait_for(lambda: (path / "checkpoints" / "step-0000008.json").exists())
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    process.join(60)
    assert process.exitcode == 3
    said = capfd.readouterr().err
    assert f"no space left on {path}" in said and "resume=auto" in said
    assert newest_valid(path / "checkpoints") is not None
    filler.unlink()
    assert finish([*mine, f"run_dir={path}"])[0] == 0
    assert_same_end(whole, path)
