"""`python -m pretraining.cli.rank MODULE CONFIG`: calls MODULE's `run` as one of the ranks that `spawn` starts."""

from __future__ import annotations

import importlib
import sys

from omegaconf import DictConfig, OmegaConf

from pretraining.engine.memory import keep_freed_memory


def main() -> None:
    """Be one rank."""
    keep_freed_memory()
    from pretraining.cli.configuration import exit_cleanly

    module, path = sys.argv[1:]
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    with exit_cleanly():
        importlib.import_module(module).run(config)


if __name__ == "__main__":
    main()
