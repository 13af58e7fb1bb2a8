"""Starts one process per rank on this machine, where neither torchrun nor Slurm has done it, and waits for them.

Each rank reads the resolved configuration from a file, so that no rank composes another one, whatever started the first
(a single run, a sweep, a study).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pretraining.distributed.environment import SHARED_PRECISION, SPAWNED, launched, ranks_started
from pretraining.engine.trainer import TrainerSettings
from pretraining.errors import RunError

GRACE_SECONDS = 20.0  # between one rank's failure and the end of the others


def needs_ranks(settings: TrainerSettings) -> bool:
    """Tell whether the ranks that `settings` ask for are still to be started; refuse processes that are not those."""
    started = ranks_started()
    if started == settings.ranks:
        return False
    nodes = settings.num_nodes
    if launched():
        what = f"{started} processes were started for trainer.devices={settings.devices} x trainer.num_nodes={nodes}"
        need = f"one task per device is needed, as by srun --nodes={nodes} --ntasks-per-node={settings.devices}"
        cure = "or set trainer.devices and trainer.num_nodes to what was started"
        raise RunError(f"{what} = {settings.ranks} rank(s): {need}, {cure}")
    if nodes > 1:
        launchers = f"slurm/pretrain.sbatch, hydra/launcher=slurm, or torchrun --nnodes={nodes}"
        raise RunError(f"trainer.num_nodes={nodes} needs a launcher on each node: {launchers}")
    return True


def run_ranks(module: str, config: DictConfig, ranks: int) -> int:
    """Run `module.run(config)` in `ranks` processes, passing signals on; returns their most telling exit code.

    The first rank speaks. What the others say is kept, and told where a run fails and the first has not said why.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.yaml"
        path.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        common = os.environ | {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": SPAWNED}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
        common.setdefault(SHARED_PRECISION, f"{directory}/precision")
        common.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
        command = [sys.executable, "-m", "pretraining.cli.rank", module, str(path)]
        said = [Path(directory) / f"rank-{rank}.txt" for rank in range(1, ranks)]
        with contextlib.ExitStack() as stack:
            files = [None, *(stack.enter_context(path.open("wb")) for path in said)]
            numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
            starting = zip(files, numbers, strict=True)
            codes = _wait([subprocess.Popen(command, env=common | mine, stderr=file) for file, mine in starting])
        if any(codes) and codes[0] <= 1:  # the first rank has not said why
            print("".join(path.read_text("utf-8", "replace") for path in said), end="", file=sys.stderr)
    # A rank that leaves on purpose (saved, or a clear error) says more than those its leaving brought down.
    return max((code for code in codes if code > 0), default=max(abs(code) for code in codes))


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    passed = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
    before = {number: signal.signal(number, pass_on) for number in passed}
    deadline: float | None = None
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(0.05)
            if deadline is None and any(process.poll() not in (None, 0) for process in processes):
                deadline = time.monotonic() + GRACE_SECONDS
            if deadline is not None and time.monotonic() > deadline:
                break
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    return [process.returncode for process in processes]
