"""Classes that are told by their names alone, through the text network of a hand-off of pairs.

Shapes: N examples, C classes, D width of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Splits
from finetuning.inputs.base import Inputs
from finetuning.labels import collect_classes
from finetuning.task import TaskParts
from finetuning.tasks.classification import Classification
from pretraining.data.files import say
from pretraining.errors import RunError
from pretraining.pairs.space import Space


class ZeroShot(Classification):
    """The class whose texts are most similar. Nothing is learnt (mode=as_is), or it is where training starts from.

    `templates` make a class's texts of its name, of every class or {NAME: of that class}; `default_templates` are those
    of a class without its own. `names` are those of the classes in order, where the data's own are no words.
    """

    reads_layers = False
    given_head = True

    def __init__(
        self, parts: TaskParts, *, inputs: Inputs, select: str, top: int | None = None,
        templates: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        default_templates: Sequence[str] = ("{}",), names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parts, inputs=inputs, select=select, dropout=0.0, class_weights=None, top=top)
        words = list(names or self.classes.names)
        if len(words) != self.classes.size:
            told = f"got task.names of {len(words)} classes, but the data has {self.classes.size}"
            raise RunError(f"{told} ({', '.join(self.classes.names[:8])}): give one name for each, in this order")
        twice = next((word for number, word in enumerate(words) if word in words[:number]), None)
        if twice is not None:
            raise RunError(f"got the class name {twice!r} twice: give each class its own in task.names")
        self.head = self._head(parts, texts_of(words, templates, default_templates))

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect the classes of all splits: one that has a name needs no example to learn from."""
        return collect_classes(splits, everywhere=True)

    def _head(self, parts: TaskParts, texts: Sequence[Sequence[str]]) -> NamedClasses:
        if parts.head is not None:  # of a finished run: whoever loads it puts the values in
            biased, classes = "projection.bias" in parts.head, parts.head["classes"]
            return NamedClasses(nn.Linear(self.backbone.dim, classes.shape[1], bias=biased), classes, 1.0, 0.0)
        space = Space.read(parts.handoff)
        self._tell_alike(space, texts)
        return NamedClasses(space.projection, space.classes(texts), space.scale, space.shift)

    def _tell_alike(self, space: Space, texts: Sequence[Sequence[str]]) -> None:
        """Say which classes have texts that the network reads alike."""
        numbers = space.identify([text for own in texts for text in own])
        ends = np.cumsum([len(own) for own in texts])
        read = [tuple(part.tolist()) for part in np.split(np.array(numbers), ends[:-1])]
        alike = [name for name, own in zip(self.classes.names, read, strict=True) if read.count(own) > 1]
        if alike:
            named = ", ".join(alike[:8]) + " ..." * (len(alike) > 8)
            told = f"{len(alike)} classes have texts that the network cannot tell from another's ({named})"
            say(f"{told}: give others in task.names or task.templates")


def texts_of(
    names: Sequence[str], templates: Sequence[str] | Mapping[str, Sequence[str]] | None, default: Sequence[str]
) -> list[list[str]]:
    """List what is said of each class: its own templates, or else the default ones, with its name for their {}.

    What is given of one class needs no {}. A class that is not among the `names` is an error.
    """
    own = {str(name): texts for name, texts in templates.items()} if isinstance(templates, Mapping) else {}
    unknown = [repr(name) for name in own if name not in names]
    if unknown:
        there = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise RunError(f"got task.templates for {', '.join(unknown)}, but the classes are {there}: name some of these")
    shared = default if templates is None or own else templates
    allowed = [(text, (1,)) for text in shared] + [(text, (0, 1)) for texts in own.values() for text in texts]
    odd = next((text for text, counts in allowed if text.count("{}") not in counts), None)
    if odd is not None:
        raise RunError(f"got task.templates with {odd!r}: give texts with {{}} where the class's name goes")
    return [[text.replace("{}", name) for text in own.get(name, shared)] for name in names]


class NamedClasses(nn.Module):
    """Scaled cosines between projected vectors and a vector for each class."""

    def __init__(self, projection: nn.Linear, classes: Tensor, scale: float, shift: float) -> None:
        super().__init__()
        self.projection = projection.requires_grad_(True)
        self.classes = nn.Parameter(classes.clone())
        self.log_scale, self.shift = nn.Parameter(torch.tensor([math.log(scale)])), nn.Parameter(torch.tensor([shift]))

    def forward(self, vectors: Tensor) -> Tensor:
        """Score the classes. [N, C]"""
        own = F.normalize(self.projection(vectors).float(), dim=-1)
        return self.log_scale.exp() * (own @ F.normalize(self.classes, dim=-1).T) + self.shift
