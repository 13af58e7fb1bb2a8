"""TF-IDF and a linear model on the very examples that a study's finetuning runs learn from and are judged on.

Shapes: N examples, V features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from experiments.study.graph import Cell, Node
from finetuning.data.splits import Examples, Splits, subset
from finetuning.launch import compose
from finetuning.metrics.classification import label_metrics
from finetuning.metrics.regression import regression
from finetuning.tasks.classification import Classification
from finetuning.tasks.regression import Regression
from pretraining.cli.configuration import class_of, instantiate

STRENGTHS = (0.1, 1.0, 10.0, 100.0)  # inverse penalties; the best on validation is tested


def baseline(node: Node) -> float | None:
    """Measure the classical model by the metric of a finetuning run's cell; None where it does not apply."""
    assert node.cell is not None
    config = compose(node.overrides)
    kind = class_of(config.task)
    splits: Splits = instantiate(config.data).splits()
    if kind not in (Classification, Regression) or not _texts(splits.train):
        return None
    train = subset(splits.train, fraction=config.fraction, shots=config.shots, seed=config.seed)
    return _fit_and_test(splits._replace(train=train), kind is Regression, node.cell)


def _fit_and_test(splits: Splits, real: bool, cell: Cell) -> float:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    words.fit([text for name in _texts(splits.train) for text in splits.train.column(name)])
    vectors = {name: _features(words, getattr(splits, name)) for name in ("train", "validation", "test")}
    labels = {name: np.array(getattr(splits, name).column("label")) for name in vectors}
    best, judge, metric = (-np.inf, np.nan), regression if real else label_metrics, cell.metric.removeprefix("test/")
    for strength in STRENGTHS:
        model: Any = Ridge(alpha=1 / strength) if real else LogisticRegression(C=strength, max_iter=2000)
        model.fit(vectors["train"], labels["train"])
        validation, test = (judge(labels[name], model.predict(vectors[name])) for name in ("validation", "test"))
        best = max(best, (validation[metric], test[metric]), key=lambda pair: pair[0])
    return best[1]


def _features(words: TfidfVectorizer, examples: Examples) -> sparse.csr_matrix:
    """Compute TF-IDF of words and word pairs; of two texts also what they share and where they differ. [N, V]"""
    parts = [words.transform(examples.column(name)) for name in _texts(examples)]
    if len(parts) == 2:
        parts += [parts[0].multiply(parts[1]), abs(parts[0] - parts[1])]
    return sparse.hstack(parts).tocsr()


def _texts(examples: Examples) -> list[str]:
    return [name for name in ("text", "text_pair") if name in examples.columns]
