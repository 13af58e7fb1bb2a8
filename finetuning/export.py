"""`python -m finetuning.export run_dir=DIR [output=DIR]`: a finetuned text model as a folder that `transformers.pipeline` runs.

transformers fixes each architecture's heads: those of a run with head=native always fit; a linear one fits where the architecture has
nothing else (BERT's tags and spans; its classes with pooling=pooler). Whatever would not give the same scores is refused.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finetuning.arguments import arguments
from finetuning.inputs.text import has_segments
from finetuning.launch import load_run
from finetuning.task import Task
from finetuning.tasks.generation import Generation
from finetuning.tasks.question_answering import QuestionAnswering
from finetuning.tasks.tagging import Tagging
from finetuning.transformers_heads import transformers_class
from pretraining.cli.configuration import exit_cleanly
from pretraining.errors import RunError


def export(task: Task, directory: Path) -> Path:
    """Write weights, config and tokenizer."""
    model = transformers_model(task)
    model.save_pretrained(directory)
    tokenizer = copy.deepcopy(task.preprocess.tokenizer)
    names = ["input_ids", *(["token_type_ids"] if has_segments(task.backbone) else []), "attention_mask"]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = (
        names  # what a pipeline feeds to the model
    )
    tokenizer.save_pretrained(directory)
    return directory


def transformers_model(task: Task) -> Any:
    """Build transformers' own model of this task with the task's weights, and check that both give the same scores."""
    if isinstance(task, Generation):
        return task.backbone.model  # a language model with its head and generation_config is transformers' own already
    model = transformers_class(task)
    own = task.backbone.base.state_dict()  # type: ignore[union-attr, operator]
    lacking = [name for name in model.base_model.state_dict() if name not in own]
    if lacking:
        raise RunError(
            f"{type(model).__name__} has {', '.join(lacking[:3])}, which this backbone does not: it cannot be written in that form"
        )
    model.base_model.load_state_dict({name: own[name] for name in model.base_model.state_dict()})
    _fill_head(model, task.head)
    _compare(task, model)
    return model


def _fill_head(model: Any, head: nn.Module) -> None:
    """Copy the head into what the model has beside its base, layer by layer."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    outside = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in inside}
    ours = list(head.parameters())
    if [parameter.shape for parameter in outside.values()] != [parameter.shape for parameter in ours]:
        raise RunError(
            f"{type(model).__name__} has a head of {', '.join(outside)}, which is not this run's linear layer: finetune with head=native"
        )
    with torch.no_grad():
        for theirs, parameter in zip(outside.values(), ours, strict=True):
            theirs.copy_(parameter)


@torch.no_grad()
def _compare(task: Task, model: Any) -> None:
    ordinary = torch.from_numpy(np.setdiff1d(np.arange(task.preprocess.vocab_size), task.preprocess.special_ids))
    ids = ordinary[torch.randint(0, len(ordinary), (2, 12), generator=torch.Generator().manual_seed(0))]
    documents = torch.ones_like(ids)
    documents[1, 8:] = 0
    ids[1, 8:] = task.preprocess.pad_id or 0  # RoBERTa reads off it which positions count
    features = task.backbone(input_ids=ids, document_ids=documents)
    per_token = isinstance(task, (Tagging, QuestionAnswering))
    ours: Tensor = task.head(features.positions if per_token else features.pooled)
    output = model(input_ids=ids, attention_mask=documents)
    theirs = (
        torch.stack([output.start_logits, output.end_logits], -1)
        if isinstance(task, QuestionAnswering)
        else output.logits
    )
    kept = documents.bool() if per_token else slice(None)
    if not torch.allclose(ours[kept], theirs[kept], atol=1e-4):
        pooling = task.backbone.kwargs.get("pooling")
        raise RunError(
            f"{type(model).__name__} makes its vector in another way than pooling={pooling}: finetune with head=native"
        )


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = arguments(sys.argv[1:], ("run_dir",), {"output": None})
        _, task = load_run(Path(given["run_dir"]))
        print(export(task, Path(given.get("output", f"{given['run_dir']}/model/transformers"))))


if __name__ == "__main__":
    cli()
