"""What the sides of a comparison of masked language models have in common: text, rows, architecture, rates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from pretraining.objectives.text.masked_language import MaskTokens
from pretraining.random import permuted
from pretraining.text.data.stdlib_docs import StdlibDocs
from pretraining.text.plan import PlannedText, one_document_per_row, pack_documents
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece

SHAPES = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
VOCABULARY, ENDLESS, SEED = 30_528, 10**6, 1
PEAK_LR, WARMUP, WEIGHT_DECAY, CLIP = 5e-4, 100, 0.01, 1.0


class Setting(NamedTuple):
    """What the sides of one comparison have in common, and the precision of one."""

    shape: str
    dropout: float
    precision: Any  # fp32, bf16, or this package's auto
    batch: int  # rows
    tokens: int  # of a row
    rows: str  # packed, or documents
    cache_dir: str
    device: Any
    threads: int
    compile_model: bool
    impl: Any  # of this package's backbone
    seed: int = SEED  # of order, masks and weights
    steps: int = ENDLESS

    def text(self, split: str = "train") -> tuple[TextPreprocess, PlannedText]:
        """Open the text of this setting."""
        return open_text(self.tokens, self.rows, self.cache_dir, seed=self.seed, split=split)

    def masks(self, preprocess: TextPreprocess) -> MaskTokens:
        """Hide tokens as this package does in this setting."""
        return mask_tokens(preprocess, self.tokens, static_shapes=self.device == "cuda")


def open_text(
    tokens: int, rows: str, cache_dir: str, *, seed: int = SEED, split: str = "train"
) -> tuple[TextPreprocess, PlannedText]:
    """Open the built-in text as rows: whole documents packed into them, or one document in each."""
    data = StdlibDocs(max_tokens=tokens, batch_size=1, eval_batch_size=1, workers=0, cache_dir=cache_dir)
    preprocess = WordPiece(vocab_size=8192, lowercase=True, sample_bytes=10**8).fit(data)
    plan = {"packed": pack_documents, "documents": one_document_per_row}[rows]
    return preprocess, data.source(split, preprocess, lambda corpus, seed, epoch: plan(corpus, tokens), seed=seed)


def mask_tokens(preprocess: TextPreprocess, tokens: int, *, static_shapes: bool = False) -> MaskTokens:
    """Hide tokens as this package does by default."""
    hidden: dict[str, Any] = {"fraction": 0.15, "unit": "token", "mask_share": 0.8, "random_share": 0.1}
    return MaskTokens(preprocess=preprocess, max_tokens=tokens, static_shapes=static_shapes, **hidden)


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows as a dataset of token lists, in the order in which this package's loader serves them."""

    def __init__(self, preprocess: TextPreprocess, source: PlannedText, length: int, seed: int = SEED) -> None:
        self.preprocess, self.source, self.length, self.seed = preprocess, source, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        epoch, place = divmod(number, self.source.count(0))
        row = permuted(np.array([place]), self.source.count(0), seed=self.seed, epoch=epoch, stream="train")
        examples = self.source.read(0, row)
        pieces = np.split(examples.tokens.astype(np.int64), np.cumsum(examples.piece_lengths)[:-1])
        first, last = self.preprocess.bos_id, self.preprocess.eos_id
        ids = [token for piece in pieces for token in (first, *piece.tolist(), last)]
        special = [int(end) for piece in pieces for end in (True, *[False] * len(piece), True)]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "special_tokens_mask": special}


def bert_config(shape: str, dropout: float, preprocess: TextPreprocess) -> dict[str, Any]:
    """Describe the architecture as transformers does."""
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return {**SHAPES[shape], **rates, "vocab_size": VOCABULARY, "pad_token_id": preprocess.pad_id}
