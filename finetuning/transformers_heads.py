"""Heads as transformers' own classes have them, so that a finetuned model is one of those.

transformers fixes what lies between an architecture's vectors and the last linear layer: nothing in some classes, a
dense layer and an activation in others.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from finetuning.closed_form import Neighbours
from finetuning.task import Task
from pretraining.backbones.base import Backbone
from pretraining.errors import RunError


class Native(NamedTuple):
    """How an architecture makes the vector of a text: its pooling, and the layers (or activations) behind it."""

    pooling: str
    layers: tuple[str | type[nn.Module], ...] = ()
    per_position: tuple[str, ...] = ()  # the layers between a token's vector and its scores


NATIVE = {
    "bert": Native("pooler"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), Native("first", ("classifier.dense", nn.Tanh))),
    "electra": Native("first", ("classifier.dense", nn.GELU)),
    "distilbert": Native("first", ("pre_classifier", nn.ReLU)),
    "modernbert": Native("mean", ("head",), ("head",)),
}


def native(backbone: Backbone, task: type[Task]) -> Native:
    """Find what transformers has between a backbone and the last layer; an architecture not listed is an error."""
    family = _config(backbone).get("model_type", str(backbone.modality))
    if family not in NATIVE or task.transformers_class is None:
        known = f"it is known for text on {', '.join(NATIVE)}; take head=linear"
        onnx = ", and to=onnx in an export: transformers has no such network"
        known += onnx if backbone.as_transformers() is None else ""
        raise RunError(f"got head=native for {task.__name__} on {family}: {known}")
    return NATIVE[family]


def with_native_layers(task: Task, layers: Native) -> None:
    """Put fresh layers of transformers' class in front of the task's last linear layer."""
    if task.mode.closed_form:
        mode = type(task.mode).__name__
        raise RunError(f"got head=native and mode={mode}, which fits a linear layer alone: take head=linear")
    assert isinstance(task.head, nn.Sequential)
    model = fresh_model(task)
    for layer in reversed(layers.per_position if task.per_position else layers.layers):
        task.head.insert(0, model.get_submodule(layer) if isinstance(layer, str) else layer())


def advice(task: Task) -> str | None:
    """Say before training that transformers will have no class for a linear head, where it has one for head=native."""
    family = _config(task.backbone).get("model_type")
    if family not in NATIVE or task.own_head or task.transformers_class is None or task.mode.closed_form:
        return None
    if not (task.layers.plain and isinstance(task.head, nn.Sequential)):
        return None
    with torch.device("meta"):
        model = fresh_model(task)
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    theirs = [parameter.shape for parameter in model.parameters() if id(parameter) not in inside]
    pooling = task.backbone.kwargs["pooling"]
    if theirs != [parameter.shape for parameter in task.head.parameters()]:
        why = f"{type(model).__name__} has more than a linear head"
    elif not task.per_position and pooling != NATIVE[family].pooling:
        why = f"{type(model).__name__} does not read pooling={pooling}"
    else:
        return None
    return (
        f"note: finetuning.export will write this model as ONNX, not for transformers ({why}); head=native goes there"
    )


def fresh_model(task: Task) -> Any:
    """Build transformers' model for a task, with the task's classes and fresh weights."""
    import transformers

    class_of_task = task.inputs.transformers_classes.get(task.transformers_class or "", task.transformers_class)
    base, layer = task.backbone.as_transformers(), task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if not class_of_task or base is None or not isinstance(layer, nn.Linear):
        what = f"{type(task).__name__} on {task.inputs.modality} with a head of {type(task.head).__name__}"
        cure = ": take to=onnx" if isinstance(task.head, nn.Sequential | Neighbours) else ""
        raise RunError(f"got a run of {what}, for which transformers has no class{cure}")
    config = copy.deepcopy(base.config)
    names = task.labels.get("names") or [f"LABEL_{place}" for place in range(layer.out_features)]
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    if task.problem_type is not None:
        config.problem_type = task.problem_type
    config.update(task.transformers_config(layer.out_features) | task.inputs.head_sizes(task.backbone))
    if hasattr(config, "classifier_pooling"):  # ModernBERT's
        poolings = {"mean": "mean", "first": "cls"}
        config.classifier_pooling = poolings.get(task.backbone.kwargs["pooling"], config.classifier_pooling)
    return getattr(transformers, class_of_task).from_config(config).eval()


def _config(backbone: Backbone) -> dict[str, Any]:
    """The configuration of the transformers model behind a backbone; empty where there is none."""
    return backbone.kwargs.get("config") or backbone.kwargs.get("encoder") or {}
