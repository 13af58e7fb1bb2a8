"""Questions with their contexts, which are read in overlapping windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetuning.data.splits import Examples
from finetuning.inputs.text import TextInputs, Tokens, arrays
from pretraining.backbones.base import Backbone
from pretraining.errors import RunError
from pretraining.text.collate import padding_of
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.transformers_form import has_segments


@dataclass(kw_only=True, eq=False)
class Windows(Tokens):
    """Token rows that are windows: which question each belongs to, and where its tokens are in the context."""

    question: np.ndarray  # [rows]
    offsets: list[np.ndarray]  # per row [tokens, 2]: characters of the context; (-1, -1) outside of it


@dataclass(kw_only=True)
class WindowInputs(TextInputs):
    """Windows of `max_tokens` with a question and a part of its context, of which two share `overlap` tokens."""

    columns = ("question", "context")
    overlap: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.max_tokens:
            what = f"got task.inputs.overlap={self.overlap} and task.inputs.max_tokens={self.max_tokens}"
            raise RunError(f"{what}: windows must move on, lower task.inputs.overlap")

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: TextPreprocess, backbone: Backbone
    ) -> Windows:
        """Tokenise into windows; `targets` are each answer's first character and the one behind its last, -1 for none.

        A window's target is the first and last token of the answer, or (0, 0) where it does not hold all of one.
        """
        self.check_length(backbone)
        questions = [text.strip() for text in examples.column("question")]
        self._check_questions(questions, preprocess)
        found = preprocess.tokenize(
            questions,
            examples.column("context"),
            truncation="only_second",
            max_length=self.max_tokens,
            stride=self.overlap,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=has_segments(backbone),
        )
        spans, offsets = [], []
        owners = np.array(found["overflow_to_sample_mapping"])
        for row, question in enumerate(owners):
            inside = np.array([part == 1 for part in found.sequence_ids(row)])
            offsets.append(np.where(inside[:, None], np.array(found["offset_mapping"][row]), -1))
            spans.append(_tokens_of(targets[question], offsets[-1])[None])
        types = arrays(found["token_type_ids"]) if "token_type_ids" in found else None
        ids, pad_id = arrays(found["input_ids"]), padding_of(preprocess)
        return Windows(examples, spans, ids=ids, pad_id=pad_id, types=types, question=owners, offsets=offsets)

    def _check_questions(self, questions: list[str], preprocess: TextPreprocess) -> None:
        longest = max(map(len, preprocess.tokenize(questions, add_special_tokens=False)["input_ids"]))
        if longest + self.overlap + 4 > self.max_tokens:
            where = f"task.inputs.max_tokens={self.max_tokens}, of which task.inputs.overlap={self.overlap} are shared"
            raise RunError(f"got a question of {longest} tokens, too many for windows of {where}: raise the former")

    def from_line(self, line: str, roles: list[str], place: str) -> dict[str, Any]:
        """Refuse lines, which hold no contexts."""
        raise RunError("got lines of text for question answering: give a table with questions and contexts")


def _tokens_of(answer: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Find the first and last token of an answer given by its characters; (0, 0) where this window does not hold it."""
    start, stop = answer
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if start < 0 or not len(inside) or offsets[inside[0], 0] > start or offsets[inside[-1], 1] < stop:
        return np.zeros(2, np.int64)
    first = inside[np.flatnonzero(offsets[inside, 0] <= start)[-1]]
    last = inside[np.flatnonzero(offsets[inside, 1] >= stop)[0]]
    return np.array([first, last], np.int64)
