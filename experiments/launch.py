"""From the command line to a report: compose the study, run what is missing, compare, write."""

import gc
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from experiments.monitor.progress import shown
from experiments.report import write as report
from experiments.report.compare import compare
from experiments.report.table import table
from experiments.report.words import cost_in_words, pretraining_in_words
from experiments.search.tuning import needs_settling, settle
from experiments.study.collect import collect, save_study
from experiments.study.graph import PRETRAINING, Resolve, arms_of, expand
from experiments.study.runner import DONE, FAILED, SKIPPED, Executor, Here, Processes, Run, only_one, run_study
from experiments.study.spec import StudyError
from pretraining.cli.compose import CONF, compose
from pretraining.errors import RunError

ROOTS = {PRETRAINING: "pretrain", "finetuning": "finetune", "experiments": "study"}


class Commands(NamedTuple):
    """The doors to the packages that a study drives; tests put their own behind them."""

    resolve: Resolve
    run: Run
    measure: Callable[[Sequence[str]], int]


def resolved(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration that a command would run with, as plain containers; takes no torch."""
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


def measured_steps(overrides: Sequence[str]) -> int:
    """How many steps of a pretraining its budget buys on this machine."""
    launch = importlib.import_module("pretraining.launch")
    return launch.affordable_steps(launch.compose(list(overrides)))


COMMANDS = Commands(resolved, run_command, measured_steps)


def main(overrides: Sequence[str], commands: Commands = COMMANDS) -> int:
    """Run a study to its report; 0 if every run has its numbers."""
    # What is piped into a file has no width; rich would cut its lines to 80.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    config = resolved("experiments", overrides)
    spec, directory = config["study"], Path(config["study_dir"])
    study = expand(spec, directory=directory, resolve=commands.resolve)
    with only_one(study.directory):
        if needs_settling(spec):
            arms = list(arms_of(spec, commands.resolve))
            settled = settle(
                spec,
                arms,
                directory,
                lambda: _executor(config, directory, commands.run),
                commands.measure,
                _teller(console),
            )
            study = expand(spec, directory=directory, resolve=commands.resolve, settled=settled)
        save_study(study)
        with shown(study) as progress:
            executor = _executor(config, study.directory, commands.run)
            try:
                status = run_study(study, executor=executor, watch=progress, retry_failed=config["retry_failed"])
            finally:
                executor.close()
        results = collect(study)
        path = report.write(results)
    title = f"{study.name}: {study.question}"
    comparison = compare(results)
    console.print(table(comparison, title, wide=console.width >= 100))
    for sentence in [
        *pretraining_in_words(comparison),
        *(f"{cost.arm}: {cost_in_words(cost)}." for cost in comparison.costs),
    ]:
        console.print(sentence, highlight=False)
    console.print(f"report: {path}", soft_wrap=True, highlight=False)
    return _farewell(console, status)


def _teller(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, highlight=False, soft_wrap=True)


def _executor(config: Mapping[str, Any], directory: Path, run: Run) -> Executor:
    if config["executor"]:
        from experiments.study.slurm_jobs import SlurmJobs

        return SlurmJobs(directory, **config["executor"])
    workers = config["workers"]
    if not isinstance(workers, int) or workers < 1:
        raise StudyError(f"workers is {workers}: give 1 (runs in this process) or the number of processes")
    return Here(directory, run) if workers == 1 else Processes(directory, run, workers)


def _farewell(console: Console, status: Mapping[str, str]) -> int:
    found = list(status.values())
    if all(state == DONE for state in found):
        return 0
    console.print(
        f"[red]{found.count(FAILED)} of {len(found)} runs failed[/], {found.count(SKIPPED)} were "
        "skipped because of it; retry_failed=true runs them again",
        highlight=False,
    )
    return 1


def cli() -> None:
    """The console script: one clear line for what the user can change, exit code 2."""
    try:
        sys.exit(main(sys.argv[1:]))
    except StudyError as error:
        print(f"study: {error}", file=sys.stderr)
        sys.exit(2)
