"""What a run is made of: built from a configuration, or given, and checked to fit together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pretraining.cli.configuration import as_run_errors, check_modalities, class_of, decided, instantiate
from pretraining.data.batches import Batches, batches_of, check_batch_size
from pretraining.data.loader import EVALUATION_SEED, collated
from pretraining.data.source import FirstRows, Source, class_count, require_classes
from pretraining.modality import Modality, Row
from pretraining.objectives.base import Objective
from pretraining.objectives.init_from import continue_heads
from pretraining.random import Keys


@dataclass
class Parts:
    """What a run is made of."""

    objective: Objective
    preprocess: Any
    collate: Any
    train: Source
    validation: Source
    data: Any
    row: Row  # an average one of the training data
    batches: Batches  # which rows each step holds
    facts: dict[str, float]  # about the data, that results are read against
    recipe: dict[str, Any] = field(default_factory=dict)  # configuration of objective and collate, for the hand-off
    classes: int | None = None  # of the training data; None without labels
    probe: Any = None  # settings of what watches it


class Made(NamedTuple):
    """Parts that were built by hand; `collate` carries the preprocessing that it was made with."""

    objective: Objective
    data: Any
    collate: Any
    probe: Any = None

    @property
    def classes(self) -> dict[str, Any]:
        """Name the classes of what reads data."""
        parts = {"objective": self.objective, "data": self.data, "backbone": self.objective.backbone}
        return {name: type(part) for name, part in parts.items()} | {"probe": self.probe and type(self.probe)}


def build(config: DictConfig, made: Made | None = None) -> Parts:
    """Build the parts, or take those that were `made`; data first: their errors come before any training."""
    check_modalities(_classes(config) if made is None else made.classes)
    with as_run_errors():
        data = instantiate(config.data) if made is None else made.data
        if not getattr(data, "varying_steps", False):  # before anything is read
            check_batch_size(data.batch_size, config.trainer.accumulate, instantiate(config.trainer).ranks)
        preprocess = instantiate(config.preprocess).fit(data) if made is None else made.collate.preprocess
        collate = instantiate(config.collate, preprocess=preprocess) if made is None else made.collate
        sources = open_splits(data, preprocess, collate, config.seed)
        given = {}
        if "classes" in config.objective:
            given["classes"] = require_classes(sources[0], config.objective.classes)
        objective = _objective(config, data.modality, preprocess, given) if made is None else made.objective
        if config.backbone.get("init_from") is not None:
            print(continue_heads(objective, config.backbone.init_from), file=sys.stderr)
        parts = assemble_parts(objective, data, preprocess, collate, sources, overfit_batches=config.overfit_batches)
        parts.probe = made.probe if made else None if config.probe is None else instantiate(config.probe)
    recorded = decided(config, {f"objective.{name}": value for name, value in given.items()})
    parts.recipe = {name: OmegaConf.to_container(recorded[name], resolve=True) for name in ("objective", "collate")}
    return parts


def _classes(config: DictConfig) -> dict[str, Any]:
    found = {name: class_of(config[name]) for name in ("objective", "data", "backbone")}
    return found | {"probe": None if config.probe is None else class_of(config.probe)}


def _objective(config: DictConfig, modality: Modality, preprocess: Any, given: Mapping[str, Any]) -> Objective:
    """Draw a model from the seed alone."""
    torch.manual_seed(config.seed)
    backbone = instantiate(config.backbone, **modality.backbone_arguments(preprocess))
    return instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer), **given)


def open_splits(data: Any, preprocess: Any, collate: Any, seed: int) -> list[Source]:
    """Open the training and the validation split."""
    return [data.modality.source(data, split, preprocess, collate, seed=seed) for split in ("train", "validation")]


def assemble_parts(
    objective: Objective, data: Any, preprocess: Any, collate: Any, sources: list[Source], *, overfit_batches: int = 0
) -> Parts:
    """Put built parts together with what follows from them."""
    train, validation = sources
    batches = batches_of(train, data.batch_size)
    if objective.coupled and batches.batch_size < 2:
        what = f"data.batch_size={batches.batch_size}: {type(objective).__name__} compares the examples of a step"
        raise ValueError(f"{what}: give at least 2")
    first = np.zeros(1, np.int64)
    collated(collate, train.read(0, first), Keys(EVALUATION_SEED, "train", first, first))  # or they do not fit
    row = data.modality.average_row(objective, train, collate, preprocess)
    facts, classes = data.modality.facts(train, validation, collate, preprocess), class_count(train)
    if overfit_batches:
        train = FirstRows(train, overfit_batches * batches.batch_size)
        batches = batches_of(train, batches.batch_size)
    return Parts(objective, preprocess, collate, train, validation, data, row, batches, facts, classes=classes)
