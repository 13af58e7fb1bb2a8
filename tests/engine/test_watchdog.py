"""A hang is named: where one rank is stopped or killed, the other says which, where and since when, and leaves."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from pretraining.engine.watchdog import EXIT_HUNG, Posted, ranks_behind
from tests.killing import start
from tests.runs import kill_group, text_overrides, wait_for, write_corpus

TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory, cache_dir):
    return [
        *text_overrides(write_corpus(tmp_path_factory.mktemp("corpus")), cache_dir),
        "trainer.max_steps=100000",
        "trainer.timeout=5",
    ]


def process_of(group, rank):
    """Find the process of a rank by its parent and its place among the children."""
    return int(Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()[rank])


def has_ended(process):
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_by_the_other(overrides, tmp_path, capfd, stopped):
    path, other = tmp_path / "run", 1 - stopped
    group = start([*TWO, *overrides, f"run_dir={path}"], ranks=2)
    try:
        wait_for(lambda: (path / "checkpoints" / "step-0000005.json").exists())
        time.sleep(1.5)  # a post of each
        watching = process_of(group, other)
        os.kill(process_of(group, stopped), signal.SIGSTOP)
        report = path / f"hang-rank-{other}.txt"
        wait_for(lambda: report.exists() and "most recent call first" in report.read_text(), timeout=40)
        wait_for(lambda: has_ended(watching), timeout=20)
    finally:
        kill_group(group)
    text = report.read_text()
    assert f"rank {other}: no progress for" in text and "(trainer.timeout=5)" in text
    assert f"behind: rank {stopped}\n" in text
    if stopped == 1:  # with rank 0 its store is gone, and with the store where rank 0 was
        assert re.search(
            r"rank 1: step \d+, (data|forward and backward|update|between steps|validation) for \d+ s, said \d+ s ago",
            text,
        )
    else:
        assert "rank 0: no answer" in text
    assert "in _call_and_handle_interrupt" in text  # the stacks
    assert text.splitlines()[0] in capfd.readouterr().err


@pytest.mark.slow
def test_a_killed_rank_is_named_by_the_other(overrides, tmp_path, capfd):
    path = tmp_path / "run"
    group = start([*TWO, *overrides, f"run_dir={path}"], ranks=2)
    try:
        wait_for(lambda: (path / "checkpoints" / "step-0000005.json").exists())
        time.sleep(1.5)
        os.kill(process_of(group, 1), signal.SIGKILL)
        group.join(60)
        assert not group.is_alive() and group.exitcode != 0
    finally:
        kill_group(group)
    said = capfd.readouterr().err
    # Behind is who says nothing where the others went on: not where the end came between two of rank 0's words.
    assert "rank 0: an error on this rank" in said and re.search(r"^  rank 1: step \d+, ", said, re.M)


def stuck_loader():
    """Make the loader stop for good at the eighth step."""
    from pretraining.data.loader import _Steps

    whole = _Steps.__getitem__

    def read(steps, place):
        if place[0] == 8:
            time.sleep(3600)
        return whole(steps, place)

    _Steps.__getitem__ = read


def test_a_run_whose_data_never_come_ends_with_a_code_of_its_own(overrides, tmp_path, capfd):
    path = tmp_path / "run"
    process = start([*overrides, "trainer.timeout=2", f"run_dir={path}"], change=stuck_loader)
    process.join(60)
    assert process.exitcode == EXIT_HUNG
    text = (path / "hang-rank-0.txt").read_text()
    assert "rank 0: step 8, data for" in text and "in read" in text


def test_the_ranks_behind_are_those_that_are_silent_or_else_those_that_came_least_far():
    now = 100.0

    def post(step, phase, posted=99.0):
        return Posted(step, phase, 50.0, posted)

    assert ranks_behind({0: post(7, "update"), 1: post(7, "data")}, silent_after=10, now=now) == [1]
    assert ranks_behind({0: post(7, "data"), 1: post(6, "update"), 2: post(7, "data")}, silent_after=10, now=now) == [1]
    assert ranks_behind({0: post(7, "data", posted=60.0), 1: post(7, "data")}, silent_after=10, now=now) == [0]
    assert ranks_behind({0: post(7, "data"), 1: None}, silent_after=10, now=now) == [1]
    assert ranks_behind({0: post(7, "data"), 1: post(7, "data")}, silent_after=10, now=now) == []
