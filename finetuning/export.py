"""`python -m finetuning.export run_dir=DIR [output=DIR]`: a finetuned model as a folder that transformers runs.

transformers fixes each architecture's heads: those of a run with head=native always fit; a linear one fits where the
architecture has nothing else (BERT's tags and spans; its classes with pooling=pooler), and on speech encoders (by CTC
with a tokenizer that writes the text, and for classes). What would give other scores is refused.
"""

from __future__ import annotations

from finetuning.commands import EXPORT

if __name__ == "__main__":  # before anything slow is imported
    EXPORT.answer(__doc__)

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetuning.launch import load_run
from finetuning.task import Task
from finetuning.transformers_heads import fresh_model
from pretraining.cache import share
from pretraining.cli.configuration import exit_cleanly
from pretraining.errors import RunError
from pretraining.runs.directory import make_directory


def export(task: Task, directory: Path) -> Path:
    """Write weights, config and what prepares the inputs."""
    transformers_model(task).save_pretrained(make_directory(directory, "output"))
    task.inputs.save_for_transformers(directory, task.preprocess, task.backbone)
    task.save_vocabulary(directory)
    share(directory)
    return directory


def transformers_model(task: Task) -> Any:
    """Build transformers' own model of this task with the task's weights, and check that both give the same scores."""
    if task.own_head:
        return task.backbone.model  # with its head and generation_config: transformers' own already
    if not task.layers.plain:
        what = f"got a run with mode.layers={task.layers.wanted}, where {task.transformers_class} reads the last layer"
        raise RunError(f"{what}: finetune with mode.layers=last")
    model = fresh_model(task)
    own = task.backbone.base.state_dict()  # type: ignore[union-attr, operator]
    lacking = [name for name in model.base_model.state_dict() if name not in own]
    if lacking:
        what = f"{type(model).__name__} has {', '.join(lacking[:3])}, which this backbone does not"
        raise RunError(f"{what}: it cannot be written in that form")
    model.base_model.load_state_dict({name: own[name] for name in model.base_model.state_dict()})
    _fill_head(model, task)
    _compare(task, model)
    return model


def _fill_head(model: Any, task: Task) -> None:
    """Copy the head into what the model has beside its base, layer by layer; what ours has not becomes the identity."""
    passed = [getattr(model, name) for name in task.inputs.passed_through if hasattr(model, name)]
    for layer in passed:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    inside = {id(parameter) for part in (model.base_model, *passed) for parameter in part.parameters()}
    outside = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in inside}
    ours = list(task.head.parameters())
    if [parameter.shape for parameter in outside.values()] != [parameter.shape for parameter in ours]:
        what = f"{type(model).__name__} has a head of {', '.join(outside)}, which is not this run's linear layer"
        raise RunError(f"{what}: finetune with head=native")
    with torch.no_grad():
        for theirs, parameter in zip(outside.values(), ours, strict=True):
            theirs.copy_(parameter)


@torch.no_grad()
def _compare(task: Task, model: Any) -> None:
    """Refuse a model whose scores of made-up rows are others than the task's."""
    given, as_theirs = task.inputs.made_up_rows(task.preprocess)
    features, output = task.backbone(**given), model(**as_theirs)
    ours = task.head(features.positions if task.per_position else features.pooled)
    spans = "start_logits" in output
    theirs = torch.stack([output.start_logits, output.end_logits], -1) if spans else output.logits
    kept = features.valid if task.per_position else slice(None)
    if not torch.allclose(ours[kept], theirs[kept], atol=1e-4):
        pooling = task.backbone.kwargs.get("pooling")
        what = f"{type(model).__name__} makes its vector in another way than pooling={pooling}"
        raise RunError(f"{what}: finetune with head=native")


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = EXPORT.read(sys.argv[1:])
        _, task = load_run(Path(given["run_dir"]))
        print(export(task, Path(given.get("output", f"{given['run_dir']}/model/transformers"))))


if __name__ == "__main__":
    cli()
