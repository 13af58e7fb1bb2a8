"""A run that ended before its first step leaves no directory behind, or one that the corrected run may take."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pretraining.errors import RunError
from pretraining.runs.directory import RunDirectory

CONFIG = {"seed": 1, "trainer": {"max_steps": 5}}
OTHER = {"seed": 2, "trainer": {"max_steps": 5}}


def claim(path, config=CONFIG, resume="none"):
    return RunDirectory.claim(path, OmegaConf.create(config), resume=resume, overrides=[])


def test_a_run_without_a_step_takes_its_directory_with_it(tmp_path):
    run = claim(tmp_path / "run")
    (run.path / "wandb_id.txt").write_text("abc\n")
    (run.path / "wandb" / "offline-run-1").mkdir(parents=True)
    run.release()
    assert not run.path.exists()


def test_a_directory_that_was_there_stays_with_what_else_is_in_it(tmp_path):
    (tmp_path / ".notes").write_text("mine")
    claim(tmp_path).release()
    assert (tmp_path / ".notes").read_text() == "mine" and not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("left", ["checkpoints/step-0000002.ckpt", "metrics.json", "handoff/last", "nonfinite.pt"])
def test_what_a_step_left_is_kept_and_refused(tmp_path, left):
    run = claim(tmp_path / "run")
    (run.path / left).parent.mkdir(exist_ok=True)
    (run.path / left).write_text("{}")
    run.release()
    assert (run.path / left).exists() and (run.path / "config.yaml").exists()
    with pytest.raises(RunError, match="already holds a run"):
        claim(run.path)
    with pytest.raises(RunError, match="another configuration"):
        claim(run.path, OTHER, resume="auto")


def test_a_row_of_its_history_is_a_step(tmp_path):
    run = claim(tmp_path / "run")
    (run.path / "metrics.csv").write_text("step\n")
    run.release()
    assert not run.path.exists()
    run = claim(tmp_path / "run")
    (run.path / "metrics.csv").write_text("step,loss\n5,0.1\n")
    run.release()
    assert run.path.exists()


@pytest.mark.parametrize("resume", ["none", "auto"])
def test_the_corrected_run_takes_the_directory_of_one_that_was_killed_before_its_first_step(tmp_path, resume):
    killed = claim(tmp_path / "run")
    (killed.path / "wandb_id.txt").write_text("abc\n")
    killed._lock.close()  # as its process's end does
    fresh = claim(tmp_path / "run", OTHER, resume)
    assert OmegaConf.load(fresh.path / "config.yaml").seed == 2
    assert not (fresh.path / "wandb_id.txt").exists()


def test_a_resumed_run_without_a_step_keeps_its_identity(tmp_path):
    killed = claim(tmp_path / "run")
    (killed.path / "wandb_id.txt").write_text("abc\n")
    killed._lock.close()
    assert (claim(tmp_path / "run", resume="auto").path / "wandb_id.txt").read_text() == "abc\n"


def test_a_run_that_has_not_yet_made_a_step_is_left_alone(tmp_path):
    going = claim(tmp_path / "run")
    for resume in ("none", "auto"):
        with pytest.raises(RunError, match="in use by a process that is still running"):
            claim(going.path, OTHER, resume)
    assert OmegaConf.load(going.path / "config.yaml").seed == 1


def test_a_directory_that_cannot_be_made_is_named_before_and_after_anything_is_read(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"run_dir=.*/notes.txt/run cannot be made .*notes.txt is a file.*: choose anot"):
        RunDirectory.refuse_taken(tmp_path / "notes.txt" / "run", resume="none")
    with pytest.raises(
        RunError, match=r"run_dir=/proc/run cannot be made or written to \(.*\): choose another run_dir"
    ):
        claim(Path("/proc/run"))
