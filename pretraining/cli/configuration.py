"""From a command line to a checked configuration: what the commands share. Knows no objective and no task."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pretraining.cli.compose import CONF as CONF
from pretraining.cli.compose import check_settings, refuse_missing, up_to_date
from pretraining.cli.compose import compose as compose
from pretraining.distributed.collectives import leave_group
from pretraining.distributed.environment import batch_job, restarted
from pretraining.errors import CheckpointError, HandoffError, NonFiniteError, Preempted, RunError
from pretraining.runs import snapshot
from pretraining.runs.csv_logger import CsvHistory
from pretraining.runs.provenance import columns, environment
from pretraining.runs.provenance import tags as tags_of
from pretraining.runs.renamed import current, current_overrides
from pretraining.runs.wandb_logger import Tracked, WandbHistory


@contextlib.contextmanager
def as_run_errors() -> Iterator[None]:
    """Turn errors about values and files, found while parts are built, into ones that are printed as one message."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise error if isinstance(error, (RunError, HandoffError)) else RunError(str(error)) from error


def instantiate(node: Any, **parts: Any) -> Any:
    """Build what `node` describes, with `parts` handed to it as they are; a wrong value is a `RunError`."""
    import hydra
    from hydra.errors import InstantiationException

    try:
        make = hydra.utils.instantiate(node, _convert_="all", _partial_=True)
        inspect.signature(make.func).bind(*make.args, **{**make.keywords, **parts})
    except InstantiationException as error:
        raise RunError(f"{node.get('_target_')}: {' '.join(str(error).split())}") from error
    except TypeError as error:
        raise RunError(f"{node.get('_target_')}: {error}") from error
    return make(**parts)


def rerun(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Take the configuration of the finished run `config.from_run`, with `overrides` on top."""
    path = Path(config.from_run) / "config.yaml"
    if not path.is_file():
        raise RunError(f"from_run={config.from_run}: no config.yaml there; give the directory of a run")
    base = OmegaConf.create(current(OmegaConf.to_container(OmegaConf.load(path))))
    base.run_dir, base.resume = None, "none"
    OmegaConf.set_struct(base, True)
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


def class_of(node: Any) -> Any:
    """Find the class that `node` describes."""
    import hydra

    return hydra.utils.get_class(node["_target_"])


def check_modalities(config: DictConfig) -> None:
    """Refuse parts that do not read the same kind of data, before anything is built."""
    kinds = {part: class_of(config[part]).modality for part in ("objective", "data", "backbone")}
    names = {part: class_name(config[part]) for part in kinds}
    if len({kind for kind in kinds.values() if kind is not None}) > 1:
        what = f"objective={names['objective']} learns from {kinds['objective']}, data={names['data']} is"
        what += f" {kinds['data']} and backbone={names['backbone']} reads {kinds['backbone']}"
        raise RunError(f"{what}: choose three of one kind")
    if config.probe is not None and not kinds["data"].probes:
        raise RunError(f"probe= is not for {kinds['data']} (data={class_name(config.data)}): set probe=none")


def class_name(node: DictConfig) -> str:
    """Read the name of the class that `node` describes."""
    return node._target_.rpartition(".")[2]


def this_moment() -> str:
    """Name this second in this process: another one may start in the same second."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"


def decided(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """Copy a configuration with values decided while the parts were built: a run records what it uses."""
    config = config.copy()
    for key, value in values.items():
        OmegaConf.update(config, key, value)
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
    return loggers


@contextlib.contextmanager
def exit_cleanly() -> Iterator[None]:
    """Turn errors that a user can mend into one message on stderr and exit code 2; the rest keeps its traceback."""
    try:
        yield
        leave_group()
    except Preempted:  # as all ranks have agreed to
        leave_group()
        raise
    except (RunError, HandoffError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OmegaConfBaseException as error:  # a setting that was taken away, or that points at one
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    except (CheckpointError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error}. Checkpoints are intact: free space, then resume=auto", file=sys.stderr)
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
    sweep = f"runs/sweep-{this_moment()}"
    # Only what varies names a job. Read here: a job on a cluster has another command line.
    varied = {argument.partition("=")[0] for argument in sys.argv[1:] if "," in argument or "(" in argument}

    begun = []

    def job(config: DictConfig) -> None:
        begun.append(True)
        with exit_cleanly():
            refuse_missing(config)
            place_in_sweep(config, sweep, varied)
            config = up_to_date(config)
            check_settings(config)
            main(config, list(HydraConfig.get().overrides.task))

    sys.argv[1:] = current_overrides(sys.argv[1:])
    try:
        hydra.main(config_path=str(CONF), config_name=root, version_base=None)(job)()
    except SystemExit as end:
        # What Hydra refuses before any job is a mistake in the command line, and has been said.
        sys.exit(end.code if begun or end.code != 1 else 2)


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
