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


def one_answer(answers: Answers | None) -> Numbers:
    """Compute the share of the commonest label, the accuracy of always giving it, and count the answers given."""
    if answers is None:
        return {}
    ((_, most),) = Counter(answers.labels).most_common(1)
    given = float(len(set(answers.predictions)))
    return {"majority_accuracy": most / len(answers.labels), "classes_predicted": given}


def describe_result(metrics: Mapping[str, float], name: str, answers: Answers | None) -> str:
    """Write the test's metric `name` with its interval, and where answers are chosen what a single one would give."""
    shown = [name, *(key for key in BESIDE if key != name and f"test/{key}" in metrics)]
    text = "test " + ", ".join(f"{key} {_with_interval(metrics, key)}" for key in shown)
    if answers is None:
        return text
    ((common, _),) = Counter(answers.labels).most_common(1)
    what = "accuracy " if len(shown) > 1 else ""
    text += f"; always {common!r} would give {what}{metrics['test/majority_accuracy']:.3f}"
    if metrics["test/classes_predicted"] == 1:
        text += f"\nevery prediction is {answers.predictions[0]!r}: nothing was told apart"
    return text


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    value, ends = metrics[f"test/{name}"], [metrics.get(f"test/{name}_{end}") for end in ("low", "high")]
    return f"{value:.3f}" if None in ends else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
