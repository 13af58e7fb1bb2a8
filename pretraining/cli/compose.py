"""Configurations as Hydra composes them, under the names of today. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining.cli.help import CONF
from pretraining.errors import RunError
from pretraining.runs.renamed import current, current_overrides


def compose(
    overrides: Sequence[str], root: str = "pretrain", *, conf: Path = CONF, complete: bool = True
) -> DictConfig:
    """Compose a configuration as the command line would.

    Raises `RunError` for an unknown key, and if the configuration is to be `complete` for one without a value.
    """
    import hydra
    from hydra.errors import HydraException

    try:
        with hydra.initialize_config_dir(str(conf), version_base=None):
            config = up_to_date(hydra.compose(root, overrides=current_overrides(overrides)))
        if complete:
            refuse_missing(config)
    except (HydraException, OmegaConfBaseException) as error:
        said = str(error).split("\nConfig search path")[0].split("\nSet the environment")[0]
        raise RunError(" ".join(said.split("\n"))) from error
    return config


def up_to_date(config: DictConfig) -> DictConfig:
    """Name classes and keys of a configuration as they are called now."""
    plain = OmegaConf.to_container(config)
    fresh = current(plain)
    if fresh == plain:
        return config
    renewed = OmegaConf.create(fresh)
    OmegaConf.set_struct(renewed, True)
    return renewed


def refuse_missing(config: DictConfig) -> None:
    """Refuse mandatory keys without a value, naming them."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise RunError(f"no value for {', '.join(missing)}: give {' '.join(f'{key}=...' for key in missing)}")
