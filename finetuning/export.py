"""`python -m finetuning.export run_dir=DIR [to=NAME] [output=DIR]`: a finetuned model as others run it.

to=transformers, the default, or to=onnx (any head; int8=true adds an 8-bit file). push=ORG/NAME: to the Hub, with what
was measured on its model card; private=false, license=NAME, datasets=NAME,NAME.

transformers fixes each architecture's heads: those of a run with head=native always fit; a linear one fits where the
architecture has nothing else (BERT's tags and spans; its classes with pooling=pooler), and on speech encoders (by CTC
with a tokenizer that writes the text, and for classes). What would give other scores is refused.
"""

from __future__ import annotations

from finetuning.commands import EXPORT

if __name__ == "__main__":  # before anything slow is imported
    EXPORT.answer(__doc__)

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetuning.closed_form import Neighbours
from finetuning.launch import load_run
from finetuning.task import Task
from finetuning.transformers_heads import fresh_model
from pretraining.backbones.base import Features
from pretraining.cache import read_object, replace_text, share
from pretraining.cli.configuration import as_run_errors, class_name, class_of, exit_cleanly
from pretraining.cli.early import is_true
from pretraining.data.files import say
from pretraining.errors import RunError
from pretraining.handoff.card import text_of
from pretraining.handoff.hub import check_push, push, told_in
from pretraining.modality import Tower
from pretraining.onnx_form import refuse_lacking, save_preparation, write_function
from pretraining.runs.directory import make_directory, new_directory

CURE = "finetune with head=native and mode=full or frozen (probes fit a linear layer alone), or take to=onnx"


def export(task: Task, directory: Path) -> Path:
    """Write a folder of transformers: weights, config and what prepares the inputs."""
    transformers_model(task).save_pretrained(make_directory(directory, "output"))
    task.inputs.save_for_transformers(directory, task.preprocess, task.backbone)
    task.save_vocabulary(directory)
    share(directory)
    return directory


class Scores(nn.Module):
    """A task's head, on what it reads of features."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.head, self.per_position = task.head, task.per_position

    def forward(self, features: Features) -> tuple[Tensor]:
        """Compute the logits: [B, C], or [B, L, C] of positions."""
        return (self.head(features.positions if self.per_position else features.pooled),)


def export_onnx(task: Task, directory: Path, *, int8: bool = False) -> Path:
    """Write model.onnx, whose `logits` are the task's, with what prepares the inputs and labels.json."""
    if not isinstance(task.head, nn.Sequential | Neighbours):
        what = f"got a run of {type(task).__name__} with a head of {type(task.head).__name__}"
        raise RunError(f"{what}: to=onnx takes classes, numbers, tags, spans and CTC, from vectors")
    if not task.layers.plain:
        raise RunError(f"got a run with mode.layers={task.layers.wanted}: to=onnx takes mode.layers=last")
    function = task.inputs.modality.function(Tower(task.backbone, task.preprocess))
    with new_directory(directory, "output") as place:
        write_function(function, Scores(task), ("logits",), place, int8=int8)
        save_preparation(function, task.preprocess, place)
        (place / "labels.json").write_text(json.dumps(task.labels) + "\n", encoding="utf-8")
    if task.precision == "bf16":
        what = "note: this run computes in bf16 (trainer.precision), and model.onnx in fp32"
        say(f"{what}: finetuning.predict differs from it by bf16's rounding, in the second or third digit of scores")
    return directory


FORMS: dict[str, Callable[..., Path]] = {"transformers": export, "onnx": export_onnx}


def transformers_model(task: Task) -> Any:
    """Build transformers' own model of this task with the task's weights, and check that both give the same scores."""
    if task.own_head:
        return task.backbone.model  # with its head and generation_config: transformers' own already
    if not task.layers.plain:
        what = f"got a run with mode.layers={task.layers.wanted}, where {task.transformers_class} reads the last layer"
        raise RunError(f"{what}: finetune with mode.layers=last")
    model = fresh_model(task)
    own = task.backbone.as_transformers().state_dict()  # type: ignore[union-attr]
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
        raise RunError(f"{what}: {CURE}")
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
        raise RunError(f"{what}: {CURE}")


def carry_out(words: Mapping[str, str]) -> Iterator[str]:
    """Do what a command line asks for; tells the directory that was written, and the address that it was pushed to."""
    to, name, run_dir = words.get("to", "transformers"), words.get("push"), Path(words["run_dir"])
    if to not in FORMS:
        raise RunError(f"to={to}: a finetuned model is written as {', '.join(FORMS)}")
    if "int8" in words and to != "onnx":
        raise RunError(f"int8= is not for to={to}: leave it out, or give to=onnx")
    options = {"int8": is_true("int8", words["int8"])} if "int8" in words else {}
    private = is_true("private", words.get("private", "true"))
    if name is not None:
        check_push(name)
    if to == "onnx":
        refuse_lacking()  # before the model is read
    config, task = load_run(run_dir)
    if task.given_head:
        given = run_dir / "model" / "last" if class_of(config.mode).trains else config.handoff
        what = f"got a run of {class_name(config.task)}, whose classes or captions are no head of another library"
        raise RunError(f"{what}: export its networks, python -m pretraining.export handoff={given} to=… output=DIR")
    directory = FORMS[to](task, Path(words.get("output", run_dir / "model" / to)), **options)
    origin = read_object(run_dir / "model" / "last" / "handoff.json")["origin"]
    told = told_in(words, origin=origin, results=read_object(run_dir / "metrics.json"), task=class_name(config.data))
    replace_text(directory / "README.md", text_of(directory, told))
    yield str(directory)
    if name is not None:
        yield push(directory, name, told, private=private)


def cli() -> None:
    """Run the command line."""
    with exit_cleanly(), as_run_errors():
        for line in carry_out(EXPORT.read(sys.argv[1:])):
            print(line)


if __name__ == "__main__":
    cli()
