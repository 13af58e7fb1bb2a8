"""`python -m pretraining.rank MODULE CONFIG`: one of the processes that `pretraining.cli.spawn` starts; calls MODULE's `run`."""

from __future__ import annotations

import importlib
import sys

from omegaconf import DictConfig, OmegaConf

from pretraining.cli import startup


def main() -> None:
    """Be one rank."""
    startup.install()
    from pretraining.cli.configuration import exit_cleanly

    module, path = sys.argv[1:]
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    with exit_cleanly():
        importlib.import_module(module).run(config)


if __name__ == "__main__":
    main()
