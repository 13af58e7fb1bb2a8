"""Runs that are killed at chosen or random moments: each rank a forked process, each example of a step on record."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_only

from pretraining.cli.configuration import compose, exit_cleanly
from pretraining.engine.step import StepModule
from pretraining.launch import main
from tests.runs import kill_group

RECORD = "examples.jsonl"


def start(overrides, ranks=1, change=None, **environment):
    """Start a run whose ranks are forked processes of one group; `change` is called in each before the run."""
    process = multiprocessing.get_context("fork").Process(target=_group, args=(overrides, ranks, change, environment))
    process.start()
    with contextlib.suppress(
        ProcessLookupError, PermissionError
    ):  # whichever of the two comes first: a kill may be due at once
        os.setpgid(process.pid, process.pid)
    return process


def _group(overrides, ranks, change, environment):
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    os.environ |= environment
    if ranks == 1:
        _rank(overrides, change)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "TORCHELASTIC_RUN_ID": "local",
        "GROUP_RANK": "0",
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = multiprocessing.get_context("fork")
    members = []
    for rank in range(ranks):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        members.append(context.Process(target=_rank, args=(overrides, change)))
        members[-1].start()
    for member in members:
        member.join()
    sys.exit(max(abs(member.exitcode) for member in members))


def _rank(overrides, change):
    rank_zero_only.rank = int(os.environ.get("RANK", "0"))  # Lightning read it when the parent imported it
    torch.set_num_threads(1)
    config = compose(overrides)
    _record_examples(Path(config.run_dir) / RECORD)
    if change is not None:
        change()
    with exit_cleanly():
        main(config, overrides)


def _record_examples(path):
    """Write down (step, rank, examples) when a step begins."""
    whole = StepModule.training_step

    def training_step(module, step, number):
        examples = [[batch["keys"].epoch.tolist(), batch["keys"].index.tolist()] for batch in step.micro_batches]
        line = json.dumps([step.number, int(os.environ.get("RANK", "0")), examples]) + "\n"
        with path.open("a") as file:
            file.write(line)
        return whole(module, step, number)

    StepModule.training_step = training_step


def reached(run_dir):
    """Give the last step that was begun, or None."""
    path = run_dir / RECORD
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])[0] if lines else None


def examples(run_dir):
    """Give the examples of each step and rank; a step that was done again must have seen the same."""
    seen = defaultdict(list)
    for line in (run_dir / RECORD).read_text().splitlines():
        step, rank, chunks = json.loads(line)
        seen[step, rank].append(chunks)
    assert all(again == each[0] for each in seen.values() for again in each), (
        "a step that was repeated saw other examples"
    )
    return {place: each[0] for place, each in seen.items()}


def finish(overrides, ranks=1, *, timeout=240, change=None, **environment):
    """Carry a run out to its end; returns its exit code and the seconds it took."""
    began = time.monotonic()
    process = start(overrides, ranks, change, **environment)
    process.join(timeout)
    if process.is_alive():
        kill_group(process)
        raise AssertionError(f"the run did not end within {timeout} s")
    return process.exitcode, time.monotonic() - began


def kill_when(process, condition, timeout=240.0):
    """Kill the whole run as soon as `condition()` holds; False if it ended before."""
    deadline = time.monotonic() + timeout
    while process.is_alive():
        if condition():
            kill_group(process)
            return True
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.002)
    process.join()
    return False
