"""What scripts give the runs of the command line: settings, loggers of their own; and its refusals as exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining.cli.compose import check_settings
from pretraining.cli.configuration import compose, instantiate, settings_as_run_errors
from pretraining.cli.spawn import needs_ranks
from pretraining.errors import Preempted, RunError
from pretraining.settings import paths_as_texts


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """For scripts: whatever a user can mend is a `RunError` with the words of the command line, and nothing exits."""
    try:
        with settings_as_run_errors():
            yield
    except Preempted:
        raise
    except SystemExit as end:
        raise RunError(f"a process of this run has ended with exit code {end.code}, and said why above") from end


def with_settings(config: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """Copy a configuration with those `settings` that are given, whose values are checked."""
    config = config.copy()
    for name, value in settings.items():
        if value is None:
            continue
        if name in ("trainer", "probe") or isinstance(value, DictConfig):  # a whole part
            config[name] = value or None
            continue
        try:
            if name == "logger":
                for free in ("others", "environment"):  # names of the user's own
                    if OmegaConf.is_dict(config.logger.get(free)):
                        OmegaConf.set_struct(config.logger[free], False)
            OmegaConf.update(config, name, paths_as_texts(value), merge=True)
        except OmegaConfBaseException as error:
            known = f"it has {', '.join(map(str, config[name]))}" if OmegaConf.is_dict(config[name]) else ""
            raise RunError(f"{name}={value}: {str(error).splitlines()[0]}; {known}") from error
    check_settings(config)
    return config


def named_logger(logger: Any, overrides: Sequence[str]) -> Any:
    """Read the settings of a logger of conf/ by its name, with those that `overrides` change; others stay as given."""
    if not isinstance(logger, str):
        return logger
    changed = [word for word in overrides if word.lstrip("+~").startswith("logger.")]
    return compose([f"logger={logger}", *changed]).logger


def check_loggers(loggers: Any) -> None:
    """Refuse what is no list of loggers."""
    if not isinstance(loggers, Sequence):
        raise RunError(f"got {type(loggers).__name__} as loggers=: give a list of Lightning loggers")
    for each in loggers:
        if not hasattr(each, "log_metrics"):
            raise RunError(f"got {type(each).__name__} among loggers=: give Lightning loggers, or a name as logger=")


def refuse_ranks(config: DictConfig, loggers: Sequence[Any]) -> None:
    """Refuse loggers, which are of this process, for a run that starts others."""
    if loggers and needs_ranks(instantiate(config.trainer)):
        what = f"got loggers of this process, and trainer.devices={config.trainer.devices}, which starts others"
        raise RunError(f"{what}: start this script by torchrun, or name them in logger=")
