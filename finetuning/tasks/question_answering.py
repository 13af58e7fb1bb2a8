"""Answers as spans of a context; long contexts are read in overlapping windows, and a question may have no answer.

Shapes: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.windows import WindowInputs, Windows
from finetuning.metrics import squad
from finetuning.metrics.bootstrap import RESAMPLES, Intervals, Numbers, bootstrap
from finetuning.task import Predictions, Task, TaskParts
from pretraining.backbones.base import Features
from pretraining.data.splits import SPLITS
from pretraining.engine.batch import Batch
from pretraining.errors import RunError

CANDIDATES = 20  # starts and ends that are tried per window


class QuestionAnswering(Task):
    """Scores each token as start and end of an answer of up to `max_answer`; the first stands for "none in here"."""

    cacheable = False
    transformers_class = "AutoModelForQuestionAnswering"
    measures = ("loss", "exact_match", "f1", *squad.APART)
    per_position = True
    placeholder: Any = {"text": [], "answer_start": []}  # noqa: RUF012

    def __init__(self, parts: TaskParts, *, inputs: WindowInputs, select: str, max_answer: int = 30) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.max_answer = max_answer
        self.head = self.layers.head(2, 0.0)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Learn whether any question has no answer: only then may one be given none."""
        answers = {name: [gold["text"] for gold in getattr(splits, name).column("label")] for name in SPLITS}
        if not any(answers["train"]):
            raise RunError("got no question with an answer in training: name another data.answers")
        return {"unanswerable": not all(all(texts) for texts in answers.values())}

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Find the characters of each first answer: its first and the one behind its last; (-1, -1) for none."""
        golds = examples.column("label")
        first = [(gold["answer_start"][0], gold["text"][0]) if gold["text"] else (-1, "") for gold in golds]
        return [np.array([start, start + len(text)]) for start, text in first]

    def score(self, features: Features, batch: Batch) -> Tensor:
        """Score every token, and none where padding is. [B, T, 2]"""
        scores = self.head(features.positions)
        return scores if features.valid is None else scores.masked_fill(~features.valid[..., None], float("-inf"))

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum, over windows, the mean cross-entropy of start and end among the window's tokens."""
        targets, scores = batch["targets"], logits.float()
        first, last = (F.cross_entropy(scores[..., side], targets[:, side], reduction="sum") for side in (0, 1))
        return (first + last) / 2

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Take each window's scores, padding included. [T, 2] each"""
        return list(logits.float().cpu().numpy())

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Score every token alike."""
        return [np.zeros((length, 2), np.float32) for length in split.lengths()]

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Take each question's best span over its windows, or none where "no answer" scores higher in all of them.

        The score is by how much that of the span exceeds that of no answer.
        """
        assert isinstance(split, Windows)
        contexts = split.examples.column("context")
        best = [(-np.inf, "")] * len(contexts)
        null = np.full(len(contexts), np.inf)
        for logits, place, offsets in zip(outputs, split.question, split.offsets, strict=True):
            null[place] = min(null[place], logits[0].sum())
            score, first, last = best_span(logits[: len(offsets)], offsets[:, 0] >= 0, self.max_answer)
            if score > best[place][0]:
                best[place] = (score, contexts[place][offsets[first, 0] : offsets[last, 1]])
        empty = [self.labels["unanswerable"] and null[place] > score for place, (score, _) in enumerate(best)]
        answers = ["" if none else text for none, (_, text) in zip(empty, best, strict=True)]
        golds = [gold["text"] for gold in split.examples.column("label")]
        return Predictions(golds, answers, np.array([score for score, _ in best]) - null)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute exact match and F1."""
        return squad.summary(predictions.labels, predictions.predictions)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap both over questions."""
        each = squad.scores(predictions.labels, predictions.predictions)
        names = ("exact_match", "f1")
        return bootstrap(lambda rows: {n: each[rows, k].mean() for k, n in enumerate(names)}, len(each), RESAMPLES)


def best_span(logits: np.ndarray, allowed: np.ndarray, max_answer: int) -> tuple[float, int, int]:
    """Find the allowed span of at most `max_answer` tokens with the highest sum of scores: its score, start and end."""
    masked = np.where(allowed[:, None], logits, -np.inf)
    starts, ends = (np.argsort(-masked[:, side], kind="stable")[:CANDIDATES] for side in (0, 1))
    length = ends[None] - starts[:, None] + 1
    sums = np.where((length >= 1) & (length <= max_answer), masked[starts, 0][:, None] + masked[ends, 1][None], -np.inf)
    first, last = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[first, last]), int(starts[first]), int(ends[last])
