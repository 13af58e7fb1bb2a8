"""What is settled before a study's runs: how many steps its hours buy each arm, and each arm's settings, at the same effort for all.

Both are kept in the study's directory, so a study started again goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.study.graph import PRETRAINING, Arm, Node, Settled, Source, identity, override, run_name
from experiments.study.runner import DONE, Executor, Journal
from experiments.study.spec import StudyError

Tell = Callable[[str], None]


class Trial(NamedTuple):
    """One attempt at an arm's settings, while it runs."""

    arm: Arm
    handle: Any  # Optuna's
    chosen: dict[str, Any]


def calibrated(
    arms: Sequence[Arm], directory: Path, measure: Callable[[Sequence[str]], int], tell: Tell
) -> dict[str, int]:
    """Measure, with nothing else running, the steps that each arm's hours buy on this machine; measured once per study."""
    path = directory / "calibration.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for arm in arms:
        if (key := identity(arm.config)) not in known:
            known[key] = measure([*arm.overrides, f"run_dir={directory / 'calibration'}"])
            path.write_text(json.dumps(known) + "\n")
            tell(f"{arm.name}: its hours buy {known[key]} steps")
    return {arm.name: known[identity(arm.config)] for arm in arms}


def tuned(
    arms: Sequence[Arm], tune: Mapping[str, Any], directory: Path, executor: Executor, tell: Tell
) -> dict[str, list[str]]:
    """Give each arm the best settings of ``tune.trials`` trials of its own, judged by ``tune.metric`` of a pretraining on ``tune.seed``.

    Trials of one arm follow each other, those of several arms run side by side. A trial that fails counts as one.
    """
    searches = {arm.name: _Search(arm, tune, directory) for arm in arms}
    running: dict[str, Trial] = {}
    while running or any(search.left for search in searches.values()):
        busy = {trial.arm.name for trial in running.values()}
        for search in searches.values():
            if search.left and search.arm.name not in busy and executor.busy < executor.slots:
                node, trial = search.ask()
                if Journal(directory).is_done(
                    node
                ):  # its process was killed after its end, before that was written down
                    search.tell(trial, node, {"status": DONE}, tell)
                    continue
                running[node.name] = trial
                executor.submit(node)
        if executor.busy:
            for node, state in executor.next():
                trial = running.pop(node.name)
                searches[trial.arm.name].tell(trial, node, state, tell)
    best = {name: search.best() for name, search in searches.items()}
    (directory / "tuning.json").write_text(json.dumps(best, indent=1) + "\n")
    return {name: [override(key, value) for key, value in found["settings"].items()] for name, found in best.items()}


class _Search:
    """One arm's search, kept in the study's journal of trials."""

    def __init__(self, arm: Arm, tune: Mapping[str, Any], directory: Path) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.arm, self.space, self.trials, self.directory = arm, tune["space"], tune["trials"], directory
        self.metric, self.seed = tune.get("metric") or "validation/loss", tune.get("seed", 0)
        path = directory / "trials.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            study_name=f"{arm.name} {identity(arm.config, self.space, self.metric, self.seed)}",
            direction=tune.get("goal") or "minimize",
            # The first ones are drawn, alike for every arm; what follows learns from them.
            sampler=optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=max(1, self.trials // 2)),
            load_if_exists=True,
        )
        for lost in self.study.get_trials(
            states=[optuna.trial.TrialState.RUNNING]
        ):  # with a study that was killed: tried again
            self.study.enqueue_trial(lost.params)
            self.study.tell(lost.number, state=optuna.trial.TrialState.FAIL)

    @property
    def left(self) -> int:
        """Trials to begin, or to end."""
        return self.trials - sum("ended" in trial.user_attrs for trial in self.study.get_trials(deepcopy=False))

    def ask(self) -> tuple[Node, Trial]:
        """Draw the next settings."""
        handle = self.study.ask()
        chosen = {key: _suggest(handle, key, allowed) for key, allowed in self.space.items()}
        name = run_name(["trial", self.arm.name], identity(self.arm.config, chosen, self.seed))
        place = {"seed": self.seed, "run_dir": self.directory / "runs" / name, "resume": "auto"}
        overrides = [*self.arm.overrides, *(override(key, value) for key, value in {**chosen, **place}.items())]
        node = Node(name, PRETRAINING, tuple(overrides), None, Source(self.arm.name, True, self.seed), self.seed, None)
        return node, Trial(self.arm, handle, chosen)

    def tell(self, trial: Trial, node: Node, state: Mapping[str, Any], tell: Tell) -> None:
        """Take a trial's end."""
        import optuna

        value, said = None, str(state.get("error"))
        if state["status"] == DONE:
            numbers = json.loads((self.directory / "runs" / node.name / "metrics.json").read_text())
            if self.metric not in numbers:
                raise StudyError(
                    f"study.tune.metric={self.metric} is not among what pretraining measures: {sorted(numbers)}"
                )
            value, said = float(numbers[self.metric]), f"{self.metric} {numbers[self.metric]:.4f}"
        trial.handle.set_user_attr("ended", said)
        self.study.tell(trial.handle, value, state=optuna.trial.TrialState.FAIL if value is None else None)
        settings = " ".join(override(key, chosen) for key, chosen in trial.chosen.items())
        tell(f"{self.arm.name}: trial {self.trials - self.left} of {self.trials}, {settings}: {said}")

    def best(self) -> dict[str, Any]:
        """The best settings, and what they reached."""
        import optuna

        done = self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
        if not done:
            raise StudyError(f"all {self.trials} trials of {self.arm.name} failed: see {self.directory / 'logs'}")
        best = self.study.best_trial
        return {
            "settings": best.params,
            self.metric: best.value,
            "trials": self.trials,
            "failed": self.trials - len(done),
        }


def _suggest(handle: Any, key: str, allowed: Any) -> Any:
    """Draw a setting from a list of values, or between two bounds."""
    if not isinstance(allowed, Mapping):
        return handle.suggest_categorical(key, list(allowed))
    low, high, log = allowed["low"], allowed["high"], bool(allowed.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return handle.suggest_int(key, low, high, log=log)
    return float(f"{handle.suggest_float(key, float(low), float(high), log=log):.4g}")


def needs_settling(spec: Mapping[str, Any]) -> bool:
    """Whether the study asks for hours or for tuning."""
    return bool(spec.get("tune")) or (spec["budget"] or {}).get("hours") is not None


def settle(
    spec: Mapping[str, Any],
    arms: Sequence[Arm],
    directory: Path,
    executor: Callable[[], Executor],
    measure: Callable[[Sequence[str]], int],
    tell: Tell,
) -> Settled:
    """Calibrate and tune what the study asks for, in this order: time is measured while nothing else runs."""
    steps = calibrated(arms, directory, measure, tell) if (spec["budget"] or {}).get("hours") is not None else {}
    chosen: dict[str, list[str]] = {}
    if spec.get("tune"):
        opened = executor()
        try:
            chosen = tuned([arm.with_steps(steps.get(arm.name)) for arm in arms], spec["tune"], directory, opened, tell)
        finally:
            opened.close()
    return Settled(steps, chosen)
