"""The launcher's path without a cluster: submitit's local executor runs the same jobs from the same snapshot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import assert_same_end, finish, text_overrides, write_corpus

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_a_sweep_through_the_local_launcher_ends_like_runs_by_hand(tmp_path, cache_dir):
    overrides = text_overrides(write_corpus(tmp_path), cache_dir)
    command = [sys.executable, "-m", "pretraining", "-m", *overrides, "seed=1,2", "hydra/launcher=local"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "jobs run the code in" in done.stderr and list((tmp_path / "runs" / ".snapshots").iterdir())
    for number, seed in enumerate((1, 2)):
        (job,) = tmp_path.glob(f"runs/sweep-*/{number}-seed-{seed}")
        one = tmp_path / f"by-hand-{seed}"
        assert finish([*overrides, f"seed={seed}", f"run_dir={one}"]) == 0
        assert_same_end(one, job)
