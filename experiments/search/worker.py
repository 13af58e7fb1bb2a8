"""A worker of a search that several processes share; each carries its trials out in its own process."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from experiments.search.plan import Plan
from experiments.search.trials import ENDED, Trials, read_result
from experiments.study.graph import digest, override
from experiments.study.spec import StudyError
from pretraining.cache import lock, try_lock
from pretraining.runs.directory import make_directory


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
    """Draws trials from the shared search, carries them out and tells their results, until there are enough."""

    def __init__(self, plan: Plan) -> None:
        import optuna

        pruners: dict[str, Any] = {
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
            "hyperband": optuna.pruners.HyperbandPruner,
            "none": optuna.pruners.NopPruner,
        }
        make_directory(plan.directory / "claims", "--directory")
        name = digest(plan.fixed, plan.space, plan.metric, plan.goal)
        self.plan = plan
        journal, pruner = plan.directory / "trials.log", pruners[plan.pruner]()
        self.trials = Trials(journal, name, plan.space, goal=plan.goal, pruner=pruner, alone=True)

    def work(self) -> None:
        """Carry out trials until the search has enough of them."""
        while True:
            with lock(self.plan.directory / "lock"):  # one worker at a time decides what comes next
                trial = self._next()
                claim = None if trial is None else try_lock(self._claim(trial.number))
            if trial is None:
                return
            assert claim is not None
            with claim:
                self._carry_out(trial)

    def _next(self) -> Any:
        known, begun = self.trials.known(), 0
        for trial in (trial for trial in known if trial.state == self.trials.states.RUNNING):
            if (free := try_lock(self._claim(trial.number))) is None:
                begun += 1
            else:  # its worker is gone: the same settings again, which resume in the same run directory
                free.close()
                self.trials.repeat(trial)
        if begun + sum(ENDED in trial.user_attrs for trial in known) >= self.plan.trials:
            return None
        # Seeded by the number of the trial: workers with equal seeds would draw the same.
        self.trials.sample_with(seed=self.plan.seed + len(known), constant_liar=True)
        return self.trials.ask()

    def _claim(self, number: int) -> Path:
        return self.plan.directory / "claims" / f"{number}.lock"

    def _carry_out(self, trial: Any) -> None:
        from pretraining.launch import compose, main

        plan, pruned = self.plan, self.trials.optuna.TrialPruned
        run_dir = plan.directory / "runs" / digest(plan.fixed, dict(trial.params))
        chosen = [override(key, value) for key, value in trial.params.items()]
        overrides = [*plan.fixed, *chosen, f"run_dir={run_dir}", "resume=auto"]
        state, value = None, None
        try:
            main(compose(overrides), overrides, [Reporter(trial, plan.metric, pruned)])
            value = read_result(run_dir, plan.metric, "--metric")
            said = f"{plan.metric} {value:.4f}"
        except pruned:
            state, said = self.trials.states.PRUNED, "ended early"
        except (StudyError, OSError):
            raise  # no fault of the settings: the search ends, and goes on from here when it is started again
        except Exception as error:  # a setting that cannot be trained with is a result, too
            traceback.print_exception(error)
            state, said = self.trials.states.FAIL, f"{type(error).__name__}: {error}"
        self.trials.tell(trial, said, value, state)
        print(f"trial {trial.number}: {' '.join(chosen)}: {said}", flush=True)
