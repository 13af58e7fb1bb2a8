"""From raw text to the token rows that a backbone takes.

Shapes: B rows, T tokens, N things to predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Features, Inputs
from pretraining.backbones.base import Backbone
from pretraining.data.columns import is_text
from pretraining.data.unlabelled import Unlabelled, tell_cut, tell_some
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.text.collate import padding_of, token_batch
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.transformers_form import has_segments, made_up_rows, save_tokenizer
from pretraining.text.unlabelled import Lines


@dataclass(kw_only=True, eq=False)
class Tokens(EncodedSplit):
    """Token rows, padded to the longest of their batch."""

    ids: list[np.ndarray]
    pad_id: int
    types: list[np.ndarray] | None = None  # which text of a pair each token is of
    positions: list[np.ndarray] | None = None  # which of a row's tokens the head reads, if it reads such

    def stack(self, rows: np.ndarray) -> Batch:
        """Pad to [B, T]; document_ids are 1 where a token is and 0 where none."""
        types: dict[str, Any] = {} if self.types is None else {"token_type_ids": [self.types[row] for row in rows]}
        batch, width = token_batch([self.ids[row] for row in rows], self.pad_id, **types)
        if self.positions is not None:
            batch["target_positions"] = flat_positions([self.positions[row] for row in rows], width)
        return batch

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(row) for row in self.ids])


@dataclass(kw_only=True)
class TextInputs(Inputs):
    """Texts, or pairs judged together, of at most `max_tokens` tokens with special ones; longer ones are cut."""

    modality = TEXT
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    accepts = staticmethod(is_text)  # as a value of them
    needed: ClassVar[str] = ", but text is needed"
    max_tokens: int = 128

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: TextPreprocess, backbone: Backbone
    ) -> Tokens:
        """Tokenise `text`, and `text_pair` where there is one."""
        self.check_length(backbone)
        pairs = [examples.column("text_pair")] if "text_pair" in examples.columns else []
        typed = bool(pairs) and has_segments(backbone)
        texts = [examples.column("text"), *pairs]
        found = tokenized(preprocess, *texts, max_tokens=self.max_tokens, return_token_type_ids=typed)
        types = arrays(found["token_type_ids"]) if typed else None
        return Tokens(examples, targets, ids=arrays(found["input_ids"]), types=types, pad_id=padding_of(preprocess))

    def check_length(self, backbone: Backbone) -> None:
        """Refuse rows longer than the backbone has positions for."""
        limit = getattr(backbone, "max_tokens", None)
        if limit is not None and self.max_tokens > limit:
            what = f"got task.inputs.max_tokens={self.max_tokens}, but this backbone has positions for {limit}"
            raise RunError(f"{what}: lower it")

    def classical(self, train: Examples) -> Features:
        """Weigh words and word pairs by TF-IDF; of two texts also what they share and where they differ."""
        roles = [role for role in ("text", "text_pair") if role in train.columns]
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
        words.fit([text for role in roles for text in train.column(role)])

        def of(examples: Examples) -> sparse.csr_matrix:
            parts = [words.transform(examples.column(role)) for role in roles]
            if len(parts) == 2:
                parts += [parts[0].multiply(parts[1]), abs(parts[0] - parts[1])]
            return sparse.hstack(parts).tocsr()

        return Features("TF-IDF", of)

    def read(
        self, path: Path | Sequence[Any], named: Mapping[str, Any], preprocess: TextPreprocess
    ) -> Iterator[Unlabelled]:
        """Read tables with the run's columns, or a text per line, and number them by row or line."""
        names = {role: named[role] for role in self.columns if named.get(role)} or {self.columns[0]: self.columns[0]}
        return Lines(names=names, parse=self.from_line, accepts=self.accepts, needed=self.needed).read(path)

    def from_line(self, line: str, roles: list[str], place: str) -> dict[str, Any]:
        """Take a text, or two with a tab between them where the run judges pairs."""
        parts = line.split("\t") if "text_pair" in roles else [line]
        if len(parts) != len(roles):
            what = f"got {place} without exactly one tab"
            raise RunError(f"{what}: this run judges pairs of texts, give text<tab>text")
        return dict(zip(roles, parts, strict=True))

    def made_up_rows(self, preprocess: TextPreprocess) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw two rows of ordinary tokens, the second one padded."""
        ids, real = made_up_rows(preprocess)
        return {"input_ids": ids, "document_ids": real}, {"input_ids": ids, "attention_mask": real}

    def save_for_transformers(self, directory: Path, preprocess: TextPreprocess, backbone: Backbone) -> None:
        """Write the tokenizer."""
        save_tokenizer(preprocess, backbone, directory, plain=True)


def tokenized(
    preprocess: TextPreprocess, *columns: list[Any], max_tokens: int, key: str = "max_tokens", **options: Any
) -> Any:
    """Tokenise; rows longer than `max_tokens`, task.inputs.`key`, are cut (of a pair, the longer text) and counted.

    So are those which stay longer than what a hand-off was trained on.
    """
    specials = preprocess.tokenizer.num_special_tokens_to_add(pair=len(columns) > 1)
    if max_tokens <= specials:
        what = f"got task.inputs.{key}={max_tokens}, which leaves no room for text beside {specials} special tokens"
        raise RunError(f"{what}: raise it")
    whole = preprocess.tokenize(*columns, verbose=False, **options)
    taught = preprocess.trained_with.get("max_tokens") or max_tokens
    if taught < max_tokens:
        over = sum(len(row) > taught for row in whole["input_ids"])
        what = f"texts have more than the {taught} tokens that the hand-off was trained on at most"
        tell_some(over, len(whole["input_ids"]), f"{what}: task.inputs.{key}={taught} cuts them there")
    if not report_cut(whole["input_ids"], max_tokens, key, max_tokens):
        return whole
    return preprocess.tokenize(*columns, truncation=True, max_length=max_tokens, **options)


def report_cut(rows: list[list[int]], room: int, key: str, limit: int) -> bool:
    """Say how many rows have more than `room` tokens, which `key`=`limit` leaves them; tells whether any has."""
    over = sum(len(row) > room for row in rows)
    tell_cut(over, len(rows), f"texts have more than task.inputs.{key}={limit} tokens")
    return over > 0


def flat_positions(places: list[np.ndarray], width: int) -> Tensor:
    """Turn places in each of B rows into places in the flat [B * width]. [N]"""
    return torch.from_numpy(np.concatenate([row * width + place for row, place in enumerate(places)]))


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    """Turn rows of ids into int64 arrays."""
    return [np.array(row, np.int64) for row in rows]
