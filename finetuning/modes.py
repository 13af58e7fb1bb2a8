"""How a pretrained backbone is transferred: what of it trains, at which rates, or what is fitted to its vectors.

A frozen part takes no gradient and no optimizer memory, and stays in evaluation mode: its norm statistics do not move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from finetuning.layers import LAST
from pretraining.backbones.base import Backbone
from pretraining.distributed.collectives import world_size
from pretraining.errors import RunError
from pretraining.optim.optimizers import ParameterGroup, split_by_decay
from pretraining.settings import check_fields


class Mode:
    """A way of transferring. By default everything trains at one rate. The fields of a subclass are its settings."""

    layer_decay: float | None = None  # each block's rate over that of the block after it; None: all have one rate
    frozen = False  # the backbone never changes
    cache = False  # its vectors are computed once, where the task's head reads single ones
    closed_form = False  # the head is fitted to them as a whole, not trained step by step
    trains = True  # anything at all
    layers: Any = LAST  # of the backbone that the head reads, see `Layers`

    def __post_init__(self) -> None:
        check_fields(self, "mode")

    def begin(self, backbone: Backbone) -> None:
        """Decide what trains, before the optimizer is built."""

    def advance(self, backbone: Backbone, step: int, max_steps: int) -> bool:
        """Decide what trains from this step on; returns whether anything changed."""
        return False

    def finish(self, backbone: Backbone) -> None:
        """Leave a plain backbone behind, ready to be saved."""

    def groups(self, backbone: Backbone, head: nn.Module) -> list[ParameterGroup]:
        """Group everything that trains at some time in the run."""
        if self.layer_decay is None:
            return split_by_decay([*named(backbone, "backbone"), *named(head, "head")])
        return layer_groups(backbone, head, self.layer_decay)


@dataclass(kw_only=True)
class Full(Mode):
    """All trains, the head alone for `head_steps`; block i of n (0: input) at `layer_decay` ** (n - i) of its rate."""

    layer_decay: float = 1.0
    head_steps: int = 0
    released: bool = field(default=True, init=False)

    def begin(self, backbone: Backbone) -> None:
        """Note what the backbone itself lets train (a pooler that nothing reads stays out)."""
        self.trainable = [parameter for parameter in backbone.parameters() if parameter.requires_grad]

    def advance(self, backbone: Backbone, step: int, max_steps: int) -> bool:
        """Release the backbone after the head's own steps."""
        release = step >= self.head_steps
        if release == self.released:
            return False
        refuse_ranks("mode.head_steps")
        for parameter in self.trainable:
            parameter.requires_grad_(release)
        self.released = release
        return True


@dataclass(kw_only=True)
class Frozen(Mode):
    """Feature extraction: only the head trains; with `cache`, on vectors that are computed once.

    `layers` says which it reads: last, all, weighted (learnt), best (on validation), or their numbers.
    """

    frozen = True
    cache: bool = True
    layers: Any = LAST

    def begin(self, backbone: Backbone) -> None:
        """Freeze all."""
        backbone.requires_grad_(False)


@dataclass(kw_only=True)
class AsIs(Frozen):
    """Nothing trains: what the hand-off says already is measured."""

    trains = False
    cache: bool = field(default=False, init=False)
    layers: Any = field(default=LAST, init=False)


@dataclass(kw_only=True)
class LinearProbe(Frozen):
    """Logistic (or ridge) regression on vectors, scaled if `standardize`; validation chooses the L2 of `penalties`."""

    closed_form = True
    cache: bool = field(default=True, init=False)
    penalties: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01, 0.1, 1])
    standardize: bool = True


@dataclass(kw_only=True)
class NearestNeighbours(Frozen):
    """The classes of the `k` training vectors nearest by cosine, each with weight exp(similarity / temperature)."""

    closed_form = True
    cache: bool = field(default=True, init=False)
    k: int = 20
    temperature: float = 0.07


@dataclass(kw_only=True)
class Partial(Full):
    """Embeddings (or stem) and the first `frozen_blocks` blocks after them stay as they are; the rest as in `Full`."""

    frozen_blocks: int = 1

    def begin(self, backbone: Backbone) -> None:
        """Freeze the first blocks, and note what trains."""
        blocks = trainable_blocks(backbone)
        if not 0 <= self.frozen_blocks < len(blocks):
            has = f"but the backbone has {len(blocks) - 1} blocks after its embeddings"
            raise RunError(f"got mode.frozen_blocks={self.frozen_blocks}, {has}: give 0 to {len(blocks) - 1}")
        later = {id(parameter) for block in blocks[self.frozen_blocks + 1 :] for parameter in block.parameters()}
        # An encoder–decoder's embeddings are no module apart from its layers.
        for block in blocks[: self.frozen_blocks + 1]:
            for parameter in block.parameters():
                parameter.requires_grad_(parameter.requires_grad and id(parameter) in later)
        super().begin(backbone)


@dataclass(kw_only=True)
class GradualUnfreezing(Mode):
    """The head trains first; blocks join from the top, over the first `share` of the run (Howard & Ruder 2018)."""

    share: float = 0.5
    layer_decay: float = 0.8
    least: int = field(default=0, init=False)  # of the blocks train from the first step on

    def groups(self, backbone: Backbone, head: nn.Module) -> list[ParameterGroup]:
        """Group by block; a block without gradient takes no step and no optimizer state yet."""
        self.least = 0 if any(True for _ in head.parameters()) else 1  # something must train from the first step on
        return super().groups(backbone, head)

    def begin(self, backbone: Backbone) -> None:
        """Note each block's parameters, as far as the backbone itself lets them train."""
        every = [block.parameters() for block in trainable_blocks(backbone)]
        self.blocks = [[parameter for parameter in block if parameter.requires_grad] for block in every]

    def advance(self, backbone: Backbone, step: int, max_steps: int) -> bool:
        """Release as many blocks as this step has earned."""
        refuse_ranks("mode=gradual_unfreezing")
        free, before = self._released(step, max_steps), self._released(step - 1, max_steps) if step else -1
        for place, parameters in enumerate(self.blocks):
            for parameter in parameters:
                parameter.requires_grad_(place >= len(self.blocks) - free)
        return free != before

    def _released(self, step: int, max_steps: int) -> int:
        count = len(self.blocks)
        return min(count, max(self.least, math.floor(step / max(1, round(self.share * max_steps)) * (count + 1))))


@dataclass(kw_only=True)
class Lora(Mode):
    """Low-rank updates (Hu et al. 2021): each chosen matrix W becomes W + scale * B A with B, A of `rank`; W is frozen.

    At the end they are merged. `targets` are ends of module names; empty means every linear layer.
    """

    rank: int = 8
    scale: float = 2.0
    targets: list[str] = field(default_factory=list)

    def begin(self, backbone: Backbone) -> None:
        """Freeze all and put an update on each chosen layer."""
        # A head that is tied to the embeddings stays: merging into it would change them too.
        tied = {id(part.weight) for part in backbone.modules() if isinstance(part, nn.Embedding)}
        linear = {
            name: part
            for name, part in backbone.named_modules()
            if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"  # GPT-2's
        }
        linear = {name: part for name, part in linear.items() if id(part.weight) not in tied}
        chosen = {name: part for name, part in linear.items() if not self.targets or name.endswith(tuple(self.targets))}
        if not chosen:
            there = ", ".join(list(linear)[:6]) or "it has none"
            what = f"got mode.targets={self.targets}, which matches none of the backbone's linear layers"
            raise RunError(f"{what}: {there}")
        backbone.requires_grad_(False)
        for layer in chosen.values():
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight.shape, self.rank, self.scale))

    def finish(self, backbone: Backbone) -> None:
        """Merge the updates into the weights."""
        for layer in list(backbone.modules()):
            if parametrize.is_parametrized(layer, "weight"):
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class LowRank(nn.Module):
    """The update of one matrix, zero at first."""

    def __init__(self, shape: torch.Size, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = shape
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / math.sqrt(columns))
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Add the update. [rows, columns]"""
        return weight + self.scale * (self.up @ self.down)


def named(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    """List the parameters of `module` under the names that they have in its owner."""
    for name, parameter in module.named_parameters():
        yield f"{prefix}.{name}", parameter


def trainable_blocks(backbone: Backbone) -> list[nn.Module]:
    """List the blocks that anything in trains, input first: a pooler that nothing reads is none."""
    return [block for block in backbone.blocks() if any(parameter.requires_grad for parameter in block.parameters())]


def layer_groups(backbone: Backbone, head: nn.Module, decay: float) -> list[ParameterGroup]:
    """Group by rate: the head at 1, the block nearest to it at `decay`, the next at its square, and so on."""
    groups, seen = split_by_decay(named(head, "head")), set()
    blocks = trainable_blocks(backbone)
    for place in reversed(range(len(blocks))):
        block = named(blocks[place], f"backbone.blocks.{place}")
        fresh = [(name, parameter) for name, parameter in block if id(parameter) not in seen]
        seen |= {id(parameter) for _, parameter in fresh}
        groups += split_by_decay(fresh, decay ** (len(blocks) - place))
    return groups


def rest_frozen(backbone: Backbone) -> None:
    """Put every part without trainable parameters into evaluation mode: no dropout, no moving norm statistics."""
    for part in backbone.modules():
        if any(True for _ in part.parameters()) and not any(parameter.requires_grad for parameter in part.parameters()):
            part.eval()


def refuse_ranks(what: str) -> None:
    """Refuse what changes the trainable parameters between steps: data-parallel training fixes them at its start."""
    if world_size() > 1:
        why = f"on {world_size()} ranks, which take one set of trainable parameters"
        raise RunError(f"got {what} {why}: set trainer.devices=1")
