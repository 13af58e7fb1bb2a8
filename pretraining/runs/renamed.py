"""Names of earlier releases: their configurations, hand-offs and command lines keep working for one release."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any

MODULES = {  # of classes that a configuration or a hand-off may name
    "finetuning.data.builtin": "finetuning.data.docs_topic",
    "finetuning.data.captions.LabelledScenes": "finetuning.data.captions.CaptionedScenes",
    "finetuning.decoding": "finetuning.tasks.decoding",
    "finetuning.tasks.image_classification.ImageClassification": "finetuning.tasks.classification.Classification",
    "finetuning.tasks.text_classification.TextClassification": "finetuning.tasks.classification.Classification",
    "finetuning.tasks.text_multi_label.TextMultiLabel": "finetuning.tasks.multi_label.MultiLabel",
    "finetuning.tasks.text_regression.TextRegression": "finetuning.tasks.regression.Regression",
    "finetuning.writing.Writing": "finetuning.inputs.text_pairs.TextPairInputs",
    "pretraining.augment": "pretraining.image.augment",
    "pretraining.backbones.huggingface": "pretraining.text.backbones.transformers_model",
    "pretraining.backbones.torchvision": "pretraining.image.backbones.torchvision_model",
    "pretraining.data.builtin_images": "pretraining.image.data.builtin",
    "pretraining.data.builtin_text": "pretraining.text.data.stdlib_docs",
    "pretraining.data.decode": "pretraining.image.data.decode",
    "pretraining.data.hub_text": "pretraining.text.data.hub",
    "pretraining.data.image_files": "pretraining.image.data.files",
    "pretraining.data.labelled_text": "pretraining.text.data.labelled",
    "pretraining.data.mixture": "pretraining.text.data.mixture",
    "pretraining.data.prepare": "pretraining.text.corpus.prepare",
    "pretraining.data.sentences": "pretraining.text.corpus.sentences",
    "pretraining.data.text": "pretraining.text.data.base",
    "pretraining.lars": "pretraining.optim.lars",
    "pretraining.objectives.bert": "pretraining.objectives.text.bert",
    "pretraining.objectives.causal_language": "pretraining.objectives.text.causal_language",
    "pretraining.objectives.damage": "pretraining.objectives.text.corruption",
    "pretraining.objectives.denoising": "pretraining.objectives.text.denoising",
    "pretraining.objectives.denoising_image": "pretraining.objectives.image.denoising",
    "pretraining.objectives.denoising_image_mae": "pretraining.objectives.image.masked_autoencoder",
    "pretraining.objectives.masked_language": "pretraining.objectives.text.masked_language",
    "pretraining.objectives.next_sentence": "pretraining.objectives.text.next_sentence",
    "pretraining.objectives.noising": "pretraining.objectives.text.noises",
    "pretraining.objectives.projector": "pretraining.objectives.heads",
    "pretraining.objectives.simclr": "pretraining.objectives.image.simclr",
    "pretraining.objectives.simclr.StackImages": "pretraining.image.collate.StackImages",
    "pretraining.objectives.supervised.LabelledImages": "pretraining.image.collate.LabelledImages",
    "pretraining.objectives.supervised.SupervisedImages": "pretraining.objectives.image.supervised.SupervisedImages",
    "pretraining.objectives.supervised_text": "pretraining.objectives.text.supervised",
    "pretraining.optim": "pretraining.optim.optimizers",
    "pretraining.preprocess.image": "pretraining.image.preprocess",
    "pretraining.preprocess.sentinels": "pretraining.text.tokenizer_recipes",
    "pretraining.preprocess.text": "pretraining.text.tokenizer",
    "pretraining.preprocess.tokenizer_recipes": "pretraining.text.tokenizer_recipes",
    "pretraining.trainer": "pretraining.engine.trainer",
}
KEYS = {  # of configurations: from their root to the key
    "collate.damage": "collate.corruption",
    "objective.hidden_share": "objective.mask_ratio",
    "trainer.recompute": "trainer.activation_checkpointing",
    "task.align": "task.inputs.align",
    "task.max_tokens": "task.inputs.max_tokens",
    "task.overlap": "task.inputs.overlap",
    "task.writing.label_smoothing": "task.label_smoothing",
    "task.writing": "task.inputs",  # what is left of it
}
_INPUTS = {
    "generation.Generation": "text_pairs.TextPairInputs",
    "image_classification.ImageClassification": "image.ImageInputs",
    "question_answering.QuestionAnswering": "windows.WindowInputs",
    "tagging.Tagging": "words.WordInputs",
    "text_classification.TextClassification": "text.TextInputs",
    "text_multi_label.TextMultiLabel": "text.TextInputs",
    "text_regression.TextRegression": "text.TextInputs",
}
_TOP: dict[str, dict[str, Any]] = {
    "image_classification.ImageClassification": {"top": 5},
    "text_classification.TextClassification": {"top": None},
}
SETTINGS = {  # of classes, by their names then, which had no such settings yet
    f"finetuning.tasks.{task}": {"inputs": {"_target_": f"finetuning.inputs.{inputs}"}, **_TOP.get(task, {})}
    for task, inputs in _INPUTS.items()
}


def current_name(target: str) -> str:
    """Name a class by the place where it is now."""
    module, _, name = target.rpartition(".")
    return MODULES.get(target) or f"{MODULES.get(module, module)}.{name}"


def current(tree: Any) -> Any:
    """Bring a tree of plain containers up to date: the classes that it names, their settings, and its keys."""
    fresh = _with_current_classes(tree)
    for old, new in KEYS.items():
        _move(fresh, old.split("."), new.split("."))
    return fresh


def _with_current_classes(tree: Any) -> Any:
    if isinstance(tree, dict):
        known = {**SETTINGS.get(tree.get("_target_", ""), {}), **tree}
        fresh = {key: _with_current_classes(part) for key, part in known.items()}
        return fresh | ({"_target_": current_name(tree["_target_"])} if "_target_" in tree else {})
    return [_with_current_classes(part) for part in tree] if isinstance(tree, list) else tree


def _move(tree: Any, old: list[str], new: list[str]) -> None:
    """Move what is at the path `old`, if anything is, to the path `new`, into what is there already."""
    place = tree
    for key in old[:-1]:
        place = place.get(key) if isinstance(place, dict) else None
    if not isinstance(place, dict) or old[-1] not in place:
        return
    value = place.pop(old[-1])
    if value == {}:  # all that was in it has moved already
        return
    for key in new[:-1]:
        tree = tree.setdefault(key, {})
    there = tree.get(new[-1])
    tree[new[-1]] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value


def current_overrides(overrides: Sequence[str]) -> list[str]:
    """Bring what was typed up to date, and say so."""
    found = []
    for override in overrides:
        sign, key, rest = re.match(r"([+~]*)([\w.]*)(.*)", override, re.DOTALL).groups()  # type: ignore[union-attr]
        old = next((old for old in KEYS if key == old or key.startswith(f"{old}.")), None)
        if old is not None:
            _warn(old)
            key = KEYS[old] + key.removeprefix(old)
        found.append(f"{sign}{key}{rest}")
    return found


@functools.cache
def _warn(old: str) -> None:
    print(f"{old} is called {KEYS[old]} now: the next release will know no other name", file=sys.stderr)
