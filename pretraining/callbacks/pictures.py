"""Two pictures of a finished run: where the embeddings lie, and what the views look like.

Shapes: N images, D width, C channels, S size.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pretraining import probes
from pretraining.callbacks.online_probe import OnlineProbe
from pretraining.callbacks.quality import Quality, QualitySettings
from pretraining.data.loader import EvalLoader
from pretraining.engine.batch import Step
from pretraining.engine.callback import StepCallback
from pretraining.engine.step import StepModule
from pretraining.objectives.base import Objective
from pretraining.runs.wandb_logger import WandbHistory

SIDE, MARGIN, DOT, LEGEND, LINE = 640, 16, 2, 132, 16  # pixels
MOST_CLASSES = 20  # named in the legend
MOST_VIEWS = 12  # images whose views are shown


class Pictures(StepCallback):
    """Writes `embeddings.png` (the probe's features on their first two principal axes) and `views.png` at a run's end.

    They go to `directory`, and to W&B with the last step.
    """

    def __init__(self, directory: Path, *, probe: OnlineProbe, collate: Any, class_names: tuple[str, ...]) -> None:
        self.directory, self.probe, self.collate, self.class_names = directory, probe, collate, class_names

    def after_step(self, trainer: pl.Trainer, module: StepModule, batch: Step) -> None:
        """Draw if this was the last step."""
        if trainer.global_step != trainer.max_steps or not trainer.is_global_zero:
            return
        assert isinstance(module, Objective)
        self.directory.mkdir(exist_ok=True)
        finished = module.finished(batch.micro_batches[0])
        module.backbone.modality.show(self.collate, finished, MOST_VIEWS, self.directory / "views")
        features, labels = self.probe.latest
        draw_points(principal_axes(features), labels, self.class_names, self.directory / "embeddings.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbHistory):
                drawn = {f"pictures/{path.stem}": path for path in sorted(self.directory.glob("*.png"))}
                logger.log_pictures(drawn, trainer.global_step)


def probing(parts: Any, every: int, ranks: tuple[int, int], directory: Path) -> list[pl.Callback]:
    """Make the probe of a run's `parts`, where one is wanted, and what draws its last answer into `directory`."""
    if parts.probe is None:
        return []
    data = parts.data
    loader = EvalLoader(parts.validation, parts.collate, batch_size=data.eval_batch_size, ranks=ranks)
    if isinstance(parts.probe, QualitySettings):
        return [Quality(loader, every=every)]
    options = {"every": every, "preprocess": parts.preprocess, "classes": parts.classes, "batch_size": data.batch_size}
    probe = OnlineProbe(parts.probe, validation=loader, **options)
    if not parts.probe.pictures:
        return [probe]
    names = getattr(parts.validation, "class_names", ())
    return [probe, Pictures(directory, probe=probe, collate=parts.collate, class_names=names)]


def principal_axes(features: Tensor) -> Tensor:
    """Project unit vectors onto the two directions in which they vary most. [N, 2]

    The largest entry of each direction is positive, so that equal features give equal pictures.
    """
    points = probes.unit(features).double().cpu()
    points = points - points.mean(0)
    axes = torch.linalg.eigh(points.T @ points).eigenvectors[:, [-1, -2]]  # [D, 2]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return points @ (axes * largest.sign())


def draw_points(places: Tensor, labels: Tensor | None, names: tuple[str, ...], path: Path) -> None:
    """Save points [N, 2], coloured by label, with a legend of the classes."""
    from PIL import Image, ImageDraw

    count = 1 if labels is None else int(labels.max()) + 1
    circle = [colorsys.hsv_to_rgb(number / count, 0.8, 0.9 - 0.35 * (number % 2)) for number in range(count)]
    colours = [tuple(round(255 * part) for part in colour) for colour in circle]
    picture = Image.new("RGB", (SIDE + (LEGEND if count > 1 else 0), SIDE), "white")
    pen = ImageDraw.Draw(picture)
    low, high = places.amin(0), places.amax(0)
    scale = (SIDE - 2 * MARGIN) / (high - low).clamp(min=1e-12)
    spots = ((places - low) * scale + MARGIN).round().long().tolist()
    classes = [0] * len(spots) if labels is None else labels.tolist()
    for (x, y), number in zip(spots, classes, strict=True):
        pen.ellipse([x - DOT, SIDE - y - DOT, x + DOT, SIDE - y + DOT], fill=colours[number])
    for number in range(min(count, MOST_CLASSES) if count > 1 else 0):
        top = MARGIN + LINE * number
        pen.rectangle([SIDE, top, SIDE + 9, top + 9], fill=colours[number])
        pen.text((SIDE + LINE, top - 2), names[number] if number < len(names) else str(number), fill="black")
    picture.save(path)
