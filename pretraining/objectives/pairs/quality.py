"""What the vectors of a whole split of pairs are worth: is what is most similar a right one?

Shapes: N pairs of E examples and M different captions, D width of the space, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.data.loader import EVALUATION_SEED, EvalLoader
from pretraining.distributed.collectives import gather_rows
from pretraining.probes import CHUNK, unit
from pretraining.random import Keys


@torch.no_grad()
def quality(objective: Any, loader: EvalLoader) -> dict[str, float]:
    """Measure recall at 1 both ways, and where the data have classes in words how often the most similar one is right.

    Recall is over examples of the first side, and over different captions: one belongs to all that have it. Among
    equals wrong ones come first. Classes are the means of their texts' vectors, of unit length. Averaged weights are
    used where there are any. Every rank returns the numbers of all.
    """
    training = objective.training
    objective.eval()
    with objective.averaged():
        vectors, labels, *numbers = (gather_rows(part) for part in _seen(objective, loader))
        classes = _class_vectors(objective, loader)
    objective.train(training)
    with torch.autocast(vectors.device.type, enabled=False):
        first, second = objective.first, objective.second
        found = zip((f"{first}_to_{second}", f"{second}_to_{first}"), recalls(vectors, *numbers), strict=True)
        measured = {f"{way}_{name}": value for way, each in found for name, value in each.items()}
        known = labels >= 0
        if classes is None or not known.any():
            return measured
        right = (vectors[known, 0] @ classes.T).argmax(1) == labels[known]
    named = {"zero_shot_accuracy": float(right.double().mean()), "classified": float(len(right))}
    return measured | named | {"majority": float(torch.bincount(labels[known]).max()) / len(right)}


def _seen(objective: Any, loader: EvalLoader) -> tuple[Tensor, ...]:
    """Compute this rank's vectors [N, 2, D] of unit length; list class, example, caption [N] and captions [N, C]."""
    parts = []
    for batch, share in loader:
        moved = objective.moved(batch)
        with objective.forward_context():
            vectors = objective(objective.represent, moved)  # on every rank as often
        labels = moved.get("labels", torch.full_like(moved["caption"], -1))
        rows = slice(None) if share else slice(0)  # repeated to make up the number of batches
        sides = unit(vectors[:, :2, : objective.width])
        numbers = (moved[name] for name in ("example", "caption", "captions"))
        parts.append([part[rows] for part in (sides, labels, *numbers)])
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def recalls(vectors: Tensor, example: Tensor, caption: Tensor, captions: Tensor) -> list[dict[str, float]]:
    """Compute the share of examples that find a caption of theirs, and of captions that find an example; of how many.

    Pairs are numbered by their `example` and `caption` [N]; `captions` [N, C] are all of the example.
    """
    one, other = _firsts(example), _firsts(caption)
    sides, own, texts = (vectors[one, 0], vectors[other, 1]), captions[one], caption[other]
    found = [0, 0]
    for start in range(0, len(vectors), CHUNK):
        rows = slice(start, start + CHUNK)
        right = (own[rows, :, None] == texts).any(1)  # [rows, M]
        found[0] += _wins(sides[0][rows] @ sides[1].T, right)
        right = (texts[rows, None, None] == own).any(2)  # [rows, E]
        found[1] += _wins(sides[1][rows] @ sides[0].T, right)
    pairs = zip(found, sides, strict=True)
    return [{"recall_1": count / len(side), "queries": float(len(side))} for count, side in pairs]


def _firsts(numbers: Tensor) -> Tensor:
    """Find where each different number stands first."""
    different, place = numbers.unique(return_inverse=True)
    rows = torch.arange(len(numbers), device=numbers.device)
    return torch.full_like(different, len(numbers)).scatter_reduce(0, place, rows, "amin")


def _wins(scores: Tensor, right: Tensor) -> int:
    """Count the rows in which a right candidate is more similar than every wrong one."""
    best, other = (scores.masked_fill(~kept, -torch.inf).amax(1) for kept in (right, ~right))
    return int((best > other).sum())


def _class_vectors(objective: Any, loader: EvalLoader) -> Tensor | None:
    """Bring the classes of a source into the space. [K, D]; None where it has none"""
    texts = getattr(loader.source, "class_texts", None)
    if texts is None:
        return None
    count = len(texts.examples[0])
    keys = Keys(EVALUATION_SEED, "validation", np.zeros(count, np.int64), np.arange(count))
    collate: Any = loader.collate
    inputs = {objective.second: collate.inputs_of(objective.second, texts.examples, keys)}
    moved = objective.moved({"inputs": inputs})["inputs"][objective.second]
    with objective.forward_context():
        vectors = objective(objective.place, objective.second, moved)
    return F.normalize(vectors.unflatten(0, (len(texts.names), -1)).mean(1), dim=-1)
