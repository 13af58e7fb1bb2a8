"""What earlier releases called it: configurations, hand-offs and command lines of before keep working for one release."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MODULES = {  # of classes that a configuration or a hand-off may name
    "finetuning.data.builtin": "finetuning.data.docs_topic",
    "finetuning.decoding": "finetuning.tasks.decoding",
    "finetuning.tasks.text_multi_label": "finetuning.tasks.multi_label",
    "finetuning.tasks.text_regression": "finetuning.tasks.regression",
    "finetuning.writing": "finetuning.inputs.text_pairs",
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
    "pretraining.preprocess.sentinels": "pretraining.text.sentinels",
    "pretraining.preprocess.text": "pretraining.text.tokenizer",
    "pretraining.preprocess.tokenizer_recipes": "pretraining.text.tokenizer_recipes",
    "pretraining.trainer": "pretraining.engine.trainer",
}
KEYS = {  # of configurations: from their root to the key
    "objective.hidden_share": "objective.mask_ratio",
}


def current_name(target: str) -> str:
    """Name a class by the place where it is now."""
    module, _, name = target.rpartition(".")
    return MODULES.get(target) or f"{MODULES.get(module, module)}.{name}"


def former_name(target: str) -> str:
    """Name a class by the place where an earlier release had it."""
    module, _, name = target.rpartition(".")
    before = {new: old for old, new in MODULES.items()}
    return before.get(target) or f"{before.get(module, module)}.{name}"


def current(tree: Any) -> Any:
    """Bring a tree of plain containers up to date: the classes that it names, and its keys."""
    return _renamed(tree, current_name, KEYS)


def former(tree: Any) -> Any:
    """Name classes and keys of a tree as an earlier release did: what is hashed stays the same when they move."""
    return _renamed(tree, former_name, {new: old for old, new in KEYS.items()})


def _renamed(tree: Any, class_name: Callable[[str], str], keys: Mapping[str, str], prefix: str = "") -> Any:
    if isinstance(tree, dict):
        fresh = {}
        for key, part in tree.items():
            name = keys.get(f"{prefix}{key}", f"{prefix}{key}").removeprefix(prefix)
            target = key == "_target_"
            fresh[name] = class_name(part) if target else _renamed(part, class_name, keys, f"{prefix}{key}.")
        return fresh
    return [_renamed(part, class_name, keys, prefix) for part in tree] if isinstance(tree, list) else tree


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
