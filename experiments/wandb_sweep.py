"""``python -m experiments.wandb_sweep COMMAND OVERRIDES``: a Hydra sweep as a W&B sweep, whose agents run our command.

``python -m experiments.wandb_sweep pretraining optimizer.peak_lr=1e-3,3e-3 seed=1,2 > sweep.yaml``, then
``wandb sweep sweep.yaml`` and ``wandb agent ...`` on as many machines as there are.
"""

from pretraining.cli.help import answer_help

if __name__ == "__main__":  # before anything slow is imported
    answer_help(__doc__)


import sys
from collections.abc import Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override

from experiments.search.sweeps import list_choices, split_sweep
from experiments.study.spec import StudyError, exit_code

COMMANDS = {"pretraining": "validation/loss", "finetuning": "validation/accuracy"}
"""What can be swept, and the metric that a search would go by."""


def sweep(command: str, overrides: Sequence[str], *, method: str = "grid") -> dict[str, Any]:
    """Specify the sweep: what has several values varies, the rest stands in the command that agents run."""
    if command not in COMMANDS:
        raise StudyError(f"got the command {command!r}: choose {' or '.join(COMMANDS)}")
    example = "several values to at least one override, such as optimizer.peak_lr=1e-3,3e-3"
    varied, fixed = split_sweep(overrides, example)
    metric = COMMANDS[command]
    return {
        "method": method,
        "metric": {"name": metric, "goal": "minimize" if metric.endswith("loss") else "maximize"},
        "program": command,
        "parameters": {override.get_key_element(): _parameter(override) for override in varied},
        # Agents fill the last word in as key=value, which is how Hydra takes it.
        "command": ["${env}", "python", "-m", command, *fixed, "${args_no_hyphens}"],
    }


def _parameter(override: Override) -> dict[str, Any]:
    interval: Any = override.value()
    between = override.is_interval_sweep()
    return {"min": interval.start, "max": interval.end} if between else {"values": list_choices(override)}


def main(arguments: Sequence[str]) -> int:
    """Print the sweep as yaml."""
    if not arguments:
        raise StudyError("give a command and its sweep: pretraining optimizer.peak_lr=1e-3,3e-3")
    method = next((a.partition("=")[2] for a in arguments if a.startswith("method=")), "grid")
    rest = [a for a in arguments[1:] if not a.startswith("method=")]
    print(yaml.safe_dump(sweep(arguments[0], rest, method=method), sort_keys=False), end="")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("wandb_sweep", lambda: main(sys.argv[1:])))
