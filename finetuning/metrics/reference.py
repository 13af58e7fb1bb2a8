"""What a result is read against: what a single answer to everything would reach, and how it is put in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from finetuning.metrics.bootstrap import Numbers

BESIDE = ("accuracy", "entity_f1")  # told whatever is selected: the one without the other misleads


class Answers(NamedTuple):
    """What was to be answered and what was, by the names of the answers, where one of several is chosen."""

    labels: list[str]
    predictions: list[str]


class Majority(NamedTuple):
    """The commonest label and its share, the accuracy of always giving it; `only`: what is given, if one answer is."""

    name: str
    share: float
    only: str | None

    @classmethod
    def of(cls, labels: Mapping[str, int], given: Mapping[str, int]) -> Majority:
        """Find it in how often each label is true, and each answer given."""
        name, answers = max(labels, key=lambda label: labels[label]), [answer for answer in given if given[answer]]
        return cls(name, labels[name] / sum(labels.values()), answers[0] if len(answers) == 1 else None)

    def describe(self, what: str = "accuracy ") -> str:
        """Say what always giving the commonest label would reach; `what` names the metric."""
        return f"always {self.name!r} would give {what}{self.share:.3f}"


def one_answer(answers: Answers | None) -> Numbers:
    """Compute the accuracy of always giving the commonest label, and count the answers given."""
    if answers is None:
        return {}
    labels, given = map(Counter, answers)
    return {"majority_accuracy": Majority.of(labels, given).share, "classes_predicted": float(len(given))}


def describe_result(metrics: Mapping[str, float], name: str, answers: Answers | None) -> str:
    """Write the test's metric `name` with its interval, and where answers are chosen what a single one would give."""
    shown = [name, *(key for key in BESIDE if key != name and f"test/{key}" in metrics)]
    text = "test " + ", ".join(f"{key} {_with_interval(metrics, key)}" for key in shown)
    if answers is None:
        return text
    majority = Majority.of(*map(Counter, answers))
    text += f"; {majority.describe('accuracy ' if len(shown) > 1 else '')}"
    if majority.only is not None:
        text += f"\nevery prediction is {majority.only!r}: nothing was told apart"
    return text


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    value, ends = metrics[f"test/{name}"], [metrics.get(f"test/{name}_{end}") for end in ("low", "high")]
    return f"{value:.3f}" if None in ends else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
