"""Batches of pairs: each side as its own wing makes them, and what belongs to what.

Shapes: B pairs, C captions that an example of the first side has at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pretraining.engine.batch import Batch
from pretraining.pairs.data.base import PairExamples
from pretraining.pairs.preprocess import PairPreprocess, chosen
from pretraining.random import Keys


class PairCollate:
    """Lets each side's collate make its part. `sides` says how to make them, by name, given their preprocessing."""

    def __init__(self, *, preprocess: PairPreprocess, sides: Mapping[str, Callable[..., Any]]) -> None:
        self.preprocess = preprocess
        own = chosen(sides, preprocess.sides, "collate.sides")
        self.sides = {name: make(preprocess=preprocess.sides[name]) for name, make in own.items()}

    def __call__(self, examples: PairExamples, keys: Keys) -> Batch:
        """Make `inputs` of both sides, without augmentation, the raw `sides`, `caption` [B] and `captions` [B, C]."""
        batches = {name: side(examples.sides[name], keys) for name, side in self.sides.items()}
        inputs = {}
        for name, batch in batches.items():
            preprocess = self.preprocess.sides[name]
            inputs[name] = preprocess.modality.clean_inputs(batch, preprocess)
            batch.pop("inputs", None)
        labels = {} if examples.labels is None else {"labels": torch.from_numpy(examples.labels)}
        return {
            "inputs": inputs,
            "sides": batches,
            "caption": torch.from_numpy(examples.caption),
            "captions": torch.from_numpy(examples.captions),
            **labels,
        }

    def inputs_of(self, name: str, examples: Any, keys: Keys) -> dict[str, Any]:
        """Make the inputs of examples of one side alone."""
        preprocess = self.preprocess.sides[name]
        return preprocess.modality.clean_inputs(self.sides[name](examples, keys), preprocess)
