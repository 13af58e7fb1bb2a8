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
from experiments.report.flags import unmeasured, warnings
from experiments.report.table import result_table
from experiments.search.tuning import decide, needs_decisions
from experiments.study.collect import collect, refuse_former_study, save_study
from experiments.study.graph import FINETUNING, PRETRAINING, Resolve, Study, expand, list_arms
from experiments.study.plan import print_plan
from experiments.study.references import Fit, fit_references
from experiments.study.runner import (
    DONE,
    FAILED,
    SKIPPED,
    Executor,
    Here,
    Journal,
    Processes,
    Run,
    lock_study,
    run_study,
)
from experiments.study.spec import CLASSICAL, StudyError, completed, exit_code
from pretraining.cli.compose import CONF, compose
from pretraining.distributed.environment import SHARED_PRECISION
from pretraining.errors import RunError

ROOTS = {PRETRAINING: "pretrain", FINETUNING: "finetune", "experiments": "study"}


class Commands(NamedTuple):
    """The packages that a study drives, as functions; tests put their own in their place."""

    resolve: Resolve
    run: Run
    measure: Callable[[Sequence[str]], int]
    time: Callable[[Sequence[str]], tuple[int, float]]  # steps of a pretraining, and seconds of each
    measured: Callable[[Any], Sequence[str] | None]  # what a configured task measures; None where it does not say
    classical: Fit


def resolve_config(command: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Resolve the configuration that a command would run with into plain containers; imports no torch."""
    try:
        config = compose(overrides, ROOTS[command], conf=CONF, complete=False)
        container = OmegaConf.to_container(config, resolve=True)
    except (RunError, OmegaConfBaseException) as error:
        what = "" if command == "experiments" else f"{command} cannot be configured with {' '.join(overrides)}:\n"
        raise StudyError(f"{what}{error}") from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def resolve_study(overrides: Sequence[str]) -> dict[str, Any]:
    """Resolve the configuration of a study, which is called like its file where it has no name."""
    config = resolve_config("experiments", overrides)
    chosen = [given.partition("=")[2] for given in overrides if given.startswith("study=")]
    study = config["study"] | {"name": config["study"]["name"] or Path(chosen[-1]).name}
    place = config["study_dir"] or f"studies/{study['name']}"
    return config | {"study": with_overrides(study, overrides, config["overrides"]), "study_dir": place}


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


def time_steps(overrides: Sequence[str]) -> tuple[int, float]:
    """Count the steps of a pretraining, and time some on this machine."""
    launch, cost = (importlib.import_module(f"pretraining.{name}") for name in ("launch", "cost"))
    planned = launch.prepared(launch.complete(launch.compose(list(overrides))))
    return planned.settings.max_steps, cost.seconds_per_step(planned.parts, planned.settings)


def measured_metrics(task: Any) -> Sequence[str] | None:
    """List the metrics that a configured task measures; None where its class does not say."""
    from pretraining.cli.configuration import class_of

    return class_of(task).measures


def fit_classical(overrides: Sequence[str]) -> tuple[str, dict[str, float]] | None:
    """Fit the classical reference of a finetuning run."""
    from experiments.classical import fit_and_test

    return fit_and_test(overrides)


COMMANDS = Commands(resolve_config, run_command, measure_steps, time_steps, measured_metrics, fit_classical)


def main(overrides: Sequence[str], commands: Commands = COMMANDS) -> int:
    """Run a study to its report; 0 if every run has its numbers."""
    # What is piped into a file has no width; rich would cut its lines to 80.
    console = Console() if sys.stdout.isatty() else Console(width=110)
    config = resolve_study(overrides)
    spec, directory = config["study"], Path(config["study_dir"])
    refuse_former_study(directory)
    study = expand(spec, directory=directory, resolve=commands.resolve)
    refuse_unmeasured(study, commands)
    tell = partial(console.print, highlight=False, soft_wrap=True)
    if config["dry_run"]:
        print_plan(study, commands.resolve, commands.time, config["workers"], console)
        return 0
    executor = partial(_executor, config, directory, commands.run)
    with lock_study(directory):
        if needs_decisions(spec):
            arms = list(list_arms(spec, commands.resolve))
            decided = decide(spec, arms, directory, executor, commands.measure, tell)
            study = expand(spec, directory=directory, resolve=commands.resolve, decided=decided)
        save_study(study)
        status: dict[str, str] = {}
        try:
            with draw_progress(study) as progress, closing(executor()) as opened:
                status = run_study(study, executor=opened, watch=progress, retry_failed=config["retry_failed"])
            if CLASSICAL in spec["references"]:
                fit_references(study, commands.resolve, commands.classical, tell)
        finally:  # a report is written whatever has ended the runs
            results = collect(study)
            path = report.write(results)
    comparison = compare(results)
    console.print(result_table(comparison, f"{study.name}: {study.question}", wide=console.width >= 100))
    for sentence in [words.answer(comparison), *warnings(results, comparison), *words.describe_pretraining(comparison)]:
        console.print(sentence, highlight=False, markup=False)
    tell(f"report: {path}")
    return _say_failures(list(status.values()), tell) or int(bool(unmeasured(results)))


def _say_failures(ends: Sequence[str], tell: Callable[[str], None]) -> int:
    if all(state == DONE for state in ends):
        return 0
    rest = f"{ends.count(SKIPPED)} were skipped because of it; retry_failed=true runs them again"
    tell(f"[red]{ends.count(FAILED)} of {len(ends)} runs failed[/], {rest}")
    return 1


def refuse_unmeasured(study: Study, commands: Commands) -> None:
    """Refuse a metric that a task does not measure, before anything runs; nothing is asked of a study that is done."""
    journal, known = Journal(study.directory), dict[str, Sequence[str] | None]()
    for node in study.nodes:
        if node.cell is None or journal.is_done(node):
            continue
        if node.cell.task not in known:
            known[node.cell.task] = commands.measured(commands.resolve(FINETUNING, node.overrides)["task"])
        names, (split, _, metric) = known[node.cell.task], node.cell.column.partition("/")
        if names is not None and (
            split not in ("validation", "test") or not {metric, metric.rstrip("0123456789")} & {*names}
        ):
            what = f"study.finetune.{node.cell.task}.metric={node.cell.metric} is not among what its task measures"
            raise StudyError(f"{what}: choose one of {', '.join(f'test/{name}' for name in names)}")


def with_overrides(spec: Mapping[str, Any], given: Sequence[str], last: Sequence[str]) -> dict[str, Any]:
    """Complete a study, and have each run of it take the `last` settings after its own.

    Each looks for its settings where the study was found (`hydra.searchpath=` among what was `given`).
    """
    spec = completed(spec)
    found = [one for one in given if one.startswith("hydra.searchpath=")]
    entries = {
        part: {name: {**entry, "overrides": [*found, *entry["overrides"], *last]} for name, entry in spec[part].items()}
        for part in ("pretrain", "finetune")
    }
    return {**spec, **entries}


def _executor(config: Mapping[str, Any], directory: Path, run: Run) -> Executor:
    if config["executor"]:
        from experiments.study.slurm_jobs import SlurmJobs

        return SlurmJobs(directory, **config["executor"])
    workers = config["workers"]
    beside = partial(run_beside_others, run, directory)
    return Here(directory, run) if workers == 1 else Processes(directory, beside, workers)


def cli() -> None:
    """Run the command: one clear line for what the user can change, exit code 2."""
    sys.exit(exit_code("study", lambda: main(sys.argv[1:])))
