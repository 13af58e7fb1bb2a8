"""A linear model without a network, on the very examples that a finetuning run learns from and is judged on.

What it reads of an example is the `classical` features of the task's inputs, so each modality brings its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from sklearn.linear_model import LogisticRegression, Ridge

from finetuning.data.splits import Splits, subset
from finetuning.launch import compose
from finetuning.metrics.bootstrap import Numbers
from finetuning.metrics.classification import label_metrics
from finetuning.metrics.regression import regression
from finetuning.tasks.classification import Classification
from finetuning.tasks.regression import Regression
from pretraining.cli.configuration import class_of, instantiate
from pretraining.data.splits import SPLITS

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse penalties; the best on validation is tested


class Linear(NamedTuple):
    """How a kind of task is fitted and judged."""

    model: Callable[[float], Any]  # of an inverse penalty
    judge: Callable[[np.ndarray, np.ndarray], Numbers]


LINEAR = {
    Classification: Linear(lambda strength: LogisticRegression(C=strength, max_iter=2000), label_metrics),
    Regression: Linear(lambda strength: Ridge(alpha=1 / strength), regression),
}


@functools.lru_cache(maxsize=1)
def _read(data: str) -> Splits:
    """Read the data of a configuration, which the seeds and modes of a study share."""
    return instantiate(OmegaConf.create(data)).splits()


def fit_and_test(overrides: Sequence[str]) -> tuple[str, Numbers] | None:
    """Fit the reference of a finetuning run; returns its name and test metrics, None where its task has none."""
    config = compose(overrides)
    linear = next((linear for kind, linear in LINEAR.items() if issubclass(class_of(config.task), kind)), None)
    if linear is None:
        return None
    splits = _read(OmegaConf.to_yaml(config.data, resolve=True))
    train = subset(splits.train, fraction=config.fraction, shots=config.shots, seed=config.seed)
    splits = splits._replace(train=train)
    if (features := instantiate(config.task.inputs).classical(train)) is None:
        return None
    read = {name: features.of(getattr(splits, name)) for name in SPLITS}
    labels = {name: np.array(getattr(splits, name).column("label")) for name in SPLITS}
    metric, sign = config.task.select.removeprefix("-"), -1 if config.task.select.startswith("-") else 1
    best, found = -np.inf, Numbers()
    for strength in STRENGTHS:
        model = linear.model(strength).fit(read["train"], labels["train"])
        validation, test = (linear.judge(labels[name], model.predict(read[name])) for name in SPLITS[1:])
        # What only a network has, such as its loss, is not what a linear model is chosen by.
        value = sign * validation[metric] if metric in validation else next(iter(validation.values()))
        if value > best:
            best, found = value, test
    return f"{features.name} + linear", {f"test/{name}": value for name, value in found.items()}
