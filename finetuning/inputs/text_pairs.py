"""Pairs of texts as token rows: what is read, and what is to be written after it.

Shapes: B rows, T tokens read, U tokens written, N tokens to be predicted in a batch.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import Encoded
from finetuning.inputs.text import padded, tokenized
from pretraining.errors import RunError
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.tokenizer import TextPreprocess

WIDTH_MULTIPLE = 8  # batches are padded to a multiple of it: few shapes, and aligned matrix products


class Pairs(Encoded):
    """Rows of source tokens and target tokens, both with their special tokens; the target's are what is predicted."""

    def __init__(self, examples: Examples, sources: list[np.ndarray], targets: list[np.ndarray], pad_id: int) -> None:
        super().__init__(examples, targets)
        self.sources, self.pad_id = sources, pad_id

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(source) + len(target) for source, target in zip(self.sources, self.targets, strict=True)])

    def _predicted(self, starts: list[int], targets: list[np.ndarray], width: int) -> Tensor:
        """Give the places [N], in the flat [B * width], whose hidden states predict the targets; each row's begin at its start."""
        flat = [
            number * width + start + np.arange(len(target))
            for number, (start, target) in enumerate(zip(starts, targets, strict=True))
        ]
        return torch.from_numpy(np.concatenate(flat))


class TranslatedPairs(Pairs):
    """For an encoder and a decoder, which reads its own output from `start_id` on."""

    start_id: int

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Pad sources to [B, T] and the decoder's inputs, which are the targets one place later, to [B, U]."""
        sources, targets = [self.sources[row] for row in rows], [self.targets[row] for row in rows]
        read, written = _width(sources), _width(targets)
        return {
            "input_ids": padded(sources, read, self.pad_id),
            "documents": padded([np.ones_like(row) for row in sources], read, 0),
            "decoder_input_ids": padded(
                [np.concatenate([[self.start_id], row[:-1]]) for row in targets], written, self.pad_id
            ),
            "target_positions": self._predicted([0] * len(rows), targets, written),
            "rows": torch.from_numpy(rows),
            "tokens": sum(map(len, sources)) + sum(map(len, targets)),
        }


class ContinuedPairs(Pairs):
    """For a decoder alone: the target continues its source, in one row."""

    def inputs(self, rows: np.ndarray) -> dict[str, Any]:
        """Pad to [B, T]; `prompt_tokens` [B] tells how many of a row are its source."""
        sources, targets = [self.sources[row] for row in rows], [self.targets[row] for row in rows]
        whole = [np.concatenate([source, target[:-1]]) for source, target in zip(sources, targets, strict=True)]
        width = _width(whole)
        return {
            "input_ids": padded(whole, width, self.pad_id),
            "documents": padded([np.ones_like(row) for row in whole], width, 0),
            "target_positions": self._predicted([len(source) - 1 for source in sources], targets, width),
            "prompt_tokens": torch.tensor([len(source) for source in sources]),
            "rows": torch.from_numpy(rows),
            "tokens": sum(map(len, whole)),
        }


class Writing:
    """How a pair of texts is laid out and learnt.

    `prefix` opens every source ("summarize: "). A causal model reads prefix, source and `separator`, and learns the target alone.
    `label_smoothing` is the share of each target's probability that is spread over the vocabulary, in training only.
    """

    def __init__(self, *, prefix: str, separator: str, max_target_tokens: int, label_smoothing: float) -> None:
        if not 0 <= label_smoothing < 1:
            raise RunError(
                f"got task.writing.label_smoothing={label_smoothing}: give a share of at least 0 and below 1"
            )
        self.prefix, self.separator = prefix, separator
        self.max_target_tokens, self.label_smoothing = max_target_tokens, label_smoothing

    def check(self, backbone: TransformersBackbone, max_tokens: int, max_new_tokens: int) -> None:
        """Refuse lengths that the backbone has no positions for."""
        limit, written = backbone.max_tokens, max(self.max_target_tokens, max_new_tokens)
        if limit is None:
            return
        causal = backbone.architecture == "causal"
        if (max_tokens + written if causal else max(max_tokens, written)) > limit:
            raise RunError(
                f"got task.max_tokens={max_tokens}, task.writing.max_target_tokens={self.max_target_tokens} and "
                f"task.decoding.max_new_tokens={max_new_tokens}, but this backbone has positions for {limit}"
                f"{', source and target together' if causal else ' on each side'}: lower them"
            )

    def encode(
        self, examples: Examples, preprocess: TextPreprocess, backbone: TransformersBackbone, max_tokens: int
    ) -> Pairs:
        """Tokenise sources and first references; too long ones are cut at their end, and counted."""
        sources = [self.prefix + text for text in examples.column("source")]
        targets = [references[0] for references in examples.column("label")]
        lay_out = self._continued if backbone.architecture == "causal" else self._translated
        return lay_out(examples, sources, targets, preprocess, backbone, max_tokens)

    def _translated(
        self,
        examples: Examples,
        sources: list[str],
        targets: list[str],
        preprocess: TextPreprocess,
        backbone: TransformersBackbone,
        max_tokens: int,
    ) -> TranslatedPairs:
        read = tokenized(preprocess, sources, max_tokens=max_tokens)
        limit = self.max_target_tokens
        written = tokenized(preprocess, max_tokens=limit, key="task.writing.max_target_tokens", text_target=targets)
        pairs = TranslatedPairs(
            examples, _arrays(read["input_ids"]), _arrays(written["input_ids"]), preprocess.pad_id or 0
        )
        pairs.start_id = backbone.model.config.decoder_start_token_id
        return pairs

    def _continued(
        self,
        examples: Examples,
        sources: list[str],
        targets: list[str],
        preprocess: TextPreprocess,
        backbone: TransformersBackbone,
        max_tokens: int,
    ) -> ContinuedPairs:
        if preprocess.eos_id is None:
            raise RunError("got a tokenizer without an end token, so that no text would end: take another handoff=")
        first = [] if preprocess.bos_id is None else [preprocess.bos_id]
        separator = preprocess.tokenizer(self.separator, add_special_tokens=False)["input_ids"]
        read = _framed(
            preprocess, [text + self.separator for text in sources], (first, separator), max_tokens, "task.max_tokens"
        )
        if not all(map(len, read)):
            raise RunError(
                "got an empty source for a model that continues what it reads: give task.writing.separator or prefix"
            )
        limit = self.max_target_tokens - 1  # and the end token
        written = _framed(preprocess, targets, ([], []), limit, "task.writing.max_target_tokens - 1")
        ended = [np.append(row, preprocess.eos_id) for row in written]
        return ContinuedPairs(
            examples, read, ended, preprocess.eos_id if preprocess.pad_id is None else preprocess.pad_id
        )


def prompts(input_ids: Tensor, lengths: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Take the first `lengths` [B] tokens of each row and put them at the right end: tokens and mask, [B, longest] each."""
    width = int(lengths.max())
    place = (
        torch.arange(width, device=input_ids.device) - (width - lengths)[:, None]
    )  # of each slot in its own row; before it: negative
    mask = place >= 0
    return input_ids.gather(1, place.clamp(min=0)).masked_fill(~mask, pad_id), mask.long()


def _framed(
    preprocess: TextPreprocess, texts: list[str], frame: tuple[list[int], list[int]], limit: int, key: str
) -> list[np.ndarray]:
    """Tokenise; `frame` is what opens each row, and what ends each text already and is put back where a text is cut."""
    ids = preprocess.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    (first, last), room = frame, limit - len(frame[0])
    if room <= len(last):
        raise RunError(
            f"got {key}={limit}, which leaves no room for text beside {len(first) + len(last)} tokens around it: raise it"
        )
    over = sum(len(row) > room for row in ids)
    if over:
        print(f"{over} of {len(ids)} texts have more than {key}={limit} tokens and were cut", file=sys.stderr)
    return _arrays([[*first, *(row if len(row) <= room else [*row[: room - len(last)], *last])] for row in ids])


def _arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int64) for row in rows]


def _width(rows: list[np.ndarray]) -> int:
    return -(-max(map(len, rows)) // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
