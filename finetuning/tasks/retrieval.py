"""Examples that are looked for with others of the same modality, by the cosine of their vectors.

Shapes: N examples, Q queries, K candidates, D width of the vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.relevance import Sought
from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.metrics import retrieval
from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap
from finetuning.task import Predictions, TaskParts
from finetuning.tasks.captions import AsGiven, InSpace
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.pairs.space import Space


class UnitLength(nn.Module):
    """Leaves directions."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Bring vectors to unit length. [N, D]"""
        return F.normalize(vectors.float(), dim=-1)


class Found(NamedTuple):
    """What came of the queries that have something to find."""

    rows: np.ndarray  # int64 [Q], of the split
    first: np.ndarray  # int64 [Q]: the rank of the first relevant candidate, from 1
    precision: np.ndarray  # [Q]: average precision
    gain: np.ndarray  # [Q]: normalised discounted cumulative gain among ten
    best: list[str]  # [Q]: the first candidate


class Retrieval(AsGiven):
    """There is no loss. With `space` the vectors are those in the space that a hand-off of pairs
    shares; else the backbone's pooled ones.
    """

    term = "no_loss"

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str, space: bool = False) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.head = InSpace(Space.read(parts.handoff).projection) if space else UnitLength()

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Refuse a split in which nothing can be found; there is nothing to predict."""
        labels: list[Sought] = examples.column("label")
        there = {label.name for label in labels if label.candidate}
        if not any(label.query and there & set(label.relevant) for label in labels):
            raise RunError("got no query with a relevant candidate in its split: give data with such")
        return [np.zeros(1, np.float32) for _ in labels]

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Nothing is learnt."""
        return logits.new_zeros(())

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Give each example the vector zero."""
        width = self.head(torch.zeros(1, self.backbone.dim)).shape[1]
        return [np.zeros(width, np.float32) for _ in split.targets]

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Rank the candidates for each query; it does not find itself."""
        labels: list[Sought] = split.examples.column("label")
        candidates = [row for row, label in enumerate(labels) if label.candidate]
        place = {labels[row].name: column for column, row in enumerate(candidates)}
        queries = [row for row, label in enumerate(labels) if label.query and place.keys() & label.relevant.keys()]
        vectors = np.stack(outputs)
        scores, grades = vectors[queries] @ vectors[candidates].T, np.zeros((len(queries), len(candidates)))
        for number, row in enumerate(queries):
            for name, grade in labels[row].relevant.items():
                if name in place:
                    grades[number, place[name]] = grade
            if labels[row].candidate:
                scores[number, place[labels[row].name]] = -np.inf
        first, precision = retrieval.ranks(scores, grades > 0)
        best = [labels[candidates[column]].name for column in scores.argmax(1)]
        found = Found(np.array(queries), first, precision, retrieval.gains(scores, grades), best)
        guesses: list[str | None] = [None] * len(labels)
        for row, name in zip(queries, best, strict=True):
            guesses[row] = name
        return Predictions(labels, guesses, found)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute nDCG and reciprocal rank among ten, recall, median rank and mean average precision."""
        return measured(predictions.scores, slice(None))

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap them over queries."""
        found: Found = predictions.scores
        return bootstrap(lambda drawn: measured(found, drawn), len(found.rows))

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """List what each example is called, what is relevant to it, what was found first, and where a relevant one."""
        found: Found = predictions.scores
        ranks: list[int | None] = [None] * len(predictions.labels)
        for row, rank in zip(found.rows.tolist(), found.first.tolist(), strict=True):
            ranks[row] = rank
        names = [label.name for label in predictions.labels]
        relevant = [list(label.relevant) for label in predictions.labels]
        return {"name": names, "label": relevant, "prediction": predictions.predictions, "rank": ranks}


def measured(found: Found, rows: Any) -> Numbers:
    """Average over queries."""
    first = found.first[rows]
    own = {"ndcg_10": float(found.gain[rows].mean()), "mrr_10": float(np.where(first <= 10, 1 / first, 0.0).mean())}
    return own | retrieval.retrieval(first, found.precision[rows])
