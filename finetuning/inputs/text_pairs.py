"""Pairs of texts as token rows: what is read, and what is to be written after it.

Shapes: B rows, T tokens read, U tokens written, N tokens to be predicted in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit
from finetuning.inputs.text import TextInputs, arrays, flat_positions, report_cut, tokenized
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import padded, padded_width, padding_of, token_batch
from pretraining.text.tokenizer import TextPreprocess


@dataclass(kw_only=True, eq=False)
class Pairs(EncodedSplit):
    """Rows of source tokens and target tokens, both with their special tokens; the target's are what is predicted."""

    sources: list[np.ndarray]
    pad_id: int

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(source) + len(target) for source, target in zip(self.sources, self.targets, strict=True)])


@dataclass(kw_only=True, eq=False)
class TranslatedPairs(Pairs):
    """For an encoder and a decoder, which reads its own output from `start_id` on."""

    start_id: int

    def stack(self, rows: np.ndarray) -> Batch:
        """Pad sources to [B, T] and the decoder's inputs, which are the targets one place later, to [B, U]."""
        sources, targets = [self.sources[row] for row in rows], [self.targets[row] for row in rows]
        width, batch = padded_width(max(map(len, targets))), token_batch(sources, self.pad_id)[0]
        written = [np.append(self.start_id, row[:-1]) for row in targets]
        batch["decoder_input_ids"] = torch.from_numpy(padded(written, width, self.pad_id))
        batch["target_positions"] = flat_positions([np.arange(len(row)) for row in targets], width)
        batch["units"] += sum(map(len, targets))
        return batch | {"rows": torch.from_numpy(rows + self.examples.first)}


class ContinuedPairs(Pairs):
    """For a decoder alone: the target continues its source, in one row."""

    def stack(self, rows: np.ndarray) -> Batch:
        """Pad to [B, T]; `prompt_tokens` [B] tells how many of a row are its source."""
        sources, targets = [self.sources[row] for row in rows], [self.targets[row] for row in rows]
        pairs = list(zip(sources, targets, strict=True))
        batch, width = token_batch([np.append(source, target[:-1]) for source, target in pairs], self.pad_id)
        # The last token of a source predicts the first one of its target.
        places = [len(source) - 1 + np.arange(len(target)) for source, target in pairs]
        batch["target_positions"] = flat_positions(places, width)
        batch["prompt_tokens"] = torch.tensor(list(map(len, sources)))
        return batch | {"rows": torch.from_numpy(rows + self.examples.first)}


@dataclass(kw_only=True)
class TextPairInputs(TextInputs):
    """Texts (`source`) with what is to be written after each.

    `prefix` opens every source ("summarize: "). A causal model reads prefix, source and `separator`, and learns the
    target alone. Sources are cut at `max_tokens`, what is learnt at `max_target_tokens`.
    """

    columns = ("source",)
    prefix: str = ""
    separator: str = "\n"
    max_target_tokens: int = 64

    def check_lengths(self, backbone: TransformersBackbone, max_new_tokens: int) -> None:
        """Refuse lengths that the backbone has no positions for."""
        limit, written = backbone.max_tokens, max(self.max_target_tokens, max_new_tokens)
        if limit is None:
            return
        causal = backbone.architecture == "causal"
        if (self.max_tokens + written if causal else max(self.max_tokens, written)) > limit:
            where = ", source and target together" if causal else " on each side"
            what = f"task.inputs.max_tokens={self.max_tokens}, max_target_tokens={self.max_target_tokens}"
            what += f" and task.decoding.max_new_tokens={max_new_tokens}"
            raise RunError(f"got {what}, but this backbone has positions for {limit}{where}: lower them")

    def encode(  # type: ignore[override]
        self, examples: Examples, targets: list[str], preprocess: TextPreprocess, backbone: TransformersBackbone
    ) -> Pairs:
        """Tokenise sources and targets; too long ones are cut at their end, and counted."""
        for name, text in (("prefix", self.prefix), ("separator", self.separator)):
            special = next((token for token in preprocess.tokenizer.all_special_tokens if token in text), None)
            if special is not None:
                what = f"got task.inputs.{name}={text} with the special token {special}, which is text in a text"
                raise RunError(f"{what}: leave it out")
        sources = [self.prefix + text for text in examples.column("source")]
        if backbone.architecture == "causal":
            return self._continued(examples, sources, targets, preprocess)
        read = tokenized(preprocess, sources, max_tokens=self.max_tokens)
        limit, key = self.max_target_tokens, "max_target_tokens"
        written = tokenized(preprocess, max_tokens=limit, key=key, text_target=targets)
        read, written, pad_id = arrays(read["input_ids"]), arrays(written["input_ids"]), padding_of(preprocess)
        start_id = backbone.model.config.decoder_start_token_id
        return TranslatedPairs(examples, written, sources=read, pad_id=pad_id, start_id=start_id)

    def _continued(
        self, examples: Examples, sources: list[str], targets: list[str], preprocess: TextPreprocess
    ) -> ContinuedPairs:
        if preprocess.eos_id is None:
            raise RunError("got a tokenizer without an end token, so that no text would end: take another handoff=")
        first = [] if preprocess.bos_id is None else [preprocess.bos_id]
        separator = preprocess.tokenize(self.separator, add_special_tokens=False)["input_ids"]
        texts = [text + self.separator for text in sources]
        read = _framed(preprocess, texts, (first, separator), self.max_tokens, "max_tokens")
        if not all(map(len, read)):
            raise RunError("got an empty source, which no model can continue: give task.inputs.separator or prefix")
        limit = self.max_target_tokens - 1  # and the end token
        written = _framed(preprocess, targets, ([], []), limit, "max_target_tokens - 1")
        pad_id = preprocess.eos_id if preprocess.pad_id is None else preprocess.pad_id
        ended = [np.append(row, preprocess.eos_id) for row in written]
        return ContinuedPairs(examples, ended, sources=read, pad_id=pad_id)


def prompts(batch: Batch, pad_id: int, device: torch.device) -> tuple[dict[str, Tensor], int]:
    """Take what a text is written after out of a batch, [B, T] each by the names that transformers' `generate` has.

    Also tells how many tokens `generate` gives before those that it writes. Of rows that hold their targets too, the
    sources alone are taken, at the right end.
    """
    ids, mask = (batch["inputs"][name].to(device) for name in ("input_ids", "document_ids"))
    if "prompt_tokens" not in batch:
        return {"input_ids": ids, "attention_mask": mask}, 1  # a decoder's start token
    lengths = batch["prompt_tokens"].to(device)
    width = int(lengths.max())
    place = torch.arange(width, device=device) - (width - lengths)[:, None]  # in its own row; before it: negative
    ids = ids.gather(1, place.clamp(min=0)).masked_fill(place < 0, pad_id)
    return {"input_ids": ids, "attention_mask": (place >= 0).long()}, width


def _framed(
    preprocess: TextPreprocess, texts: list[str], frame: tuple[list[int], list[int]], limit: int, key: str
) -> list[np.ndarray]:
    """Tokenise; `frame` is what opens each row, and what ends each text already and is put back where a text is cut."""
    ids = preprocess.tokenize(texts, add_special_tokens=False, verbose=False)["input_ids"]
    (first, last), room = frame, limit - len(frame[0])
    if room <= len(last):
        around = len(first) + len(last)
        what = f"got task.inputs.{key}={limit}, which leaves no room for text beside {around} tokens around it"
        raise RunError(f"{what}: raise it")
    report_cut(ids, room, key, limit)
    return arrays([[*first, *(row if len(row) <= room else [*row[: room - len(last)], *last])] for row in ids])
