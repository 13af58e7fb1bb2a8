"""From the command line to a report: compose the study, run what is missing, compare, write."""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from experiments.monitor.progress import draw_progress
from experiments.report import words
from experiments.report import write as report
from experiments.report.compare import compare
from experiments.report.table import result_table
from experiments.search.tuning import decide, needs_decisions
from experiments.study.collect import collect, refuse_former_study, save_study
from experiments.study.graph import FINETUNING, PRETRAINING, Resolve, expand, list_arms
from experiments.study.runner import DONE, FAILED, SKIPPED, Executor, Here, Processes, Run, lock_study, run_study
from experiments.study.spec import StudyError, check, exit_code
from pretraining.cli.compose import CONF, compose
from pretraining.distributed.environment import SHARED_PRECISION
from pretraining.errors import RunError

ROOTS = {PRETRAINING: "pretrain", FINETUNING: "finetune", "experiments": "study"}


class Commands(NamedTuple):
    """The packages that a study drives, as functions; tests put their own in their place."""

    resolve: Resolve
    run: Run
    measure: Callable[[Sequence[str]], int]


def resolve_config(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Resolve the configuration that a command would run with into plain containers; imports no torch."""
    try:
        config = compose(overrides, ROOTS[command], conf=CONF, complete=False)
        container = OmegaConf.to_container(config, resolve=True)
    except (RunError, OmegaConfBaseException) as error:
        raise StudyError(f"{command} cannot be configured with {' '.join(overrides)}:\n{error}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def run_command(command: str, overrides: Sequence[str]) -> None:
    """Carry a command out in this process, exactly as its own command line would."""
    # Imported when there is something to run: a complete study should not wait for torch.
    launch = importlib.import_module(f"{command}.launch")
    launch.main(launch.compose(list(overrides)), list(overrides))
    gc.collect()  # Trainers and models hold one another in cycles: free them before the next run.


def run_beside_others(run: Run, directory: Path, command: str, overrides: Sequence[str]) -> None:
    """Carry a command out in a process beside others, which share one choice of trainer.precision=auto."""
    os.environ[SHARED_PRECISION] = str(directory / "precision")
    run(command, overrides)


def measure_steps(overrides: Sequence[str]) -> int:
    """Count the steps of a pretraining that its budget buys on this machine."""
    launch = importlib.import_module("pretraining.launch")
    return launch.affordable_steps(launch.compose(list(overrides)))


COMMANDS = Commands(resolve_config, run_command, measure_steps)


def main(overrides: Sequence[str], commands: Commands = COMMANDS) -> int:
    """Run a study to its report; 0 if every run has its numbers."""
    # What is piped into a file has no width; rich would cut its lines to 80.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    config = resolve_config("experiments", overrides)
    spec, directory = with_search_path(config["study"], overrides), Path(config["study_dir"])
    refuse_former_study(directory)
    study = expand(spec, directory=directory, resolve=commands.resolve)

    executor = partial(_executor, config, directory, commands.run)
    tell = partial(console.print, highlight=False, soft_wrap=True)
    with lock_study(directory):
        if needs_decisions(spec):
            arms = list(list_arms(spec, commands.resolve))
            decided = decide(spec, arms, directory, executor, commands.measure, tell)
            study = expand(spec, directory=directory, resolve=commands.resolve, decided=decided)
        save_study(study)
        with draw_progress(study) as progress, closing(executor()) as opened:
            status = run_study(study, executor=opened, watch=progress, retry_failed=config["retry_failed"])
        results = collect(study)
        path = report.write(results)
    comparison = compare(results)
    console.print(result_table(comparison, f"{study.name}: {study.question}", wide=console.width >= 100))
    costs = [f"{cost.arm}: {words.describe_cost(cost)}." for cost in comparison.costs]
    for sentence in [*words.describe_pretraining(comparison), *costs]:
        console.print(sentence, highlight=False)
    tell(f"report: {path}")
    ends = list(status.values())
    if all(state == DONE for state in ends):
        return 0
    failed, rest = ends.count(FAILED), f"{ends.count(SKIPPED)} were skipped because of it"
    again = f"{rest}; retry_failed=true runs them again"
    console.print(f"[red]{failed} of {len(ends)} runs failed[/], {again}", highlight=False)
    return 1


def with_search_path(spec: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Have each run of a study look for its settings where the study was found (`hydra.searchpath=`)."""
    check(spec)
    found = [given for given in overrides if given.startswith("hydra.searchpath=")]
    entries = {
        part: {name: {**entry, "overrides": [*found, *entry["overrides"]]} for name, entry in spec[part].items()}
        for part in ("pretrain", "finetune")
    }
    return {**spec, **entries} if found else dict(spec)


def _executor(config: Mapping[str, Any], directory: Path, run: Run) -> Executor:
    if config["executor"]:
        from experiments.study.slurm_jobs import SlurmJobs

        return SlurmJobs(directory, **config["executor"])
    workers = config["workers"]
    if not isinstance(workers, int) or workers < 1:
        raise StudyError(f"workers is {workers}: give 1 (runs in this process) or the number of processes")
    return (
        Here(directory, run)
        if workers == 1
        else Processes(directory, partial(run_beside_others, run, directory), workers)
    )


def cli() -> None:
    """Run the command: one clear line for what the user can change, exit code 2."""
    sys.exit(exit_code("study", lambda: main(sys.argv[1:])))
