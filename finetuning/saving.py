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
from finetuning.inputs.base import EncodedSplit
from finetuning.task import Predictions, Task
from pretraining import handoff
from pretraining.cache import RESTORE, read_object, replace_file, replace_text
from pretraining.errors import RunError


def save_results(directory: Path, task: Task, test: Predictions, split: EncodedSplit, origin: dict[str, Any]) -> None:
    """Write predictions.parquet (the test split's rows, in order, by name where the data names them), lineage.json, and
    what else the task has to show.
    """
    task.save(directory, test, split)
    named = {"name": split.examples.column("name")} if "name" in split.examples.columns else {}
    columns = (named | task.table(test)).items()
    arrays = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns}
    with replace_file(directory / "predictions.parquet", "wb") as file:
        pyarrow.parquet.write_table(pa.table(arrays), file)
    for name, content in (("test_report", task.report(test)), ("lineage", origin)):
        if content is not None:
            replace_text(directory / f"{name}.json", json.dumps(content, indent=1) + "\n")


def save_model(directory: Path, task: Task, origin: dict[str, Any]) -> None:
    """Write the finetuned model: a hand-off whose heads.safetensors is the task's head, and task.json beside it."""
    handoff.write(
        directory / f"step-{max(task.best.step, 0):07d}",
        towers=task.inputs.modality.towers(task.backbone, task.preprocess),
        origin=origin,
        heads={name: value for name, value in task.state_dict().items() if name.startswith("head.")},
    )
    votes = isinstance(task.head, Neighbours)
    head = {name: getattr(task.head, name) for name in ("k", "temperature", "count")} if votes else None
    facts = {"labels": task.labels, "neighbours": head, "layers": task.layers.wanted}
    replace_text(directory / "task.json", json.dumps(facts) + "\n")


def saved_facts(run_dir: Path, instead: str = "") -> dict[str, Any]:
    """Read what a finished run's model says about its labels and its head; `instead`: what there is without one."""
    path = run_dir / "model" / "task.json"
    if not path.is_file():
        cure = f"give a finished run's, which had save_model=true{instead}"
        raise RunError(f"run_dir={run_dir} holds no finetuned model: {cure}")
    facts = read_object(path)
    if not isinstance(facts.get("labels"), dict) or not isinstance(facts.get("neighbours", 0), dict | None):
        raise RunError(f"{path} is damaged (it lacks the labels or the neighbours): {RESTORE}")
    return facts


def saved_head(run_dir: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a finished run's head; nothing where it has none."""
    path = run_dir / "model" / "last" / "heads.safetensors"
    kept = load_file(path) if path.exists() else {}
    return {name.removeprefix("head."): value for name, value in kept.items()}


def load_head(task: Task, weights: dict[str, torch.Tensor], votes: dict[str, Any] | None) -> None:
    """Put a finished run's head onto a task built anew; `votes` are settings of nearest neighbours, if it has any."""
    if votes is not None:
        task.head = Neighbours(torch.empty_like(weights["vectors"]), torch.empty_like(weights["classes"]), **votes)
    task.head.load_state_dict(weights)
