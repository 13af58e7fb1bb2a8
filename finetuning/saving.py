"""What a finetuning run leaves behind: numbers, predictions, where the weights came from, and the finetuned model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from safetensors.torch import load_file

from finetuning.closed_form import Neighbours
from finetuning.task import Judged, Task
from finetuning.transformers_heads import native, with_native_layers
from pretraining import handoff
from pretraining.cli.configuration import class_of, instantiate
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.random import seed_everything_at, word


def build_task(config: Any, source: Handoff, labels: dict[str, Any]) -> Task:
    """Build the task on a hand-off; its head is drawn from the run's seed."""
    layers = native(source, class_of(config.task)) if config.head == "native" else None
    if config.head not in ("linear", "native"):
        raise RunError(f"got head={config.head}: choose linear or native")
    if layers is not None and config.pooling not in (None, layers.pooling):
        raise RunError(
            f"got pooling={config.pooling} and head=native, which pools by {layers.pooling} here: leave pooling=null"
        )
    pooling = config.pooling if layers is None else layers.pooling
    if pooling is not None:
        repool(source, pooling)
    seed_everything_at(config.seed, word("head"))
    task = instantiate(
        config.task,
        handoff=source,
        labels=labels,
        mode=instantiate(config.mode),
        optimizer=instantiate(config.optimizer),
    )
    if layers is not None:
        with_native_layers(task, layers)
    return task


def repool(source: Handoff, pooling: str) -> None:
    """Let the backbone make its pooled vector another way."""
    if "pooling" not in source.backbone.kwargs:
        raise RunError(
            f"got pooling={pooling}, but {type(source.backbone).__name__} has no choice of pooling: leave pooling=null"
        )
    weights = source.backbone.state_dict()
    try:
        source.backbone = type(source.backbone)(**source.backbone.kwargs | {"pooling": pooling})
    except ValueError as error:
        raise RunError(str(error)) from error
    source.backbone.load_state_dict(weights)


def load_head(task: Task, run_dir: Path) -> None:
    """Put a finished run's head onto a task built anew."""
    path, solved = run_dir / "model" / "last" / "heads.safetensors", saved_facts(run_dir)["neighbours"]
    if not path.exists() and not task.head.state_dict():
        return
    weights = load_file(path)
    if solved is not None:
        task.head = Neighbours(
            torch.empty_like(weights["head.vectors"]), torch.empty_like(weights["head.classes"]), **solved
        )
    task.head.load_state_dict({name.removeprefix("head."): value for name, value in weights.items()})


def saved_facts(run_dir: Path) -> dict[str, Any]:
    """Read what a finished run's model says about its labels and its head."""
    path = run_dir / "model" / "task.json"
    if not path.is_file():
        raise RunError(
            f"run_dir={run_dir} holds no finetuned model: give the directory of a finished run with save_model=true"
        )
    return json.loads(path.read_text("utf-8"))


def lineage(reference: str, source: Handoff) -> dict[str, Any]:
    """Say which weights a run started from."""
    return {"handoff": reference, "path": source.path, "sha256": source.digest, "origin": source.card["origin"]}


def save_predictions(path: Path, columns: dict[str, Any]) -> None:
    """Write predictions.parquet: a row per test example, in the order of the test split."""
    arrays = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(arrays), path)


def save_report(path: Path, task: Task, judged: Judged) -> None:
    """Write what does not fit into metrics.json, where the task has such."""
    report = task.report(judged)
    if report is not None:
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def save_model(directory: Path, task: Task, origin: dict[str, Any]) -> None:
    """Write the finetuned model: a hand-off whose heads.safetensors is the task's head, and task.json beside it."""
    heads = {name: value for name, value in task.state_dict().items() if name.startswith("head.")}
    handoff.write(
        directory / f"step-{max(task.best.step, 0):07d}",
        backbone=task.backbone,
        preprocess=task.preprocess,
        origin=origin,
        heads=heads,
    )
    head = (
        {"k": task.head.k, "temperature": task.head.temperature, "count": task.head.count}
        if isinstance(task.head, Neighbours)
        else None
    )
    (directory / "task.json").write_text(
        json.dumps({"labels": task.labels, "neighbours": head}) + "\n", encoding="utf-8"
    )
