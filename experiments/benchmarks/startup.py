"""How long the demo's text model takes from the command to its first optimizer step.

    python -m experiments.benchmarks.startup

A first run fills the caches of documents, tokenizer and plan; then fresh processes are timed. `--imports` adds what
takes longest to import (`python -X importtime`). The last line is one JSON object; `seconds_to_first_step` is the
median.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.benchmarks.turns import CORES, read_options

MODEL = ["objective=masked_language", "data=stdlib_docs", "backbone=modernbert_tiny"]
# Two steps: the last one validates and hands over.
SHORT = ["trainer.max_steps=2", "trainer.log_every=1", "trainer.val_every=0", "logger.wandb.mode=disabled"]


def first_step(threads: int) -> float:
    """Start a run; returns the seconds until it says that it has taken a step."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pretraining", *MODEL, *SHORT, f"run_dir={directory}/run"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("step 1/2"):
                seconds = time.perf_counter() - started
                process.communicate()
                return seconds
        raise SystemExit(f"the run ended without a step (exit code {process.wait()}):\n{''.join(said)}")


def imports(count: int) -> tuple[float, list[tuple[str, float]]]:
    """Measure the seconds that importing the command takes, and list the packages with the most time of their own."""
    command = [sys.executable, "-X", "importtime", "-c", "import pretraining.launch"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    own: dict[str, float] = {}
    for line in lines:
        part = line.removeprefix("import time:").split("|")
        if len(part) == 3 and part[0].strip().isdigit():
            package = part[2].strip().split(".")[0]
            own[package] = own.get(package, 0.0) + int(part[0]) / 1e6
    return sum(own.values()), sorted(own.items(), key=lambda pair: -pair[1])[:count]


def main() -> None:
    """Measure and print."""
    given = read_options(__doc__, rounds=5, threads=CORES, imports={"action": "store_true"})
    first_step(given.threads)
    seconds = [first_step(given.threads) for _ in range(given.rounds)]
    found = {"seconds_to_first_step": round(statistics.median(seconds), 2), "fastest": round(min(seconds), 2)}
    if given.imports:
        total, packages = imports(12)
        found["import_seconds"] = round(total, 2)
        for package, own in packages:
            print(f"  {package:24}{own:7.2f} s")
    print(json.dumps({**found, "slowest": round(max(seconds), 2), "threads": given.threads}))


if __name__ == "__main__":
    main()
