"""From a command line to a checked configuration: what the commands share. Knows no objective and no task."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pretraining.cache import is_full
from pretraining.cli.compose import CONF as CONF
from pretraining.cli.compose import check_settings, extend_search_path, refuse_missing, up_to_date
from pretraining.cli.compose import compose as compose
from pretraining.cli.sweep import Sweep
from pretraining.distributed.collectives import is_distributed, leave_group
from pretraining.distributed.environment import batch_job, process_rank, restarted, speaks
from pretraining.errors import CheckpointError, NonFiniteError, Preempted, RunError, reason_of
from pretraining.runs import snapshot
from pretraining.runs.csv_logger import CsvHistory
from pretraining.runs.provenance import columns, environment
from pretraining.runs.provenance import tags as tags_of
from pretraining.runs.renamed import current_overrides
from pretraining.runs.wandb_logger import Tracked, WandbHistory


@contextlib.contextmanager
def as_run_errors() -> Iterator[None]:
    """Turn errors about values and files, found while parts are built, into ones that are printed as one message."""
    try:
        yield
    except (ValueError, OSError) as error:
        known = isinstance(error, RunError) or is_full(error)
        raise error if known else RunError(str(error)) from error


def instantiate(node: Any, **parts: Any) -> Any:
    """Build what `node` describes, with `parts` handed to it as they are; a wrong value is a `RunError`."""
    import hydra
    from hydra.errors import InstantiationException

    target = target_of(node)
    try:
        make = hydra.utils.instantiate(node, _convert_="all", _partial_=True)
        inspect.signature(make.func).bind(*make.args, **{**make.keywords, **parts})
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):  # of a part inside: it says enough
            raise RunError(str(error.__cause__)) from error
        raise RunError(f"{target}: {' '.join(str(error).split())}") from error
    except TypeError as error:
        raise RunError(f"{target}: {error}") from error
    return make(**parts)


def class_of(node: Any) -> Any:
    """Find the class that `node` describes."""
    import hydra

    try:
        return hydra.utils.get_class(target_of(node))
    except (ImportError, ValueError) as error:
        raise RunError(f"_target_={target_of(node)} is no class: {' '.join(str(error).split())}") from error


def check_modalities(classes: Mapping[str, Any]) -> None:
    """Refuse classes of an objective, data, a backbone and a probe (or None) that do not read the same kind of data."""
    kinds = {part: classes[part].modality for part in ("objective", "data", "backbone")}
    names = {part: classes[part].__name__ for part in kinds}
    if len({kind for kind in kinds.values() if kind is not None}) > 1:
        what = f"objective={names['objective']} learns from {kinds['objective']}, data={names['data']} is"
        what += f" {kinds['data']} and backbone={names['backbone']} reads {kinds['backbone']}"
        raise RunError(f"{what}: choose three of one kind")
    wanted, probe = kinds["data"].probes, classes["probe"]
    if probe is not None and probe.kind != wanted:
        cure = "set probe=none" if wanted is None else f"set probe={wanted} or probe=none"
        what = f"probe={probe.kind} is not for {kinds['data']} (data={names['data']})"
        raise RunError(f"{what}: {cure}")


def class_name(node: DictConfig) -> str:
    """Read the name of the class that `node` describes."""
    return target_of(node).rpartition(".")[2]


def target_of(node: Any) -> str:
    """Read where the class lies that `node` describes; a part without one was not chosen among its group's options."""
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        return node["_target_"]
    key = node._get_full_key(None) if OmegaConf.is_config(node) else "a part"
    cure = "choose one of its options (GROUP=NAME), and set its values one by one"
    raise RunError(f"{key}={node} has no _target_, which says what it is: {cure}")


def this_moment() -> str:
    """Name this second in this process: another one may start in the same second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def decided(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Copy a configuration with values decided while the parts were built: a run records what it uses."""
    config = config.copy()
    for key, value in values.items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


def complete(config: DictConfig, parts: Sequence[str] = ("objective", "data")) -> DictConfig:
    """Fill in a run's name (after the classes of `parts`), its directory, and resume=auto on a cluster.

    The directory is named after what and when; on a Slurm cluster after the job, where requeues find it.
    """
    config = config.copy()
    OmegaConf.set_struct(config, True)
    if config.name is None:
        config.name = "-".join(class_name(config[part]) for part in parts)
    if config.run_dir is None:
        job = batch_job()
        name = f"slurm-{job}" if job else f"{config.name}-{this_moment()}"
        config.run_dir, config.resume = f"runs/{name}", "auto" if job else config.resume
    if restarted():
        config.resume = "auto"  # whatever the first life began from
    return config


def make_loggers(
    config: DictConfig, directory: Path, *, job_type: str, tags: Sequence[str], origin: Mapping[str, Any]
) -> list[Any]:
    """Make the loggers that are switched on. `origin` tells of the weights that the run makes or starts from."""
    loggers: list[Any] = [CsvHistory(directory / "metrics.csv")] if config.logger.csv else []
    settings = config.logger.wandb
    if settings.mode != "disabled":
        plain: Any = OmegaConf.to_container(config, resolve=True)
        plain |= {"pretrain": columns(origin), "environment": environment()}
        named = {"project": settings.project, "name": config.name, "group": config.group, "job_type": job_type}
        tracked = Tracked(**named, tags=tags_of(*settings.tags, *tags), config=plain)
        options = {"mode": settings.mode, "patience": settings.patience, "upload_bytes": settings.upload_bytes}
        with as_run_errors():
            loggers.append(WandbHistory(directory, tracked=tracked, **options))
    return [*loggers, *_other_loggers(config, directory)]


def _other_loggers(config: DictConfig, directory: Path) -> list[Any]:
    """Make the loggers of `logger.others`, on the first rank; one that cannot be made is a mistake in the settings."""
    others = config.logger.get("others") or {}  # of a run begun before, nothing
    if process_rank() > 0 or not others:
        return []
    import hydra

    from pretraining.runs.other_logger import OtherHistory, placed

    settings: Any = OmegaConf.to_container(config, resolve=True)
    _set_variables(settings["logger"].get("environment") or {})
    made = []
    for name, node in others.items():
        target_of(node)
        described = placed(OmegaConf.to_container(node, resolve=True), directory)
        try:
            make = hydra.utils.instantiate(described, _convert_="all", _partial_=True)
            made.append(OtherHistory(name, make=make, directory=directory, settings=settings))
        except Exception as error:  # of any library: it does not start the run
            lacking = isinstance(error, ModuleNotFoundError) or isinstance(error.__cause__, ModuleNotFoundError)
            cure = "pip install 'pretraining[loggers]', or what the logger needs" if lacking else "mend its arguments"
            raise RunError(f"logger.others.{name} cannot be made: {reason_of(error)}: {cure}") from error
    return made


_SET_HERE: dict[str, str] = {}  # environment variables, by the last run of this process


def _set_variables(values: Mapping[str, Any]) -> None:
    """Set the environment variables of a run's loggers, in place of an earlier run's; those of the user's shell win."""
    for variable, value in values.items():
        if not isinstance(value, str | int | float):
            what = f"got logger.environment.{variable}={value}, but environment variables are texts"
            raise RunError(f"{what}: give a text or a number, or leave it out")
    for variable in [name for name, value in _SET_HERE.items() if os.environ.get(name) == value]:
        del os.environ[variable]
    _SET_HERE.clear()
    texts = {str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    _SET_HERE.update({name: text for name, text in texts.items() if name not in os.environ})
    with as_run_errors():  # of names that a system does not take
        os.environ.update(_SET_HERE)


@contextlib.contextmanager
def settings_as_run_errors() -> Iterator[None]:
    """Turn errors about a setting that was taken away, or points at one, into ones that are printed as one message."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise RunError(str(error).splitlines()[0]) from error


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn errors that a user can mend into one message on stderr and exit code 2; the rest keeps its traceback."""
    try:
        with settings_as_run_errors():
            yield
        leave_group()
    except Preempted:  # as all ranks have agreed to
        leave_group()
        raise
    except RunError as error:
        if speaks() or is_distributed():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (CheckpointError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except OSError as error:
        if not is_full(error):
            raise
        cure = "free space, then start it again (with resume=auto, a run goes on from its last checkpoint)"
        print(f"error: {error}: {cure}", file=sys.stderr)
        sys.exit(3)


# -- command lines -----------------------------------------------------------------------------------------------------


def command_line(root: str, main: Callable[[DictConfig, Sequence[str]], Any]) -> None:
    """Run `main` on what Hydra makes of the command line, once or for each job of a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    with exit_cleanly():
        if not snapshot.is_taken():
            refuse_shared_run_dir(sys.argv[1:])
        if snapshot.submits_jobs(sys.argv[1:]):
            snapshot.submit_from_snapshot()
    place, sweep = f"runs/sweep-{this_moment()}", Sweep(sys.argv[1:])

    def job(config: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        sweep.begin(config, overrides)
        with exit_cleanly():
            refuse_missing(config)
            place_in_sweep(config, place, set(sweep.varied))
            config = up_to_date(config)
            check_settings(config)
            main(config, overrides)

    sys.argv[1:] = current_overrides(sys.argv[1:])
    extend_search_path()
    try:
        hydra.main(config_path=str(CONF), config_name=root, version_base=None)(job)()
    except SystemExit as end:
        # What Hydra refuses before any job is a mistake in the command line, and has been said.
        sys.exit(end.code if sweep.rows or end.code != 1 else 2)
    finally:
        sweep.end()


def place_in_sweep(config: DictConfig, directory: str, varied: set[str]) -> None:
    """Set the run directory of a sweep's job, named after those of its overrides that vary."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.get().mode != RunMode.MULTIRUN or config.run_dir is not None:
        return
    # No "=" in file names: an override that names such a path would need quotes.
    mine = [override for override in HydraConfig.get().overrides.task if override.partition("=")[0] in varied]
    named = "-".join([str(HydraConfig.get().job.num), *mine]).replace("=", "-").replace("/", ".")
    with open_dict(config):
        config.run_dir = f"{directory}/{named}"[:200]


def refuse_shared_run_dir(arguments: Sequence[str]) -> None:
    """Refuse a sweep whose jobs would all write to one directory."""
    multirun = any(argument in ("-m", "--multirun") for argument in arguments)
    fixed = [a for a in arguments if a.startswith("run_dir=") and "," not in a and "${" not in a]
    if multirun and fixed:
        cure = "leave it out, or let it vary (run_dir=runs/a,runs/b or with ${...})"
        raise RunError(f"{fixed[0]} would be shared by every job of this sweep: {cure}")
