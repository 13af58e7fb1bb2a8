"""Sentences as words, each of which has a tag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from finetuning.data.splits import Examples
from finetuning.inputs.text import TextInputs, Tokens, arrays, tokenized
from pretraining.backbones.base import Backbone
from pretraining.data.columns import are_texts
from pretraining.errors import RunError
from pretraining.text.collate import padding_of
from pretraining.text.tokenizer import TextPreprocess


@dataclass(kw_only=True, eq=False)
class TaggedTokens(Tokens):
    """Token rows that also know which words of their sentence have a vector: none that was cut off or has no token."""

    words: list[np.ndarray]  # per row: the word behind each position that the head reads


@dataclass(kw_only=True)
class WordInputs(TextInputs):
    """Sentences as lists of words (`tokens`); the head reads each word's first token (`align=first`) or all."""

    columns = ("tokens",)
    accepts = staticmethod(are_texts)
    needed: ClassVar[str] = ", but lists of words are needed"
    align: Literal["first", "all"]

    def __post_init__(self) -> None:
        if self.align not in ("first", "all"):
            raise RunError(f"got task.inputs.align={self.align}: choose first or all")

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: TextPreprocess, backbone: Backbone
    ) -> TaggedTokens:
        """Tokenise word by word and find each word's tokens; `targets` has a number per word."""
        self.check_length(backbone)
        sentences = examples.column("tokens")
        found = tokenized(preprocess, sentences, max_tokens=self.max_tokens, is_split_into_words=True)
        positions, words = [], []
        for row in range(examples.size):
            owners = np.array([-1 if word is None else word for word in found.word_ids(row)])
            begins = np.diff(owners, prepend=-1) != 0 if self.align == "first" else True
            positions.append(np.flatnonzero((owners >= 0) & begins))
            words.append(owners[positions[-1]])
        read = [target[own] for target, own in zip(targets, words, strict=True)]
        ids, pad_id = arrays(found["input_ids"]), padding_of(preprocess)
        return TaggedTokens(examples, read, ids=ids, pad_id=pad_id, positions=positions, words=words)

    def from_line(self, line: str, roles: list[str], place: str) -> dict[str, Any]:
        """Take a sentence, its words between spaces."""
        return {"tokens": line.split()}
