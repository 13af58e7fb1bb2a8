"""Batches of pairs: each side as its own wing makes them, and what belongs to what.

Shapes: B pairs, C captions that an example of the first side has at most, K false captions that one has at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pretraining.engine.batch import Batch
from pretraining.pairs.data.base import PairExamples
from pretraining.pairs.preprocess import PairPreprocess, chosen
from pretraining.random import Keys
from pretraining.text.raw import RawTexts


class PairCollate:
    """Lets each side's collate make its part. `sides` says how to make them, by name, given their preprocessing."""

    def __init__(self, *, preprocess: PairPreprocess, sides: Mapping[str, Callable[..., Any]]) -> None:
        self.preprocess, self.noted = preprocess, {"sides": sides}
        own = chosen(sides, preprocess.sides, "collate.sides")
        self.sides = {name: make(preprocess=preprocess.sides[name]) for name, make in own.items()}

    def __call__(self, examples: PairExamples, keys: Keys) -> Batch:
        """Make `inputs` of both sides, clean where a side's collate makes none as `augmented`, and the raw `sides`.

        Number `example` [B], `caption` [B], `captions` [B, C] and `false` [B, K], with -1 where there are fewer; what
        the second side's network reads alike has one number. Its inputs end with the false captions.
        """
        count, sides = len(examples.captions), dict(examples.sides)
        false = np.full((count, 0), "", object) if examples.false is None else examples.false
        second = list(sides)[-1]
        sides[second] = RawTexts.of([*sides[second].texts, *false[false != ""]])
        batches = {name: side(sides[name], keys) for name, side in self.sides.items()}
        read = dict(zip(sides[second].texts, self.sides[second].identify(batches[second]), strict=True))
        inputs = {}
        for name, batch in batches.items():
            preprocess = self.preprocess.sides[name]
            clean = preprocess.modality.clean_inputs(batch, preprocess)
            inputs[name] = batch.pop("augmented", clean)
            batch.pop("inputs", None)
        labels = {} if examples.labels is None else {"labels": torch.from_numpy(examples.labels)}
        return {
            "inputs": inputs,
            "sides": batches,
            "example": torch.from_numpy(examples.example),
            "caption": self._numbers(second, sides[second].texts[:count], read),
            "captions": self._numbers(second, examples.captions, read),
            **labels,
            "false": self._numbers(second, false, read),
        }

    def _numbers(self, side: str, texts: np.ndarray, read: Mapping[str, int]) -> torch.Tensor:
        """Look up by what numbers texts of a side are known, of which some are `read`; -1 is for none. int64"""
        others = sorted({*texts.flat} - {*read, ""})
        own = self.sides[side].identify(self.sides[side](RawTexts.of(others))) if others else []
        known = {**read, **dict(zip(others, own, strict=True)), "": -1}
        return torch.tensor([known[text] for text in texts.flat], dtype=torch.int64).view(texts.shape)

    def inputs_of(self, name: str, examples: Any, keys: Keys) -> dict[str, Any]:
        """Make the inputs of examples of one side alone."""
        preprocess = self.preprocess.sides[name]
        return preprocess.modality.clean_inputs(self.sides[name](examples, keys), preprocess)
