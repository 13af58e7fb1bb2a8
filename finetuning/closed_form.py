"""Heads that are fitted to a frozen backbone's vectors as a whole instead of trained step by step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from finetuning.inputs.base import CachedVectors
from finetuning.metrics.bootstrap import Numbers
from finetuning.modes import LinearProbe, NearestNeighbours
from finetuning.task import Task
from pretraining import probes
from pretraining.data.loader import EvalLoader
from pretraining.errors import RunError


class Neighbours(nn.Module):
    """A head that asks the training vectors; its logits are log shares of the neighbours' votes."""

    vectors: Tensor
    classes: Tensor

    def __init__(self, vectors: Tensor, classes: Tensor, *, count: int, k: int, temperature: float) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("classes", classes)
        self.count, self.k, self.temperature = count, k, temperature

    def forward(self, queries: Tensor) -> Tensor:
        """Score the classes. [N, C]"""
        shares = probes.nearest_neighbours(
            self.vectors, self.classes, queries, count=self.count, k=self.k, temperature=self.temperature
        )
        return shares.clamp(min=1e-6).log()


def fit(task: Task, train: CachedVectors, validation: EvalLoader) -> list[Numbers]:
    """Put each candidate head in place, measure it on validation, and leave the best; returns what was measured."""
    targets = torch.from_numpy(train.all_targets())
    layer = task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if not isinstance(layer, nn.Linear):
        what = f"got mode={type(task.mode).__name__} for {type(task).__name__}, whose head ends in no linear layer"
        raise RunError(f"{what}: take mode=frozen or full")
    candidates = _candidates(task, train.flat, targets, layer)
    history = [{**settings, **task.validate(validation)} for settings in candidates]
    task.restore_best()
    return history


def _candidates(task: Task, vectors: Tensor, targets: Tensor, layer: nn.Linear) -> Iterator[Numbers]:
    if isinstance(task.mode, NearestNeighbours):
        if targets.is_floating_point():
            raise RunError("got mode=knn for a task without classes: take mode=linear_probe, frozen or full")
        k, temperature = task.mode.k, task.mode.temperature
        task.head = Neighbours(vectors, targets, count=layer.out_features, k=k, temperature=temperature).to(task.device)
        yield {"k": float(task.mode.k)}
        return
    assert isinstance(task.mode, LinearProbe)
    scale = probes.Scale.of(vectors.double(), task.mode.standardize)
    scaled, found = scale(vectors.double()), None
    for penalty in sorted(task.mode.penalties, reverse=True):  # each solution is a good start for the next
        if targets.is_floating_point():
            found = probes.ridge_regression(scaled, targets, penalty)
        else:
            found = probes.logistic_regression(scaled, targets, layer.out_features, penalty, found)
        raw = scale.unscaled(found)
        layer.load_state_dict({"weight": raw.weight.float(), "bias": raw.bias.float()})
        yield {"penalty": penalty}
