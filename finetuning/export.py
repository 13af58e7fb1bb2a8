"""`python -m finetuning.export run_dir=DIR [output=DIR]`: a finetuned text model as a folder that `transformers.pipeline` runs.

transformers fixes each architecture's heads: tags and answer spans always fit; classes fit where the pooled vector is the
architecture's own (for BERT: pooling=pooler). Whatever would not give the same scores is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetuning.arguments import arguments
from finetuning.launch import load_run
from finetuning.task import Task
from finetuning.tasks.classification import Classification
from finetuning.tasks.question_answering import QuestionAnswering
from finetuning.tasks.tagging import Tagging
from finetuning.tasks.text_regression import TextRegression
from pretraining.configuration import exit_cleanly
from pretraining.run import RunError

LOADERS: dict[Any, str] = {
    Classification: "AutoModelForSequenceClassification",
    TextRegression: "AutoModelForSequenceClassification",
    Tagging: "AutoModelForTokenClassification",
    QuestionAnswering: "AutoModelForQuestionAnswering",
}


def export(task: Task, directory: Path) -> Path:
    """Write weights, config and tokenizer."""
    model = transformers_model(task)
    model.save_pretrained(directory)
    task.preprocess.tokenizer.save_pretrained(directory)
    return directory


def transformers_model(task: Task) -> Any:
    """Build transformers' own model of this task with the task's weights, and check that both give the same scores."""
    import transformers

    loader = next((name for kind, name in LOADERS.items() if isinstance(task, kind)), None)
    layer = task.head[-1] if isinstance(task.head, nn.Sequential) else None
    if task.modality != "text" or loader is None or not isinstance(layer, nn.Linear):
        raise RunError(f"got a run of {type(task).__name__} with a head of {type(task.head).__name__}, for which transformers has no class")
    config = transformers.AutoConfig.for_model(**task.backbone.kwargs["config"])
    names = task.labels.get("names") or [f"LABEL_{place}" for place in range(layer.out_features)]
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    if isinstance(task, TextRegression):
        config.problem_type = "regression"
    model = getattr(transformers, loader).from_config(config).eval()
    own = task.backbone.base.state_dict()  # type: ignore[union-attr, operator]
    lacking = [name for name in model.base_model.state_dict() if name not in own]
    if lacking:
        raise RunError(
            f"{type(model).__name__} has {', '.join(lacking[:3])}, which this backbone does not: it cannot be written in that form"
        )
    model.base_model.load_state_dict({name: own[name] for name in model.base_model.state_dict()})
    _fill_head(model, layer)
    _compare(task, model)
    return model


def _fill_head(model: Any, layer: nn.Linear) -> None:
    """Copy the head into the one linear layer that the model has beside its base."""
    inside = {id(parameter) for parameter in model.base_model.parameters()}
    outside = [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in inside]
    shapes = {"weight": layer.weight, "bias": layer.bias}
    if sorted((name.rpartition(".")[2], parameter.shape) for name, parameter in outside) != sorted((n, p.shape) for n, p in shapes.items()):
        names = ", ".join(name for name, _ in outside)
        raise RunError(f"{type(model).__name__} has a head of {names}, which is not one linear layer: it cannot hold this run's")
    with torch.no_grad():
        for name, parameter in outside:
            parameter.copy_(shapes[name.rpartition(".")[2]])


@torch.no_grad()
def _compare(task: Task, model: Any) -> None:
    ids = torch.randint(0, task.preprocess.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    documents = torch.ones_like(ids)
    documents[1, 8:] = 0
    features = task.backbone(input_ids=ids, documents=documents)
    per_token = isinstance(task, (Tagging, QuestionAnswering))
    ours: Tensor = task.head(features.positions if per_token else features.pooled)
    output = model(input_ids=ids, attention_mask=documents)
    theirs = torch.stack([output.start_logits, output.end_logits], -1) if isinstance(task, QuestionAnswering) else output.logits
    kept = documents.bool() if per_token else slice(None)
    if not torch.allclose(ours[kept], theirs[kept], atol=1e-4):
        pooling = task.backbone.kwargs.get("pooling")
        raise RunError(
            f"{type(model).__name__} makes its vector in another way than pooling={pooling}: "
            "finetune with its own (pooling=pooler for BERT)"
        )


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        given = arguments(sys.argv[1:], ("run_dir",), {"output": None})
        _, task = load_run(Path(given["run_dir"]))
        print(export(task, Path(given.get("output", f"{given['run_dir']}/model/transformers"))))


if __name__ == "__main__":
    cli()
