"""Configurations as Hydra composes them, checked, and under the names of today. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining.cli.help import CONF
from pretraining.cli.mistakes import explain, keys_of
from pretraining.errors import RunError
from pretraining.extensions import conf_folders
from pretraining.runs.renamed import current, current_overrides
from pretraining.settings import check


def compose(
    overrides: Sequence[str], root: str = "pretrain", *, conf: Path = CONF, complete: bool = True
) -> DictConfig:
    """Compose a configuration as the command line would, and check its settings.

    Raises `RunError` for an unknown key or a value out of its range, and if the configuration is to be `complete` for
    a key without a value.
    """
    given = current_overrides(overrides)
    try:
        config = up_to_date(_composed(given, root, conf))
        if complete:
            refuse_missing(config)
    except RunError:
        raise
    except _refusals() as error:
        raise RunError(explain(error, given, _known(given, root, conf))) from error
    check_settings(config)
    return config


def _composed(overrides: Sequence[str], root: str, conf: Path) -> DictConfig:
    import hydra

    extend_search_path()
    with hydra.initialize_config_dir(str(conf), version_base=None):
        return hydra.compose(root, overrides=list(overrides))


@functools.cache
def extend_search_path() -> None:
    """Have Hydra find the options that installed packages bring, after ours (`pretraining.extensions`)."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class Installed(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for package, folder in conf_folders().items():
                search_path.append(package, f"file://{folder}")

    Plugins.instance().register(Installed)


def _refusals() -> tuple[type[Exception], ...]:
    """List what composing raises for a user's mistake: Hydra's own checks are ValueErrors and assertions, too."""
    from hydra.errors import HydraException

    return HydraException, OmegaConfBaseException, ValueError, AssertionError, TypeError


def _known(overrides: Sequence[str], root: str, conf: Path) -> list[str]:
    """List settings and groups, with those of the options that were chosen as far as these are readable."""
    groups = [path.relative_to(conf).as_posix() for path in sorted(conf.rglob("*")) if path.is_dir()]
    chosen = [given for given in overrides if given.partition("=")[0] in (*groups, "hydra.searchpath")]
    for some in (chosen, []):
        try:
            return [*keys_of(_composed(some, root, conf)), *groups]
        except _refusals():
            continue
    return groups


def check_settings(config: DictConfig) -> None:
    """Refuse a value that is not of its setting's type or range."""
    check(_plain(config))


def _plain(node: Any) -> Any:
    """Resolve a configuration, without what depends on a missing value or on a running job."""
    if isinstance(node, ListConfig):
        return OmegaConf.to_container(node) if _unresolved(node) else [_plain(part) for part in node]
    if not isinstance(node, DictConfig):
        return node
    return {str(key): _plain(node[key]) for key in node if not _unresolved(node, key)}


def _unresolved(node: Any, key: Any = None) -> bool:
    try:
        list(node) if key is None else node[key]
    except OmegaConfBaseException:
        return True
    return False


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
