"""A run that is ended anywhere and resumed ends like one that never was: bit for bit, on real processes."""

import json
import shutil
import signal

import pytest
import torch

from pretraining.engine.checkpoints import EXIT_INTERRUPTED, EXIT_PREEMPTED, AtomicIO, Checkpointing
from pretraining.errors import CheckpointError
from pretraining.runs.checkpoint_files import newest_valid
from pretraining.runs.directory import RunDirectory
from tests.runs import assert_same_end, finish, history, kill_group, start, text_overrides, wait_for, write_corpus
from tests.slow_writes import slow_checkpoints


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    extra = ["trainer.accumulate=2", "ema=0.9", "trainer.handoff_every=10", "trainer.keep_last=3", "resume=auto"]
    return [*text_overrides(corpus, cache_dir), *extra]


@pytest.fixture(scope="module")
def uninterrupted(overrides, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "reference"
    assert finish([*overrides, f"run_dir={path}"]) == 0
    return path


def checkpoint(path, step):
    return path / "checkpoints" / f"step-{step:07d}.json"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_mid_epoch_ends_as_if_it_had_not_been(overrides, uninterrupted, tmp_path, workers):
    path = tmp_path / "run"
    mine = [*overrides, f"run_dir={path}", f"data.workers={workers}"]
    process = start([*mine, "trainer.max_steps=20"])
    wait_for(lambda: checkpoint(path, 10).exists() or not process.is_alive())
    kill_group(process)
    assert process.exitcode == -signal.SIGKILL
    state = torch.load(newest_valid(path / "checkpoints"), weights_only=True)
    loader_state = state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert loader_state["consumed"] > 0  # in the middle of an epoch
    assert finish(mine) == 0
    assert_same_end(uninterrupted, path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_at_the_next_step_and_leaves_with_a_code_of_its_own(overrides, uninterrupted, tmp_path, number):
    path = tmp_path / "run"
    mine = [*overrides, f"run_dir={path}"]
    process = start(mine)
    wait_for(lambda: checkpoint(path, 5).exists())
    kill_group(process, number)
    assert process.exitcode == EXIT_PREEMPTED
    assert (path / "PREEMPTED").exists() and not (path / "metrics.json").exists()
    assert finish(mine) == 0
    assert not (path / "PREEMPTED").exists()
    assert_same_end(uninterrupted, path)


def test_ctrl_c_saves_too(overrides, tmp_path):
    path = tmp_path / "run"
    process = start([*overrides, f"run_dir={path}"])
    wait_for(lambda: checkpoint(path, 5).exists())
    kill_group(process, signal.SIGINT)
    assert process.exitcode == EXIT_INTERRUPTED
    assert newest_valid(path / "checkpoints") is not None


@pytest.mark.parametrize("background", ["false", "true"])
def test_a_kill_inside_a_checkpoint_write_costs_only_that_checkpoint(overrides, uninterrupted, tmp_path, background):
    path = tmp_path / "run"
    mine = [*overrides, f"run_dir={path}", f"trainer.background_checkpoints={background}"]
    process = start(mine, lambda: slow_checkpoints(1.5))
    writing = path / "checkpoints" / ".step-0000010.ckpt.writing"
    wait_for(writing.exists)
    kill_group(process)
    assert newest_valid(path / "checkpoints").name == "step-0000005.ckpt"
    assert finish(mine) == 0
    assert_same_end(uninterrupted, path)


def test_a_corrupt_or_truncated_newest_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    shutil.copytree(uninterrupted / "checkpoints", folder)
    newest, *_ = sorted(folder.glob("*.ckpt"), reverse=True)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert newest_valid(folder).name == "step-0000015.ckpt"
    assert "step-0000020.ckpt is passed over: its checksum does not match" in capsys.readouterr().err
    newest.write_bytes(data[:1000])
    assert newest_valid(folder).name == "step-0000015.ckpt"
    assert "it has 1000 bytes of" in capsys.readouterr().err
    newest.with_suffix(".json").unlink()
    assert newest_valid(folder).name == "step-0000015.ckpt"
    assert "it was never finished" in capsys.readouterr().err


def test_a_finished_run_can_be_made_longer(overrides, tmp_path):
    short, whole = tmp_path / "short", tmp_path / "whole"
    constant = [*overrides, "optimizer.schedule=constant"]
    assert finish([*constant, f"run_dir={short}", "trainer.max_steps=10"]) == 0
    assert finish([*constant, f"run_dir={short}", "trainer.max_steps=20"]) == 0
    assert finish([*constant, f"run_dir={whole}"]) == 0
    assert_same_end(whole, short)


def test_a_finished_run_is_not_done_again(overrides, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.name != ".lock"}
    assert finish([*overrides, f"run_dir={uninterrupted}"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.name != ".lock"}


def test_without_its_position_a_run_does_not_end_the_same(overrides, uninterrupted, tmp_path):
    """What the comparison above is worth: it sees a run that continues its weights but not its data."""
    path = tmp_path / "run"
    mine = [*overrides, f"run_dir={path}"]
    process = start(mine)
    wait_for(lambda: checkpoint(path, 10).exists())
    kill_group(process)
    newest = newest_valid(path / "checkpoints")
    state = torch.load(newest, weights_only=True)
    position = state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    position |= {"epoch": 0, "consumed": 0}
    torch.save(state, newest)
    facts = json.loads(newest.with_suffix(".json").read_text())
    from pretraining.cache import sha256

    newest.with_suffix(".json").write_text(
        json.dumps(facts | {"sha256": sha256(newest), "size": newest.stat().st_size})
    )
    assert finish(mine) == 0
    with pytest.raises(AssertionError):
        assert_same_end(uninterrupted, path)


def test_history_has_one_row_per_logged_step(uninterrupted):
    assert [row["step"] for row in history(uninterrupted)] == ["5", "10", "15", "20"]


def test_what_is_written_in_the_background_is_the_state_at_the_time_of_asking(tmp_path):
    weight = torch.arange(4.0)
    state = {"global_step": 3, "weights": {"a": weight, "tied": weight}, "position": [1, (2.0, None)]}
    io = AtomicIO(background=True)
    io.save_checkpoint(state, tmp_path / "step-0000003.ckpt")
    weight.zero_()
    io.finish()
    kept = torch.load(newest_valid(tmp_path), weights_only=True)
    assert kept["weights"]["a"].tolist() == [0, 1, 2, 3] and kept["position"] == [1, (2.0, None)]
    assert kept["weights"]["a"].data_ptr() == kept["weights"]["tied"].data_ptr()
    (tmp_path / "file").touch()
    io.save_checkpoint(state, tmp_path / "file" / "step-0000004.ckpt")
    with pytest.raises(CheckpointError, match=r"Earlier checkpoints are intact"):
        io.finish()
    io.teardown()


def test_a_first_checkpoint_whose_note_is_not_written_yet_is_left_alone(tmp_path):
    saver, io = Checkpointing(RunDirectory(tmp_path), every=1, keep_last=1, monitor=None), AtomicIO()
    tmp_path = saver.directory
    tmp_path.mkdir()
    (tmp_path / "step-0000001.ckpt").touch()  # as between the two renames of a write in the background
    saver._drop_old(io)
    assert (tmp_path / "step-0000001.ckpt").exists()
    for step in (2, 3):
        io.save_checkpoint({"global_step": step}, tmp_path / f"step-{step:07d}.ckpt")
    (tmp_path / "step-0000004.ckpt").touch()
    saver._drop_old(io)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step-0000003.ckpt", "step-0000004.ckpt"]
