"""Heads that are fitted to a frozen backbone's vectors as a whole instead of trained step by step."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from finetuning.best import Best
from finetuning.inputs.base import CachedVectors, EncodedSplit
from finetuning.layers import Layers
from finetuning.metrics.bootstrap import Numbers
from finetuning.modes import LinearProbe, Mode, NearestNeighbours
from finetuning.task import Task
from pretraining import probes
from pretraining.data.loader import EvalLoader
from pretraining.errors import RunError

PROBE = LinearProbe(penalties=[1e-4, 1e-3, 1e-2, 1e-1, 1.0], standardize=True)  # by which layers are compared


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


def fit(task: Task, mode: Mode, train: CachedVectors, validation: EvalLoader) -> list[Numbers]:
    """Put each candidate head in place, measure it on validation, and leave the best; returns what was measured."""
    targets = torch.from_numpy(train.all_targets())
    layer = task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if not isinstance(layer, nn.Linear):
        what = f"got mode={type(mode).__name__} for {type(task).__name__}, whose head ends in no linear layer"
        raise RunError(f"{what}: take mode=frozen or full")
    candidates = _candidates(task, mode, train.flat, targets, layer)
    history = [{**settings, **task.validate(validation)} for settings in candidates]
    task.restore_best()
    return history


def _candidates(task: Task, mode: Mode, vectors: Tensor, targets: Tensor, layer: nn.Linear) -> Iterator[Numbers]:
    if isinstance(mode, NearestNeighbours):
        if targets.is_floating_point():
            raise RunError("got mode=knn for a task without classes: take mode=linear_probe, frozen or full")
        k, temperature = mode.k, mode.temperature
        task.head = Neighbours(vectors, targets, count=layer.out_features, k=k, temperature=temperature).to(task.device)
        yield {"k": float(k)}
        return
    assert isinstance(mode, LinearProbe)
    scale = probes.Scale.of(vectors.double(), mode.standardize)
    scaled, found = scale(vectors.double()), None
    for penalty in sorted(mode.penalties, reverse=True):  # each solution is a good start for the next
        if targets.is_floating_point():
            found = probes.ridge_regression(scaled, targets, penalty)
        else:
            found = probes.logistic_regression(scaled, targets, layer.out_features, penalty, found)
        raw = scale.unscaled(found)
        layer.load_state_dict({"weight": raw.weight.float(), "bias": raw.bias.float()})
        yield {"penalty": penalty}


def choose_layer(
    task: Task, splits: Mapping[str, CachedVectors], loader: Callable[[EncodedSplit], EvalLoader]
) -> tuple[dict[str, CachedVectors], Numbers]:
    """Leave the task the one layer whose vectors are best on validation: by its own mode, or by a linear probe where
    that trains step by step. Returns this layer's vectors, and what was measured.
    """
    mode = task.mode if task.mode.closed_form else PROBE
    fresh, read, behind, best = task.head, task.layers, 0, float("-inf")
    found: Numbers = {}
    for number, width in zip(read.numbers, read.widths, strict=True):
        columns, behind = slice(behind, behind + width), behind + width
        parts = {name: part.columns(columns) for name, part in splits.items()}
        task.head, task.best = headed(fresh, width).to(task.device), Best()
        fit(task, mode, parts["train"], loader(parts["validation"]))
        found[f"validation/layer_{number}"] = task.best.values[f"validation/{task.select.removeprefix('-')}"]
        if task.best.value > best:
            best, chosen, kept = task.best.value, number, parts
    head = headed(fresh, read.widths[read.numbers.index(chosen)])
    task.head, task.best, task.layers = head.to(task.device), Best(), Layers(task.backbone, [chosen])
    each = ", ".join(f"{value:.4f}" for value in found.values())
    told = f"mode.layers=best: layer {chosen} of {read.numbers[0]} to {read.numbers[-1]}"
    print(f"{told} (validation {task.select}: {each})", file=sys.stderr)
    return kept, found | {"layer": float(chosen)}


def headed(head: nn.Module, width: int) -> nn.Module:
    """Copy a head for vectors of another width."""
    copied = copy.deepcopy(head)
    if not isinstance(copied, nn.Sequential):
        return copied
    layer = copied[-1]
    if isinstance(layer, nn.Linear) and layer.in_features != width:
        other = nn.Linear(width, layer.out_features)
        nn.init.normal_(other.weight, std=layer.weight.std().item())
        other.bias.data.copy_(layer.bias)
        copied[-1] = other
    return copied
