"""What the vectors of a whole split of pairs are worth: is what is most similar a right one?

Shapes: N pairs, M different captions, D width of the space, K classes.
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

    Recall is over pairs: equal captions are one candidate, which belongs to all that have it. Among equals wrong ones
    come first. Classes are the means of their texts' vectors, of unit length. Averaged weights are used where there are
    any. Every rank returns the numbers of all.
    """
    training = objective.training
    objective.eval()
    with objective.averaged():
        vectors, caption, captions, labels = (gather_rows(part) for part in _seen(objective, loader))
        classes = _class_vectors(objective, loader)
    objective.train(training)
    with torch.autocast(vectors.device.type, enabled=False):
        shares = zip((objective.first, objective.second), recalls(vectors, caption, captions), strict=True)
        sides = {objective.first: objective.second, objective.second: objective.first}
        measured = {f"{side}_to_{sides[side]}_recall_1": share for side, share in shares}
        known = labels >= 0
        if classes is None or not known.any():
            return measured
        right = (vectors[known, 0] @ classes.T).argmax(1) == labels[known]
    named = {"zero_shot_accuracy": float(right.double().mean()), "classified": float(len(right))}
    return measured | named | {"majority": float(torch.bincount(labels[known]).max()) / len(right)}


def _seen(objective: Any, loader: EvalLoader) -> tuple[Tensor, ...]:
    """Compute this rank's vectors [N, 2, D] of unit length, and list caption [N], captions [N, C] and class [N]."""
    parts = []
    for batch, share in loader:
        moved = objective.moved(batch)
        with objective.forward_context():
            vectors = objective(objective.represent, moved)  # on every rank as often
        labels = moved.get("labels", torch.full_like(moved["caption"], -1))
        rows = slice(None) if share else slice(0)  # repeated to make up the number of batches
        sides = unit(vectors[:, :2, : objective.width])
        parts.append([part[rows] for part in (sides, moved["caption"], moved["captions"], labels)])
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def recalls(vectors: Tensor, caption: Tensor, captions: Tensor) -> list[float]:
    """Compute the share of pairs whose first side finds a caption of it, and of those whose caption finds it."""
    different, place = caption.unique(return_inverse=True)
    numbers = torch.arange(len(caption), device=caption.device)
    first = torch.full_like(different, len(caption)).scatter_reduce(0, place, numbers, "amin")  # of equal captions
    found = [0, 0]
    for start in range(0, len(vectors), CHUNK):
        rows = slice(start, start + CHUNK)
        right = (captions[rows, :, None] == different).any(1)  # [rows, M]
        found[0] += _wins(vectors[rows, 0] @ vectors[first, 1].T, right)
        right = (caption[rows, None, None] == captions).any(2)  # [rows, N]
        found[1] += _wins(vectors[rows, 1] @ vectors[:, 0].T, right)
    return [count / len(vectors) for count in found]


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
