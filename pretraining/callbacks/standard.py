"""What every pretraining run has beside its objective: evaluation, probe, speed, hand-offs and traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from pretraining.callbacks.export import Artifact, Export
from pretraining.callbacks.pictures import probing
from pretraining.callbacks.profile import Profile
from pretraining.callbacks.throughput import Throughput
from pretraining.callbacks.validation import Validation
from pretraining.cost import step_flops
from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.engine.trainer import TrainerSettings


def standard_callbacks(
    config: Any,
    parts: Any,
    settings: TrainerSettings,
    loaders: tuple[StepLoader, EvalLoader],
    directory: Path,
    origin: dict[str, Any],
) -> tuple[list[pl.Callback], Throughput]:
    """Make those of a run in `directory`, whose weights come from `origin`; returns also the one with the totals."""
    loader, evaluation = loaders
    throughput = Throughput(
        every=settings.log_every,
        evaluated_every=settings.val_every,
        step_flops=step_flops(parts, settings),
        wait_seconds=lambda: loader.wait_seconds,
        unit=parts.data.modality.unit,
        facts=parts.facts,
        show=config.logger.progress,
    )
    export = Export(
        directory=directory / "handoff",
        every=settings.handoff_every,
        preprocess=parts.preprocess,
        recipe=parts.recipe,
        origin=lambda: origin | throughput.spent(),
    )
    validation = Validation(evaluation, every=settings.val_every)
    probe = probing(parts, settings.val_every, evaluation.ranks, directory / "pictures")
    tracing = [Profile(directory / "profile")] if config.profile else []
    return [validation, *probe, throughput, export, Artifact(export.directory), *tracing], throughput
