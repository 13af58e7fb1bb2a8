"""From raw text to the token rows that a backbone takes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import Encoded
from pretraining.backbones.base import Backbone
from pretraining.errors import RunError
from pretraining.text.tokenizer import TextPreprocess


def encode_texts(
    examples: Examples, targets: list[np.ndarray], preprocess: TextPreprocess, backbone: Backbone, max_tokens: int
) -> Tokens:
    """Tokenise `text`, and `text_pair` where there is one, with the tokenizer's special tokens; too long texts are cut and counted."""
    check_length(backbone, max_tokens)
    pairs = (examples.column("text_pair"),) if "text_pair" in examples.columns else ()
    typed = bool(pairs) and has_segments(backbone)
    encoding = tokenized(
        preprocess, examples.column("text"), *pairs, max_tokens=max_tokens, return_token_type_ids=typed
    )
    ids = [np.array(row, np.int64) for row in encoding["input_ids"]]
    types = [np.array(row, np.int64) for row in encoding["token_type_ids"]] if typed else None
    return Tokens(examples, targets, ids=ids, types=types, pad_id=preprocess.pad_id or 0)


def has_segments(backbone: Backbone) -> bool:
    """Tell whether the backbone is told which text of a pair a token belongs to, as BERT is."""
    config = getattr(getattr(backbone, "model", None), "config", None)
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def tokenized(
    preprocess: TextPreprocess, *columns: list[Any], max_tokens: int, key: str = "task.max_tokens", **options: Any
) -> Any:
    """Call the tokenizer; rows longer than `max_tokens` are cut (of a pair, the longer text first) and their number is reported.

    `key` is the configuration's name of that length.
    """
    whole = preprocess.tokenizer(*columns, verbose=False, **options)
    over = sum(len(row) > max_tokens for row in whole["input_ids"])
    if not over:
        return whole
    print(
        f"{over} of {len(whole['input_ids'])} texts have more than {key}={max_tokens} tokens and were cut",
        file=sys.stderr,
    )
    return preprocess.tokenizer(*columns, truncation=True, max_length=max_tokens, **options)


def check_length(backbone: Backbone, max_tokens: int) -> None:
    """Refuse rows longer than the backbone has positions for."""
    limit = getattr(backbone, "max_tokens", None)
    if limit is not None and max_tokens > limit:
        raise RunError(
            f"got task.max_tokens={max_tokens}, but this backbone has positions for {limit}: lower task.max_tokens"
        )


class Tokens(Encoded):
    """Token rows, padded to the longest of their batch. `units_at`: which tokens of a row the head reads (None: the pooled vector)."""

    def __init__(
        self,
        examples: Examples,
        targets: list[np.ndarray],
        *,
        ids: list[np.ndarray],
        pad_id: int,
        types: list[np.ndarray] | None = None,
        units_at: list[np.ndarray] | None = None,
    ) -> None:
        super().__init__(examples, targets)
        self.ids, self.types, self.pad_id, self.units_at = ids, types, pad_id, units_at

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Pad `input_ids` and `documents` (1 where a token is, 0 where none) to [B, T]; places of units count into the flat [B * T]."""
        ids = [self.ids[row] for row in rows]
        width = -(-max(map(len, ids)) // 8) * 8
        documents = padded([np.ones_like(row) for row in ids], width, 0)
        batch: dict[str, Any] = {
            "input_ids": padded(ids, width, self.pad_id),
            "documents": documents,
            "tokens": int(documents.sum()),
        }
        if self.types is not None:
            batch["token_type_ids"] = padded([self.types[row] for row in rows], width, 0)
        if self.units_at is not None:
            flat = [number * width + self.units_at[row] for number, row in enumerate(rows)]
            batch["units_at"] = torch.from_numpy(np.concatenate(flat))
        return batch

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(row) for row in self.ids])


def padded(rows: list[np.ndarray], width: int, value: int) -> Tensor:
    """Stack rows of different lengths, filled up with `value` on the right. int64 [B, width]"""
    stacked = np.full((len(rows), width), value, np.int64)
    for number, row in enumerate(rows):
        stacked[number, : len(row)] = row
    return torch.from_numpy(stacked)
