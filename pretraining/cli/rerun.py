"""A finished run's configuration, to be run again with other settings on top."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining.cache import RESTORE
from pretraining.cli.compose import check_settings
from pretraining.errors import RunError
from pretraining.runs.directory import read_config
from pretraining.runs.renamed import current, current_overrides


def rerun(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Take the configuration of the finished run `config.from_run`, with `overrides` on top."""
    path = Path(config.from_run) / "config.yaml"
    if not path.is_file():
        raise RunError(f"from_run={config.from_run}: no config.yaml there; give the directory of a run")
    plain = current(OmegaConf.to_container(read_config(path)))
    _refuse_classes_of_another_script(plain, path)
    base = OmegaConf.create(plain)
    base.run_dir, base.resume = None, "none"
    OmegaConf.set_struct(base, True)
    if lacking := [key for key in ("name", "objective", "data", "backbone", "trainer", "seed") if key not in base]:
        raise RunError(f"{path} is damaged (it lacks {', '.join(lacking)}): {RESTORE}")
    for override in current_overrides(overrides):
        key, _, value = override.lstrip("+").partition("=")
        if key == "from_run":
            continue
        if OmegaConf.is_dict(OmegaConf.select(base, key)):
            what = f"with from_run= single values can change, but {key} is a group"
            raise RunError(f"{override}: {what}; start a new run for that")
        try:
            OmegaConf.update(base, key, OmegaConf.create(f"value: {value}").value)
        except OmegaConfBaseException as error:
            raise RunError(f"{override}: {path} has no such key") from error
    check_settings(base)
    return base


def _refuse_classes_of_another_script(node: Any, path: Path) -> None:
    """Refuse what a script or notebook defined that is not this process's own: nothing can import it."""
    target = str(node.get("_target_")) if isinstance(node, dict) else ""
    module, _, name = target.partition(".")
    if module == "__main__" and not hasattr(sys.modules[module], name.partition(".")[0]):
        what = f"{path} has the class {name}, which the script that began the run defined itself"
        cure = "move it into a module, which that script imports, or repeat the run in that script"
        raise RunError(f"{what}: {cure} (recipe('from_run={path.parent}'))")
    for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _refuse_classes_of_another_script(part, path)
