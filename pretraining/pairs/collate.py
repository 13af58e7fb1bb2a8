"""Batches of pairs: each side as its own wing makes them, and what belongs to what.

Shapes: B pairs, C captions that an example of the first side has at most, K false captions that one has at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from pretraining.engine.batch import Batch
from pretraining.pairs.data.base import PairExamples, number_of
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

        Number `caption` [B], `captions` [B, C] and `false` [B, K], with -1 where there are fewer. The second side's
        inputs end with the false ones.
        """
        false = np.full((len(examples.caption), 0), "", object) if examples.false is None else examples.false
        there = false != ""
        numbers = np.full(false.shape, -1, np.int64)
        numbers[there] = [number_of(text) for text in false[there]]
        sides = dict(examples.sides)
        if there.any():
            second = list(sides)[-1]
            sides[second] = RawTexts.of([*sides[second].texts, *false[there]])
        batches = {name: side(sides[name], keys) for name, side in self.sides.items()}
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
            "caption": torch.from_numpy(examples.caption),
            "captions": torch.from_numpy(examples.captions),
            **labels,
            "false": torch.from_numpy(numbers),
        }

    def inputs_of(self, name: str, examples: Any, keys: Keys) -> dict[str, Any]:
        """Make the inputs of examples of one side alone."""
        preprocess = self.preprocess.sides[name]
        return preprocess.modality.clean_inputs(self.sides[name](examples, keys), preprocess)
