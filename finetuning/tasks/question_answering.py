"""Answers as spans of a context; long contexts are read in overlapping windows, and a question may have no answer.

Shapes: B windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import SPLITS, Examples, Splits
from finetuning.inputs.base import Encoded
from finetuning.inputs.text import Tokens, check_length, has_segments
from finetuning.metrics import classification as metrics
from finetuning.metrics import squad
from finetuning.metrics.classification import Numbers
from finetuning.modes import Mode
from finetuning.task import Judged, Task
from finetuning.tasks.classification import linear_head
from pretraining.backbones.base import Features
from pretraining.engine.batch import Batch, Term
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.optim.optimizers import Optimizer
from pretraining.text.modality import TEXT

CANDIDATES = 20  # starts and ends that are tried per window


class Windows(Tokens):
    """Token rows that are windows: which question each belongs to, and where its tokens are in the context."""

    question: np.ndarray  # [rows]
    offsets: list[np.ndarray]  # per row [T, 2]: characters of the context; (-1, -1) outside of it


class QuestionAnswering(Task):
    """Scores each token as start and end of the answer; the first token stands for "no answer in this window".

    Windows of `max_tokens` overlap by `overlap` tokens of the context; answers have at most `max_answer` tokens.
    """

    modality = TEXT
    cacheable = False

    def __init__(
        self,
        *,
        handoff: Handoff,
        labels: dict[str, Any],
        mode: Mode,
        optimizer: Optimizer,
        select: str,
        max_tokens: int,
        overlap: int,
        max_answer: int,
    ) -> None:
        super().__init__(handoff=handoff, labels=labels, mode=mode, optimizer=optimizer, select=select)
        if not 0 <= overlap < max_tokens:
            raise RunError(
                f"got task.overlap={overlap} and task.max_tokens={max_tokens}: windows must move on, lower task.overlap"
            )
        self.max_tokens, self.overlap, self.max_answer = max_tokens, overlap, max_answer
        self.head = linear_head(self.backbone.dim, 2, 0.0)

    @classmethod
    def survey(cls, splits: Splits) -> dict[str, Any]:
        """Learn whether training has questions without answer: only then may one be given none."""
        answers = [gold["text"] for gold in splits.train.column("label")]
        if not any(answers):
            raise RunError("got no question with an answer in training: name another data.answers")
        return {
            "unanswerable": not all(answers)
            or any(not gold["text"] for name in SPLITS[1:] for gold in getattr(splits, name).column("label"))
        }

    def blank(self) -> Any:
        """Give no answer."""
        return {"text": [], "answer_start": []}

    def encode(self, examples: Examples) -> Windows:
        """Tokenise question and context into windows, and find the first answer's tokens in each."""
        check_length(self.backbone, self.max_tokens)
        tokenizer, contexts = self.preprocess.tokenizer, examples.column("context")
        questions = [text.strip() for text in examples.column("question")]
        longest = max(len(row) for row in tokenizer(questions, add_special_tokens=False)["input_ids"])
        if longest + self.overlap + 4 > self.max_tokens:
            raise RunError(
                f"got a question of {longest} tokens, which leaves no room for its context beside task.overlap={self.overlap} in "
                f"windows of task.max_tokens={self.max_tokens}: raise task.max_tokens or lower task.overlap"
            )
        found = tokenizer(
            questions,
            contexts,
            truncation="only_second",
            max_length=self.max_tokens,
            stride=self.overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=has_segments(self.backbone),
        )
        golds, targets, offsets = examples.column("label"), [], []
        question = np.array(found["overflow_to_sample_mapping"])
        for row, example in enumerate(question):
            inside = np.array([part == 1 for part in found.sequence_ids(row)])
            offsets.append(np.where(inside[:, None], np.array(found["offset_mapping"][row]), -1))
            targets.append(_span(golds[example], offsets[-1])[None])
        ids = [np.array(row, np.int64) for row in found["input_ids"]]
        types = [np.array(row, np.int64) for row in found["token_type_ids"]] if "token_type_ids" in found else None
        windows = Windows(examples, targets, ids=ids, types=types, pad_id=self.preprocess.pad_id or 0)
        windows.question, windows.offsets = question, offsets
        return windows

    def vectors(self, features: Features, batch: Batch) -> Tensor:
        """Take every token's vector. [B, T, D]"""
        return features.positions

    def criterion(self, logits: Tensor, batch: Batch) -> Term:
        """Sum, over windows, the mean cross-entropy of start and end among the window's tokens."""
        targets, padding = batch["targets"], batch["inputs"]["document_ids"] == 0
        scores = logits.float().masked_fill(padding[..., None], float("-inf"))  # [B, T, 2]
        first, last = (F.cross_entropy(scores[..., side], targets[:, side], reduction="sum") for side in (0, 1))
        return Term((first + last) / 2, torch.tensor(float(len(targets)), device=logits.device))

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Cut the padding off. [T, 2] each"""
        lengths = (batch["inputs"]["document_ids"] > 0).sum(1).tolist()
        return [row[:length] for row, length in zip(logits.float().cpu().numpy(), lengths, strict=True)]

    def silence(self, encoded: Encoded) -> list[np.ndarray]:
        """Give outputs of zeros."""
        return [np.zeros((length, 2), np.float32) for length in encoded.lengths()]

    def judge(self, outputs: list[np.ndarray], encoded: Encoded) -> Judged:
        """Take each question's best span over its windows, or none where "no answer" scores higher in all of them."""
        assert isinstance(encoded, Windows)
        contexts = encoded.examples.column("context")
        best = [(-np.inf, "")] * len(contexts)
        null = np.full(len(contexts), np.inf)
        for logits, place, offsets in zip(outputs, encoded.question, encoded.offsets, strict=True):
            null[place] = min(null[place], logits[0].sum())
            score, first, last = best_span(logits, offsets[:, 0] >= 0, self.max_answer)
            if score > best[place][0]:
                best[place] = (score, contexts[place][offsets[first, 0] : offsets[last, 1]])
        empty = [self.labels["unanswerable"] and null[place] > score for place, (score, _) in enumerate(best)]
        answers = ["" if none else text for none, (_, text) in zip(empty, best, strict=True)]
        golds = [gold["text"] for gold in encoded.examples.column("label")]
        return Judged(golds, answers, np.array([score for score, _ in best]) - null)

    def metrics(self, judged: Judged) -> Numbers:
        """Compute exact match and F1."""
        return squad.summary(judged.labels, judged.predictions)

    def intervals(self, judged: Judged) -> dict[str, tuple[float, float]]:
        """Bootstrap both over questions."""
        each = squad.scores(judged.labels, judged.predictions)
        return metrics.bootstrap(
            lambda rows: {"exact_match": each[rows, 0].mean(), "f1": each[rows, 1].mean()}, len(each), metrics.RESAMPLES
        )

    def table(self, judged: Judged) -> dict[str, Any]:
        """Give all answers, the prediction, and by how much its score exceeds that of no answer."""
        return {"label": judged.labels, "prediction": judged.predictions, "scores": judged.scores}


def best_span(logits: np.ndarray, allowed: np.ndarray, max_answer: int) -> tuple[float, int, int]:
    """Find the allowed span of at most `max_answer` tokens with the highest sum of start and end score, among the best of each."""
    masked = np.where(allowed[:, None], logits, -np.inf)
    starts, ends = (np.argsort(-masked[:, side], kind="stable")[:CANDIDATES] for side in (0, 1))
    length = ends[None] - starts[:, None] + 1
    sums = np.where((length >= 1) & (length <= max_answer), masked[starts, 0][:, None] + masked[ends, 1][None], -np.inf)
    first, last = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[first, last]), int(starts[first]), int(ends[last])


def _span(gold: dict[str, list], offsets: np.ndarray) -> np.ndarray:
    """Find the tokens of the first answer: (first, last), or (0, 0) where this window does not hold all of it."""
    if not gold["text"]:
        return np.zeros(2, np.int64)
    start, stop = gold["answer_start"][0], gold["answer_start"][0] + len(gold["text"][0])
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(inside) or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < stop:
        return np.zeros(2, np.int64)
    first = inside[np.flatnonzero(offsets[inside, 0] <= start)[-1]]
    last = inside[np.flatnonzero(offsets[inside, 1] >= stop)[0]]
    return np.array([first, last], np.int64)
