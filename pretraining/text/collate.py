"""What the collates of text share: packed rows, their layout with special tokens, and what a backbone is called with.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretraining.engine.batch import Batch
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.plan import Rows, TextExamples, pack_documents
from pretraining.text.tokenizer import TextPreprocess

WIDTH_MULTIPLE = 8  # of padded rows: few shapes, and aligned matrix products


@dataclass(kw_only=True, eq=False)
class TextCollate:
    """What makes batches of rows of at most `max_tokens` tokens."""

    preprocess: TextPreprocess
    max_tokens: int

    def __post_init__(self) -> None:
        """Refuse a tokenizer or settings that do not fit."""


class PackedDocuments(TextCollate):
    """A collate whose rows are whole documents, packed; the same rows each epoch, in another order."""

    def plan(self, corpus: Corpus, seed: int, epoch: int) -> Rows:
        """Pack whole documents into rows."""
        return pack_documents(corpus, self.max_tokens, self.preprocess.specials_per_document)


def padding_of(preprocess: TextPreprocess) -> int:
    """Name what stands at padding, which nobody reads: any token where the tokenizer has none for it."""
    return 0 if preprocess.pad_id is None else preprocess.pad_id


def padded_width(longest: int) -> int:
    """Round the length of the longest row of a batch up to the width that the batch is padded to."""
    return -(-longest // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def text_batch(input_ids: np.ndarray, document_ids: np.ndarray, **inputs: np.ndarray) -> Batch:
    """Make a batch of what a backbone is called with, [B, T] each; `document_ids` are 0 at padding."""
    arrays = {"input_ids": input_ids, "document_ids": document_ids, **inputs}
    tensors = {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in arrays.items()}
    return {"inputs": tensors, "units": int((document_ids > 0).sum())}


def token_batch(
    rows: list[np.ndarray], pad_id: int, *, most: int | None = None, **inputs: list[np.ndarray]
) -> tuple[Batch, int]:
    """Pad token rows, and `inputs` of the same lengths, to [B, T], T at `most`: a batch, and T."""
    width = padded_width(max(map(len, rows)))
    width = width if most is None else min(width, most)
    document_ids = padded([np.ones_like(row) for row in rows], width, 0)
    more = {name: padded(each, width, 0) for name, each in inputs.items()}
    return text_batch(padded(rows, width, pad_id), document_ids, **more), width


def padded(rows: list[np.ndarray], width: int, value: int) -> np.ndarray:
    """Stack rows of different lengths, filled up with `value` on the right. int64 [B, width]"""
    stacked = np.full((len(rows), width), value, np.int64)
    stacked[np.arange(width) < np.array(list(map(len, rows)))[:, None]] = np.concatenate(rows)
    return stacked


def describe_row(preprocess: TextPreprocess, batch: Batch, row: int, target: Any) -> str:
    """Decode what the model reads in a row, and show what it should answer."""
    inputs = batch["inputs"]
    real = inputs["input_ids"][row][inputs["document_ids"][row] > 0]
    return f"  input   {preprocess.tokenizer.decode(real)}\n  target  {target}"


def assemble(
    examples: TextExamples, max_tokens: int, preprocess: TextPreprocess
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay pieces out as `[CLS] piece [SEP] [CLS] piece [SEP] … padding`.

    Returns input_ids int32 [B, T]; document_ids int32 [B, T], the pieces of a row numbered from 1 and padding 0;
    special bool [B, T], True wherever no token of text stands, padding included.
    """
    bos_id, eos_id = preprocess.bos_id, preprocess.eos_id
    spans = examples.piece_lengths + ((bos_id is not None) + (eos_id is not None))
    rows = len(examples.row_pieces)
    behind = np.cumsum(examples.row_pieces)  # the piece behind each row's last
    ends = np.concatenate([[0], np.cumsum(spans)])
    used = ends[behind] - ends[behind - examples.row_pieces]
    if rows and used.max() > max_tokens:
        told = f"a row of {used.max()} tokens, special ones included, does not fit into max_tokens={max_tokens}"
        raise ValueError(f"{told}: plan shorter rows")
    room = max_tokens - used
    # Each row is a run of its pieces and one of padding: the runs fill [B, T] without a gap.
    runs = np.insert(spans, behind, room)
    numbers = np.arange(1, len(spans) + 1) - np.repeat(behind - examples.row_pieces, examples.row_pieces)
    document_ids = np.repeat(np.insert(numbers, behind, 0).astype(np.int32), runs)
    starts = ends[:-1] + np.repeat(np.cumsum(room) - room, examples.row_pieces)
    input_ids = np.full(rows * max_tokens, padding_of(preprocess), dtype=np.int32)
    special = document_ids == 0
    for token_id, places in ((bos_id, starts), (eos_id, starts + spans - 1)):
        if token_id is not None:
            input_ids[places] = token_id
            special[places] = True
    input_ids[~special] = examples.tokens
    shape = (rows, max_tokens)
    return input_ids.reshape(shape), document_ids.reshape(shape), special.reshape(shape)
