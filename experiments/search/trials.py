"""The driver of every search: trials in a journal on disk, shared by processes and continued where one was killed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.study.spec import StudyError
from pretraining.cache import read_object
from pretraining.runs.directory import make_directory

ENDED = "ended"  # what a trial says about itself once it is over


class Trials:
    """Trials of settings, drawn and remembered by Optuna; a trial ends when its result is told.

    `space` says what each setting may be: a list of values, or {low, high, log} with both ends included, whole numbers
    where both ends are. Several searches may share a journal under different names, unless one is to be `alone`.
    """

    def __init__(
        self,
        journal: Path,
        name: str,
        space: Mapping[str, Any],
        *,
        goal: Any,
        pruner: Any = None,
        alone: bool = False,
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        make_directory(journal.parent, "--directory")
        self.optuna, self.states, self.space = optuna, optuna.trial.TrialState, space
        storage: Any = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        if alone and (others := set(optuna.get_all_study_names(storage)) - {name}):
            cure = "choose another --directory, or repeat its overrides, --metric and --goal"
            raise StudyError(f"{journal.parent} holds another search ({', '.join(sorted(others))}): {cure}")
        shared: dict[str, Any] = {"storage": storage, "study_name": name, "load_if_exists": True}
        self.study = optuna.create_study(direction=goal, pruner=pruner, **shared)

    def known(self, *states: Any) -> list[Any]:
        """List the trials in some states, or all of them."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    @property
    def ended(self) -> list[Any]:
        """The trials that are over."""
        return [trial for trial in self.known() if ENDED in trial.user_attrs]

    def sample_with(self, **options: Any) -> None:
        """Draw what comes next by a tree-structured Parzen estimator."""
        self.study.sampler = self.optuna.samplers.TPESampler(**options)

    def repeat(self, lost: Any) -> None:
        """Abandon a trial whose process is gone; the next one has the same settings."""
        self.study.enqueue_trial(lost.params)
        self.study.tell(lost.number, state=self.states.FAIL)

    def ask(self) -> Any:
        """Draw the settings of a new trial."""
        trial = self.study.ask()
        for key, allowed in self.space.items():
            if not isinstance(allowed, Mapping):
                trial.suggest_categorical(key, list(allowed))
                continue
            low, high, log = allowed["low"], allowed["high"], bool(allowed.get("log"))
            if isinstance(low, int) and isinstance(high, int):
                trial.suggest_int(key, low, high, log=log)
            else:
                trial.suggest_float(key, float(low), float(high), log=log)
        return trial

    def tell(self, trial: Any, said: str, value: float | None = None, state: Any = None) -> None:
        """End a trial with its result, or in another state than complete."""
        trial.set_user_attr(ENDED, said)
        self.study.tell(trial, value, state=state)


def read_result(run_dir: Path, metric: str, asked: str) -> float:
    """Read what a trial's run reached; `asked` is the option that names the metric."""
    numbers = read_object(run_dir / "metrics.json")
    if metric not in numbers:
        raise StudyError(f"{asked}={metric} is not among what pretraining measures: {sorted(numbers)}")
    return float(numbers[metric])
