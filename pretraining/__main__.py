"""`python -m pretraining [overrides]`: one pretraining run, or a sweep with -m."""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from pretraining.launch import CONF, exit_cleanly, main, refuse_missing
from pretraining.run import RunError


def place_in_sweep(config: DictConfig, prefix: str) -> None:
    """Give each job of a sweep a run directory of its own, named after what it overrides."""
    job = HydraConfig.get().job
    if HydraConfig.get().mode != RunMode.MULTIRUN or config.run_dir is not None:
        return
    swept = "-".join(part.replace("=", "-").replace("/", ".").replace(",", "_") for part in job.override_dirname.split(","))
    with open_dict(config):
        config.run_dir = f"{prefix}/{job.num}-{swept}"[:200]


def refuse_shared_run_dir(arguments: list[str]) -> None:
    """Refuse a sweep whose jobs would all write to one directory."""
    multirun = any(argument in ("-m", "--multirun") for argument in arguments)
    fixed = [a for a in arguments if a.startswith("run_dir=") and "," not in a and "${" not in a]
    if multirun and fixed:
        raise RunError(f"{fixed[0]} would be shared by every job of this sweep: leave it out, or let it vary (run_dir=runs/a,runs/b or with ${{...}})")


@hydra.main(config_path=str(CONF), config_name="pretrain", version_base=None)
def _hydra_main(config: DictConfig) -> None:
    with exit_cleanly():
        import time

        refuse_missing(config)
        place_in_sweep(config, f"runs/sweep-{time.strftime('%Y%m%d-%H%M%S')}")
        main(config, list(HydraConfig.get().overrides.task))


def cli() -> None:
    """Run the command line: errors that a user can mend are one message and exit code 2."""
    with exit_cleanly():
        refuse_shared_run_dir(sys.argv[1:])
    _hydra_main()


if __name__ == "__main__":
    cli()
