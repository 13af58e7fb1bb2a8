"""Heads as transformers' own classes have them, so that a finetuned model is one of those.

transformers fixes what lies between an architecture's vectors and the last linear layer: nothing in some classes, a dense layer and an
activation in others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from finetuning.task import Task
from finetuning.tasks.classification import Classification
from finetuning.tasks.multi_label import TextMultiLabel
from finetuning.tasks.question_answering import QuestionAnswering
from finetuning.tasks.regression import TextRegression
from finetuning.tasks.tagging import Tagging
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.text.backbones.transformers_model import TransformersBackbone

LOADERS: dict[Any, str] = {
    Classification: "AutoModelForSequenceClassification",
    TextMultiLabel: "AutoModelForSequenceClassification",
    TextRegression: "AutoModelForSequenceClassification",
    Tagging: "AutoModelForTokenClassification",
    QuestionAnswering: "AutoModelForQuestionAnswering",
}


class Native(NamedTuple):
    """How an architecture makes the vector of a text: its pooling, and the layers behind it (submodule or activation)."""

    pooling: str
    layers: tuple[str | type[nn.Module], ...] = ()
    of_tokens: tuple[str, ...] = ()  # the layers between a token's vector and its scores


_DENSE = Native("first", ("classifier.dense", nn.Tanh))
NATIVE = {
    "bert": Native("pooler"),
    "roberta": _DENSE,
    "xlm-roberta": _DENSE,
    "camembert": _DENSE,
    "electra": Native("first", ("classifier.dense", nn.GELU)),
    "distilbert": Native("first", ("pre_classifier", nn.ReLU)),
    "modernbert": Native("mean", ("head",), ("head",)),
}


def loader(task: type[Task]) -> str | None:
    """Name the class of transformers for a task; None where there is none."""
    return (
        next((name for kind, name in LOADERS.items() if issubclass(task, kind)), None)
        if task.modality == "text"
        else None
    )


def native(source: Handoff, task: type[Task]) -> Native:
    """Find what transformers has between a backbone and the last layer; an architecture that is not listed is an error."""
    backbone = source.backbone
    family = backbone.model.config.model_type if isinstance(backbone, TransformersBackbone) else backbone.modality
    if family not in NATIVE or loader(task) is None:
        raise RunError(
            f"got head=native for {task.__name__} on {family}: it is known for text on {', '.join(NATIVE)}; take head=linear"
        )
    return NATIVE[family]


def with_native_layers(task: Task, layers: Native) -> None:
    """Put fresh layers of transformers' class in front of the task's last linear layer."""
    if task.mode.solved:
        raise RunError(
            f"got head=native and mode={type(task.mode).__name__}, which solves for a linear layer alone: take head=linear"
        )
    assert isinstance(task.head, nn.Sequential)
    of_tokens = isinstance(task, (Tagging, QuestionAnswering))
    model = transformers_class(task)
    for layer in reversed(layers.of_tokens if of_tokens else layers.layers):
        task.head.insert(0, model.get_submodule(layer) if isinstance(layer, str) else layer())


def transformers_class(task: Task) -> Any:
    """Build transformers' model for a task, with the task's classes and fresh weights."""
    import transformers

    name, layer = loader(type(task)), task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if name is None or not isinstance(layer, nn.Linear):
        raise RunError(
            f"got a run of {type(task).__name__} with a head of {type(task.head).__name__}, for which transformers has no class"
        )
    config = transformers.AutoConfig.for_model(**task.backbone.kwargs["config"])
    names = task.labels.get("names") or [f"LABEL_{place}" for place in range(layer.out_features)]
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    if isinstance(task, TextRegression):
        config.problem_type = "regression"
    if isinstance(task, TextMultiLabel):
        config.problem_type = "multi_label_classification"
    if hasattr(config, "classifier_pooling"):  # ModernBERT's
        config.classifier_pooling = {"mean": "mean", "first": "cls"}.get(
            task.backbone.kwargs["pooling"], config.classifier_pooling
        )
    return getattr(transformers, name).from_config(config).eval()
