"""One tag per word: parts of speech, or entities in BIO or BIOES.

Shapes: N words that have a token, C tags.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import SPLITS, Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.cached import Cached
from finetuning.inputs.text import Tokens, check_length, tokenized
from finetuning.labels import Classes, name_classes
from finetuning.metrics import classification as metrics
from finetuning.metrics.classification import Numbers
from finetuning.modes import Mode
from finetuning.task import Judged, Task
from finetuning.tasks.classification import linear_head
from pretraining.engine.batch import Batch, Term
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer
from pretraining.text.modality import TEXT

_ENTITY_TAG = re.compile(r"O|[BIES]-.+")


class TaggedTokens(Tokens):
    """Token rows that also know which words of their sentence have a vector: not those cut off, nor those without any token."""

    seen: list[np.ndarray]  # per row: the word behind each unit


class Tagging(Task):
    """A linear layer on each word's first token (`align=first`), or on all of its tokens, of which the first one's answer counts."""

    modality = TEXT

    def __init__(
        self,
        *,
        handoff: Handoff,
        labels: dict[str, Any],
        mode: Mode,
        optimizer: Optimizer,
        select: str,
        dropout: float,
        max_tokens: int,
        align: Literal["first", "all"],
    ) -> None:
        super().__init__(handoff=handoff, labels=labels, mode=mode, optimizer=optimizer, select=select)
        if align not in ("first", "all"):
            raise RunError(f"got task.align={align}: choose first or all")
        self.max_tokens, self.align = max_tokens, align
        self.classes = Classes(labels["values"], labels["names"])
        self.head = linear_head(self.backbone.dim, self.classes.size, dropout)
        self.entities = all(_ENTITY_TAG.fullmatch(name) for name in self.classes.names)

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Collect the tags: all that the data names, else those of the train split."""
        found = {
            name: Counter(tag for tags in getattr(splits, name).column("label") for tag in tags) for name in SPLITS
        }
        names = splits.class_names
        values = list(range(len(names))) if names is not None else sorted(found["train"])
        if len(found["train"]) < 2:
            raise RunError(
                f"got one tag only ({next(iter(found['train']))!r}) in the training data: name another data.tags"
            )
        for name in SPLITS:
            unseen = sorted(found[name].keys() - set(values), key=str)
            if unseen:
                raise RunError(
                    f"got tags in {name} that training has no example of ({', '.join(map(repr, unseen[:8]))}): "
                    "give training examples for them, or map them to others"
                )
        common = found["train"].most_common(1)[0][0]
        return {"values": values, "names": name_classes(values, names), "common": values.index(common)}

    def blank(self) -> Any:
        """Give any tag; a sentence needs one per word."""
        return self.classes.values[0]

    def encode(self, examples: Examples) -> TaggedTokens:
        """Tokenise word by word and find each word's tokens."""
        check_length(self.backbone, self.max_tokens)
        encoding = tokenized(
            self.preprocess, examples.column("tokens"), max_tokens=self.max_tokens, is_split_into_words=True
        )
        units, seen, targets = [], [], []
        for row, tags in enumerate(examples.column("label")):
            words = np.array([-1 if word is None else word for word in encoding.word_ids(row)])
            first = np.flatnonzero((words >= 0) & (np.diff(words, prepend=-1) != 0))
            at = first if self.align == "first" else np.flatnonzero(words >= 0)
            units.append(at)
            seen.append(words[at])
            targets.append(self.classes.numbers(tags)[words[at]])
        ids = [np.array(row, np.int64) for row in encoding["input_ids"]]
        encoded = TaggedTokens(examples, targets, ids=ids, units_at=units, pad_id=self.preprocess.pad_id or 0)
        encoded.seen = seen
        return encoded

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum the cross-entropy over words (or tokens)."""
        targets = batch["targets"]
        total = F.cross_entropy(logits.float(), targets, reduction="sum")
        return Term(total, torch.tensor(float(len(targets)), device=total.device))

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Name the best tag of every word; a word without a vector gets O (or the commonest tag), and counts like any other."""
        names = self.classes.names
        spare = "O" if "O" in names else names[self.labels["common"]]
        labels, predictions = [], []
        for tags, logits, seen in zip(encoded.examples.column("label"), outputs, _seen(encoded), strict=True):
            guess = np.full(len(tags), spare, dtype=object)
            chosen = logits.argmax(-1)
            for word, tag in zip(
                seen[::-1], chosen[::-1], strict=True
            ):  # backwards: the first token's answer is written last
                guess[word] = names[tag]
            labels.append([names[number] for number in self.classes.numbers(tags)])
            predictions.append(guess.tolist())
        return Judged(labels, predictions)

    def metrics(self, judged: Judged) -> Numbers:
        """Compute entity metrics where tags are entities, and metrics over words."""
        truth, guess = (np.array([tag for row in rows for tag in row]) for rows in (judged.labels, judged.predictions))
        return metrics.label_metrics(truth, guess) | (
            metrics.entities(judged.labels, judged.predictions) if self.entities else {}
        )

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap accuracy, and entity F1, over sentences."""
        return metrics.tag_intervals(judged.labels, judged.predictions, self.entities)

    def report(self, judged: Judged) -> dict[str, Any]:
        """Give numbers per tag and the confusion matrix over words."""
        number = {name: place for place, name in enumerate(self.classes.names)}
        truth, guess = (
            np.array([number[tag] for row in rows for tag in row]) for rows in (judged.labels, judged.predictions)
        )
        return metrics.report(truth, guess, self.classes.names)


def _seen(encoded: Encoded) -> list[np.ndarray]:
    tagged = encoded.source if isinstance(encoded, Cached) else encoded
    assert isinstance(tagged, TaggedTokens)
    return tagged.seen
