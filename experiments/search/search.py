"""``python -m experiments.search [options] OVERRIDES``: search a pretraining's settings with Optuna, ending hopeless trials early.

    python -m experiments.search --trials 20 --directory searches/rate objective=simclr trainer.val_every=20 \\
        'optimizer.peak_lr=tag(log, interval(1e-4, 1e-1))' optimizer.warmup_steps=10,100

What has several values is searched, in Hydra's sweep syntax: choices a,b,c, interval(low, high), int(interval(...)), tag(log, ...).
The same command started again, on any machine that sees the directory, works on the same search: a worker that was killed loses nothing,
since its trial goes on from its checkpoint. On Slurm: ``sbatch --array=1-8 slurm/search.sbatch ...``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from pytorch_lightning.loggers import Logger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.study.graph import identity, override
from experiments.study.spec import StudyError
from pretraining.cache import lock, try_lock

PRUNERS = ("median", "hyperband", "none")
ENDED = "ended"  # what a trial of ours says about itself once it is over


@dataclass(frozen=True)
class Plan:
    """A search: what stands, what varies, how many trials by which metric, and where all of it is kept."""

    directory: Path
    fixed: tuple[str, ...]
    space: Mapping[str, Any]
    trials: int
    metric: str
    goal: Literal["minimize", "maximize"]
    pruner: str
    seed: int


def space_of(overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Tell what varies from what stands: {key: a list of choices or {low, high, log, int}}, and the other overrides."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise StudyError(str(error)) from error
    space: dict[str, Any] = {}
    for one in parsed:
        if one.is_interval_sweep():
            interval: Any = one.value()
            whole = all(isinstance(end, int) for end in (interval.start, interval.end))
            space[one.key_or_group] = {
                "low": interval.start,
                "high": interval.end,
                "log": "log" in interval.tags,
                "int": whole,
            }
        elif one.is_sweep_override():
            space[one.key_or_group] = list(one.sweep_iterator(transformer=lambda value: value))
    if not space:
        raise StudyError(
            "nothing varies: give at least one override several values, such as 'optimizer.peak_lr=interval(1e-4, 1e-2)'"
        )
    placed = [one.input_line for one in parsed if one.key_or_group in ("run_dir", "resume")]
    if placed:
        raise StudyError(f"{placed[0]}: a search places and resumes its trials itself; leave it out")
    return space, tuple(str(one.input_line) for one in parsed if not one.is_sweep_override())


class Reporter(Logger):
    """Tells a trial what its run measures, and ends the run when the search's pruner sees no hope in it."""

    name = version = "search"

    def __init__(self, trial: Any, metric: str, pruned: type[Exception]) -> None:
        super().__init__()
        self.trial, self.metric, self.pruned = trial, metric, pruned

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Report the searched metric where it was measured."""
        if self.metric in metrics:
            self.trial.report(float(metrics[self.metric]), step)
            if self.trial.should_prune():
                raise self.pruned

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the search knows them."""


class Worker:
    """Asks the shared search for a trial, carries it out, tells how it went; until there are enough."""

    def __init__(self, plan: Plan) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        (plan.directory / "claims").mkdir(parents=True, exist_ok=True)
        self.plan, self.optuna, self.states = plan, optuna, optuna.trial.TrialState
        pruners: dict[str, Any] = {
            "median": optuna.pruners.MedianPruner(n_startup_trials=4),
            "hyperband": optuna.pruners.HyperbandPruner(),
            "none": optuna.pruners.NopPruner(),
        }
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(plan.directory / "trials.log"))),
            study_name=identity(plan.fixed, plan.space, plan.metric, plan.goal),
            direction=plan.goal,
            pruner=pruners[plan.pruner],
            load_if_exists=True,
        )

    def work(self) -> None:
        """Carry out trials until the search has enough of them."""
        while True:
            with lock(self.plan.directory / "lock"):  # one worker at a time decides what comes next
                trial = self._next()
                claim = None if trial is None else try_lock(self._claim(trial.number))
            if trial is None:
                return
            assert claim is not None
            try:
                self._carry_out(trial)
            finally:
                claim.close()

    def _next(self) -> Any:
        known = self.study.get_trials(deepcopy=False)
        begun = [trial for trial in known if trial.state == self.states.RUNNING]
        for trial in begun:
            if (free := try_lock(self._claim(trial.number))) is not None:
                free.close()  # its worker is gone: the same settings again, which resume in the same run directory
                begun = [other for other in begun if other is not trial]
                self.study.enqueue_trial(trial.params)
                self.study.tell(trial.number, state=self.states.FAIL)
        if len(begun) + sum(ENDED in trial.user_attrs for trial in known) >= self.plan.trials:
            return None
        # Seeded by the number of the trial: workers with equal seeds would draw the same.
        self.study.sampler = self.optuna.samplers.TPESampler(seed=self.plan.seed + len(known), constant_liar=True)
        drawn = self.study.ask()
        for key, allowed in self.plan.space.items():
            _suggest(drawn, key, allowed)
        return drawn

    def _claim(self, number: int) -> Path:
        return self.plan.directory / "claims" / f"{number}.lock"

    def run_dir(self, settings: Mapping[str, Any]) -> Path:
        """Where the run with these settings is."""
        return self.plan.directory / "runs" / identity(self.plan.fixed, dict(settings))

    def _carry_out(self, trial: Any) -> None:
        from pretraining.launch import compose, main

        run_dir, state, value = self.run_dir(trial.params), None, None
        chosen = [override(key, value) for key, value in trial.params.items()]
        overrides = [*self.plan.fixed, *chosen, f"run_dir={run_dir}", "resume=auto"]
        try:
            main(compose(overrides), overrides, [Reporter(trial, self.plan.metric, self.optuna.TrialPruned)])
            numbers = json.loads((run_dir / "metrics.json").read_text())
            if self.plan.metric not in numbers:
                raise StudyError(
                    f"--metric={self.plan.metric} is not among what pretraining measures: {sorted(numbers)}"
                )
            value = float(numbers[self.plan.metric])
            said = f"{self.plan.metric} {value:.4f}"
        except self.optuna.TrialPruned:
            state, said = self.states.PRUNED, "ended early"
        except (
            StudyError,
            OSError,
        ):  # no fault of the settings: the search ends here, and goes on from here when it is started again
            raise
        except Exception as error:  # a setting that cannot be trained with is a result, too
            traceback.print_exception(error)
            state, said = self.states.FAIL, f"{type(error).__name__}: {error}"
        trial.set_user_attr(ENDED, said)
        self.study.tell(trial, value, state=state)
        print(f"trial {trial.number}: {' '.join(chosen)}: {said}", flush=True)


def _suggest(trial: Any, key: str, allowed: Any) -> Any:
    if isinstance(allowed, list):
        return trial.suggest_categorical(key, allowed)
    draw = trial.suggest_int if allowed["int"] else trial.suggest_float
    return draw(key, allowed["low"], allowed["high"], log=allowed["log"])


def results(worker: Worker) -> list[dict[str, Any]]:
    """Every trial that has ended by itself, the best first; what was ended early, or failed, last."""
    rows = []
    for trial in worker.study.get_trials(deepcopy=False):
        if ENDED in trial.user_attrs:
            reached = max(trial.intermediate_values, default=None)
            row = {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                worker.plan.metric: trial.value,
                "steps": reached,
            }
            rows.append(row | trial.params | {"said": trial.user_attrs[ENDED]})
    sign = 1 if worker.plan.goal == "minimize" else -1
    return sorted(rows, key=lambda row: (row["state"] != "complete", sign * (row[worker.plan.metric] or 0.0)))


def report(worker: Worker) -> None:
    """Print the table of trials and the best one's command; write results.csv beside the runs."""
    rows, plan = results(worker), worker.plan
    with (plan.directory / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
    console = Console() if sys.stdout.isatty() else Console(width=140)
    table = Table(box=SIMPLE_HEAD)
    shown = ["trial", "state", plan.metric, "steps", *plan.space]
    for name in shown:
        table.add_column(name, justify="right" if name in ("trial", "steps") else "left")
    for row in rows:
        table.add_row(*(_shown(row[name]) for name in shown))
    console.print(table)
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        raise StudyError(f"no trial came to its end: see {plan.directory / 'results.csv'}")
    best = [*plan.fixed, *(override(key, complete[0][key]) for key in plan.space)]
    console.print(f"best: python -m pretraining {' '.join(best)}", soft_wrap=True, highlight=False)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def planned(arguments: Sequence[str]) -> Plan:
    """Read a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("searches/search"), help="where trials and runs are kept and shared"
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--metric", default="validation/loss")
    parser.add_argument("--goal", choices=["minimize", "maximize"], default="minimize")
    parser.add_argument(
        "--pruner", choices=PRUNERS, default="median", help="who ends trials early, by what validation measures"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="+", help="of the pretraining; several values are searched")
    given = parser.parse_args(arguments)
    space, fixed = space_of(given.overrides)
    return Plan(given.directory, fixed, space, given.trials, given.metric, given.goal, given.pruner, given.seed)


def check(plan: Plan) -> None:
    """Refuse a misspelt override before any trial: later, what cannot be configured is a failed trial."""
    from pretraining.launch import compose

    some = {key: allowed[0] if isinstance(allowed, list) else allowed["low"] for key, allowed in plan.space.items()}
    compose(
        [
            *plan.fixed,
            *(override(key, value) for key, value in some.items()),
            f"run_dir={plan.directory / 'runs' / 'some'}",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Work on a search until it has enough trials, then say what was found; 2 for a mistake."""
    from pretraining.cli.configuration import exit_cleanly

    try:
        with exit_cleanly():
            plan = planned(arguments)
            check(plan)
            worker = Worker(plan)
            worker.work()
            report(worker)
    except StudyError as error:
        print(f"search: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
