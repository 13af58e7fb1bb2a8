"""What a run would be: one real step on its parts, timed and counted, with nothing left behind."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from pretraining.cost import row_flops, timed
from pretraining.engine.trainer import TrainerSettings
from pretraining.runs.view import as_picture, notebook

EXAMPLES = 3  # shown as text


def show(config: DictConfig, settings: TrainerSettings, parts: Any) -> None:
    """Print shapes, parameters, memory, FLOPs, the estimated time and a few examples."""
    rows, objective = parts.batches.batch_size, parts.objective
    seconds, step = timed(parts, settings, 3)
    trainable = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    backbone = sum(p.numel() for p in objective.backbone.parameters())
    per_step = row_flops(parts, settings) * parts.batches.rows_per_step
    best = min(seconds[1:])
    lines = [
        f"objective   {type(objective).__name__} on {type(objective.backbone).__name__}: {trainable:,} trainable "
        f"parameters, {backbone:,} in the backbone",
        f"data        {type(parts.data).__name__}: {parts.train.count(0):,} training rows, "
        f"{parts.validation.count(0):,} validation rows",
        f"step        {rows} rows = {settings.ranks} rank(s) x {settings.accumulate} micro-batch(es) x "
        f"{rows // settings.ranks // settings.accumulate}; {settings.max_steps} steps, {settings.precision}",
        f"schedule    {objective.optimizer.describe(settings.max_steps)}",
        *(f"  {name:<12}{tuple(value.shape)} {value.dtype}" for name, value in _tensors(step.micro_batches[0])),
        f"cost        {per_step:.3g} FLOP per step, {per_step * settings.max_steps:.3g} in all; {best:.3f} s per step, "
        f"about {best * settings.max_steps / 60:.1f} min in all on this machine",
        f"memory      {_memory(settings)}",
        f"run_dir     {config.run_dir} (not created)",
    ]
    print("\n".join(lines))
    finished = objective.finished(step.micro_batches[0])
    picture = Path(tempfile.mkdtemp(prefix="pretraining-")) / "views"  # its own: another user's may be there
    for line in parts.data.modality.show(parts.collate, finished, EXAMPLES, picture):
        print(line)
    if (display := notebook()) is not None:
        display(*map(as_picture, sorted(picture.parent.glob("*.png"))))


def _tensors(batch: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """List the tensors of a batch, those of the backbone's inputs among them."""
    for name, value in batch.items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value)


def _memory(settings: TrainerSettings) -> str:
    if settings.accelerator == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB at most on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB at most"
