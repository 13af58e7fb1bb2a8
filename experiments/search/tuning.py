"""What is decided before a study's runs: the steps that hours buy each arm, and each one's settings by equal search.

Both are kept in the study's directory, so a study started again goes on where it was.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from experiments.search.trials import Trials, read_result
from experiments.study.graph import PRETRAINING, Arm, Decided, Node, Weights, digest, name_run, override
from experiments.study.runner import DONE, Executor, Journal
from experiments.study.spec import StudyError
from pretraining.cache import replace_text

Open = Callable[[], Executor]
Tell = Callable[[str], None]
Measure = Callable[[Sequence[str]], int]
"""Counts the steps that the budget of a pretraining buys, which its overrides describe."""


class Trial(NamedTuple):
    """One attempt at an arm's settings, while it runs."""

    arm: str
    handle: Any  # Optuna's
    chosen: dict[str, Any]


def calibrate(arms: Sequence[Arm], directory: Path, measure: Measure, tell: Tell) -> dict[str, int]:
    """Measure once per study, with nothing else running, the steps that each arm's hours buy on this machine."""
    path = directory / "calibration.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for arm in arms:
        if (key := digest(arm.config)) not in known:
            known[key] = measure([*arm.overrides, f"run_dir={directory / 'calibration'}"])
            replace_text(path, json.dumps(known) + "\n")
            tell(f"{arm.name}: its hours buy {known[key]} steps")
    return {arm.name: known[digest(arm.config)] for arm in arms}


def tune_arms(
    arms: Sequence[Arm], tune: Mapping[str, Any], directory: Path, executor: Executor, tell: Tell
) -> dict[str, list[str]]:
    """Find the best settings of each arm in ``tune.trials`` trials of its own; returns them as overrides.

    Pretrainings on ``tune.seed`` are judged by ``tune.metric``. Trials of one arm follow each other, those of several
    arms run side by side. A trial that fails counts as one.
    """
    searches = {arm.name: _ArmSearch(arm, tune, directory) for arm in arms}
    running: dict[str, Trial] = {}
    while running or any(search.left for search in searches.values()):
        busy = {trial.arm for trial in running.values()}
        for name, search in searches.items():
            if search.left and name not in busy and executor.busy < executor.slots:
                node, trial = search.ask()
                if Journal(directory).is_done(node):  # its process was killed after its end, before that was told
                    search.tell(trial, node, {"status": DONE}, tell)
                    continue
                running[node.name] = trial
                executor.submit(node)
        if executor.busy:
            for node, state in executor.next():
                trial = running.pop(node.name)
                searches[trial.arm].tell(trial, node, state, tell)
    best = {name: search.best() for name, search in searches.items()}
    replace_text(directory / "tuning.json", json.dumps(best, indent=1) + "\n")
    return {name: [override(key, value) for key, value in found["settings"].items()] for name, found in best.items()}


class _ArmSearch:
    """The search of one arm, kept in the study's journal of trials."""

    def __init__(self, arm: Arm, tune: Mapping[str, Any], directory: Path) -> None:
        self.arm, self.space, self.count, self.directory = arm, tune["space"], tune["trials"], directory
        self.metric, self.seed = tune.get("metric") or "validation/loss", tune.get("seed", 0)
        name = f"{arm.name} {digest(arm.config, self.space, self.metric, self.seed)}"
        self.trials = Trials(directory / "trials.log", name, self.space, goal=tune.get("goal") or "minimize")
        # The first ones are drawn, alike for every arm; what follows learns from them.
        self.trials.sample_with(seed=self.seed, n_startup_trials=max(1, self.count // 2))
        for lost in self.trials.known(self.trials.states.RUNNING):  # with a study that was killed
            self.trials.repeat(lost)

    @property
    def left(self) -> int:
        """Trials to begin, or to end."""
        return self.count - len(self.trials.ended)

    def ask(self) -> tuple[Node, Trial]:
        """Draw the next settings."""
        handle = self.trials.ask()
        chosen = {key: handle.params[key] for key in self.space}
        for key, value in chosen.items():
            if isinstance(value, float) and isinstance(self.space[key], Mapping):  # drawn between two bounds
                chosen[key] = float(f"{value:.4g}")
        name = name_run(["trial", self.arm.name], digest(self.arm.config, chosen, self.seed))
        place = {"seed": self.seed, "run_dir": self.directory / "runs" / name, "resume": "auto"}
        overrides = [*self.arm.overrides, *(override(key, value) for key, value in {**chosen, **place}.items())]
        source = Weights(self.arm.name, True, self.seed)
        node = Node(name, PRETRAINING, tuple(overrides), None, source, self.seed, None)
        return node, Trial(self.arm.name, handle, chosen)

    def tell(self, trial: Trial, node: Node, state: Mapping[str, Any], tell: Tell) -> None:
        """End a trial with what its run reached."""
        if state["status"] == DONE:
            value = read_result(self.directory / "runs" / node.name, self.metric, "study.tune.metric")
            said = f"{self.metric} {value:.4f}"
            self.trials.tell(trial.handle, said, value)
        else:
            said = str(state.get("error"))
            self.trials.tell(trial.handle, said, state=self.trials.states.FAIL)
        settings = " ".join(override(key, chosen) for key, chosen in trial.chosen.items())
        tell(f"{self.arm.name}: trial {self.count - self.left} of {self.count}, {settings}: {said}")

    def best(self) -> dict[str, Any]:
        """Name the best settings, and what they reached."""
        done = self.trials.known(self.trials.states.COMPLETE)
        if not done:
            raise StudyError(f"all {self.count} trials of {self.arm.name} failed: see {self.directory / 'logs'}")
        best, failed = self.trials.study.best_trial, self.count - len(done)
        return {"settings": best.params, self.metric: best.value, "trials": self.count, "failed": failed}


def needs_decisions(spec: Mapping[str, Any]) -> bool:
    """Tell whether the study asks for hours or for tuning."""
    return bool(spec.get("tune")) or spec["budget"].get("hours") is not None


def decide(
    spec: Mapping[str, Any], arms: Sequence[Arm], directory: Path, executor: Open, measure: Measure, tell: Tell
) -> Decided:
    """Calibrate and tune what the study asks for, in this order: time is measured while nothing else runs."""
    steps = calibrate(arms, directory, measure, tell) if spec["budget"].get("hours") is not None else {}
    chosen: dict[str, list[str]] = {}
    if spec.get("tune"):
        with closing(executor()) as opened:
            bought = {name: ["budget.hours=null", f"budget.steps={count}"] for name, count in steps.items()}
            timed = [arm._replace(overrides=arm.overrides + bought.get(arm.name, [])) for arm in arms]
            chosen = tune_arms(timed, spec["tune"], directory, opened, tell)
    return Decided(steps, chosen)
