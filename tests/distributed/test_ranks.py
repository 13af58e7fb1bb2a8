"""Two processes give what one gives, through the command line's own path: examples, metrics, weights; also resumed."""

import csv
import signal

import pytest
import torch
from safetensors.torch import load_file

from pretraining.runs.checkpoint_files import newest_valid
from tests.runs import assert_same_end, finish, kill_group, start, text_overrides, wait_for, write_corpus

COLUMNS = {
    *("train/loss", "validation/loss", "train/gradient_norm", "learning_rate"),
    *("examples", "tokens", "images", "audio_seconds", "flops"),
}
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    exact = [
        "trainer.precision=fp64",
        "backbone.config.hidden_dropout_prob=0",
        "backbone.config.attention_probs_dropout_prob=0",
    ]
    return [*text_overrides(corpus, cache_dir), *exact]


@pytest.fixture(scope="module")
def one_process(overrides, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "one"
    assert finish([*overrides, f"run_dir={path}"]) == 0
    return path


def rank_free(overrides):
    """Move `trainer=ddp` in front, and give it the cadences of the test."""
    return [*TWO, *overrides]


def assert_same_numbers(first, second, tolerance):
    """Compare exported weights and every column of the history but time."""
    ours, theirs = (load_file(path / "handoff" / "last" / "model.safetensors") for path in (first, second))
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=tolerance, rtol=0), name
    rows = [list(csv.DictReader((path / "metrics.csv").open())) for path in (first, second)]
    assert len(rows[0]) == len(rows[1]) > 3
    for one, other in zip(*rows, strict=True):
        assert {"tokens", "images", "audio_seconds"} & set(one)
        for column in COLUMNS & set(one):
            if one[column] or other[column]:
                assert float(one[column]) == pytest.approx(float(other[column]), abs=tolerance), column


@pytest.mark.parametrize(
    ("accumulate", "interpreters"), [(1, False), (2, False), pytest.param(1, True, marks=pytest.mark.slow)]
)
def test_two_ranks_are_one_process(overrides, one_process, tmp_path, accumulate, interpreters):
    path = tmp_path / "two"
    mine = [*rank_free(overrides), f"trainer.accumulate={accumulate}", f"run_dir={path}"]
    assert finish(mine, interpreters=interpreters) == 0
    assert_same_numbers(one_process, path, 1e-9)


def test_two_ranks_contrast_as_one_process_in_training_and_in_evaluation(cache_dir, tmp_path):
    few = ["backbone.width=4", "preprocess.size=8", "trainer.max_steps=4", "trainer.log_every=1", "trainer.val_every=2"]
    digits = [
        "objective=simclr",
        f"data.cache_dir={cache_dir}",
        "data.batch_size=16",
        "data.eval_batch_size=48",
        "trainer.precision=fp64",
        "logger.wandb.mode=disabled",
    ]
    for name, strategy in (("one", []), ("two", TWO)):
        assert finish([*strategy, *digits, *few, f"run_dir={tmp_path / name}"]) == 0
    assert_same_numbers(tmp_path / "one", tmp_path / "two", 1e-9)


def test_a_run_may_change_its_number_of_ranks_when_it_is_resumed(overrides, one_process, tmp_path):
    path = tmp_path / "changing"
    process = start([*overrides, f"run_dir={path}"])
    wait_for(lambda: (path / "checkpoints" / "step-0000010.json").exists())
    kill_group(process)
    assert finish([*rank_free(overrides), f"run_dir={path}", "resume=auto"]) == 0
    assert_same_numbers(one_process, path, 1e-9)


@pytest.fixture(scope="module")
def with_dropout(overrides):
    return [*rank_free(overrides), "backbone.config.hidden_dropout_prob=0.1", "trainer.precision=fp32", "resume=auto"]


@pytest.fixture(scope="module")
def whole(with_dropout, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert finish([*with_dropout, f"run_dir={path}"]) == 0
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_two_ranks_that_are_ended_and_resumed_end_bit_for_bit_the_same(with_dropout, whole, tmp_path, number):
    ended, mine = tmp_path / "ended", with_dropout
    process = start([*mine, f"run_dir={ended}"])
    wait_for(lambda: (ended / "checkpoints" / "step-0000005.json").exists())
    kill_group(process, number)
    assert process.exitcode == (85 if number == signal.SIGTERM else -signal.SIGKILL)
    assert newest_valid(ended / "checkpoints") is not None
    assert finish([*mine, f"run_dir={ended}"]) == 0
    assert_same_end(whole, ended)
