"""Heads as transformers' own classes have them, so that a finetuned model is one of those.

transformers fixes what lies between an architecture's vectors and the last linear layer: nothing in some classes, a
dense layer and an activation in others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

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


def fresh_model(task: Task) -> Any:
    """Build transformers' model for a task, with the task's classes and fresh weights."""
    import transformers

    class_of_task = task.inputs.transformers_classes.get(task.transformers_class or "", task.transformers_class)
    known, layer = _config(task.backbone), task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if not class_of_task or not known or not isinstance(layer, nn.Linear):
        what = f"{type(task).__name__} on {task.inputs.modality} with a head of {type(task.head).__name__}"
        raise RunError(f"got a run of {what}, for which transformers has no class")
    config = transformers.AutoConfig.for_model(**known)
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
