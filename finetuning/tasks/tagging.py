"""One tag per word: parts of speech, or entities in BIO or BIOES."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.words import WordInputs
from finetuning.labels import Classes, count_labels, name_classes, refuse_unseen
from finetuning.metrics import classification as metrics
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.metrics.reference import Answers
from finetuning.metrics.tagging import entities, judge, tag_intervals
from finetuning.task import Predictions, Task, TaskParts
from pretraining.engine.batch import Batch
from pretraining.errors import RunError

_ENTITY_TAG = re.compile(r"O|[BIES]-.+")


def _are_entities(names: Sequence[str]) -> bool:
    return all(map(_ENTITY_TAG.fullmatch, names))


class Tagging(Task):
    """A linear layer on each position that the inputs name for a word; of several, the first one's answer counts."""

    transformers_class = "AutoModelForTokenClassification"
    per_position = True
    measures = ("loss", "accuracy", "mcc", *metrics.AVERAGES, "entity_precision", "entity_recall", "entity_f1")

    def __init__(self, parts: TaskParts, *, inputs: WordInputs, select: str, dropout: float = 0.1) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.classes = Classes(self.labels["values"], self.labels["names"])
        self.head = self.layers.head(self.classes.size, dropout)
        self.entities = _are_entities(self.classes.names)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect the tags: all that the data names, else those of the train split."""
        found = count_labels(splits, itertools.chain.from_iterable)
        if len(found["train"]) < 2:
            raise RunError(f"got one tag only ({next(iter(found['train']))!r}) in training: name another data.tags")
        names = splits.class_names
        values = list(range(len(names))) if names is not None else sorted(found["train"])
        refuse_unseen(found, values)
        common, named = found["train"].most_common(1)[0][0], name_classes(values, names)
        if _are_entities(named):
            judge()  # before a run begins
        return {"values": values, "names": named, "common": values.index(common)}

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Take any tag for each word."""
        return [self.classes.values[0]] * len(example["tokens"])

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Number each word's tag."""
        return [self.classes.numbers(tags) for tags in examples.column("label")]

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cross-entropy over words (or tokens)."""
        return F.cross_entropy(logits.float(), batch["targets"], reduction="sum")

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Name the best tag of each word; one without a vector gets O (or the commonest tag), and counts as well."""
        names = np.array(self.classes.names, object)
        spare = "O" if "O" in self.classes.names else names[self.labels["common"]]
        seen: list[np.ndarray] = getattr(split, "source", split).words  # type: ignore[union-attr]
        predictions = []
        for tags, logits, words in zip(split.examples.column("label"), outputs, seen, strict=True):
            guess = np.full(len(tags), spare, dtype=object)
            own, first = np.unique(words, return_index=True)
            guess[own] = names[logits.argmax(-1)[first]]
            predictions.append(guess.tolist())
        labels = [names[numbers].tolist() for numbers in self.targets(split.examples)]
        return Predictions(labels, predictions)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute entity metrics where tags are entities, and metrics over words."""
        truth, guess = (np.array(list(itertools.chain(*rows))) for rows in predictions[:2])
        of_entities = entities(predictions.labels, predictions.predictions) if self.entities else {}
        return metrics.label_metrics(truth, guess) | of_entities

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap accuracy, and entity F1, over sentences."""
        return tag_intervals(predictions.labels, predictions.predictions, self.entities)

    def answers(self, predictions: Predictions) -> Answers:
        """List each word's tag."""
        return Answers(*(list(itertools.chain.from_iterable(rows)) for rows in predictions[:2]))

    def report(self, predictions: Predictions) -> dict[str, Any]:
        """Tabulate numbers per tag and the confusion matrix over words."""
        number = {name: place for place, name in enumerate(self.classes.names)}
        truth, guess = (np.array([number[tag] for row in rows for tag in row]) for rows in predictions[:2])
        return metrics.report(truth, guess, self.classes.names)
