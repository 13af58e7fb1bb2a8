"""What every backbone says, and all that objectives and tasks may know of one.

Shapes: B examples, L positions (tokens, patches or feature-map cells), D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from pretraining.settings import Noted


class Features(NamedTuple):
    """A backbone's answer: a vector per position and one per example."""

    positions: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]
    valid: Tensor | None = None  # bool [B, L]: positions that hold something; None: all of them
    grid: tuple[int, ...] | None = None  # (rows, columns) of cells or patches; None: a sequence
    stages: tuple[Tensor, ...] | None = None  # maps [B, C, H, W] from fine to coarse, where the network has such


class Backbone(Noted, nn.Module, ABC):
    """A network that turns inputs into `Features`. Its arguments are its modality's: a batch's `batch["inputs"]`."""

    modality: ClassVar[Any]  # its `pretraining.modality.Modality`
    dim: int
    kwargs: dict[str, Any]  # plain constructor arguments: `type(self)(**self.kwargs)` is the same architecture

    @property
    def convolves(self) -> bool:
        """Whether there are convolutions over images in it whose gradients in bf16 on CPUs nobody has checked."""
        return any(isinstance(module, nn.Conv2d) for module in self.modules())

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Features:
        """Compute the features of a batch."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """List the parts from input to output, embeddings or stem first; together they hold every parameter."""

    def stack(self) -> list[nn.Module]:
        """List the layers whose outputs may be read one by one (`hidden_layers`), in the order in which they run."""
        return []

    @property
    def layer_widths(self) -> list[int]:
        """List the widths of the vectors of `hidden_layers`."""
        return [self.dim] * (len(self.stack()) + 1)

    def of_layer(self, output: Tensor, last: Features) -> Features:
        """Make features of what a layer of the stack says, pooled as the `last` layer is."""
        raise NotImplementedError

    def hidden_layers(self, **inputs: Any) -> list[Features]:
        """Compute the features of what the stack reads (embeddings, or a stem's) and of each of its layers.

        The last ones are those of `forward`.
        """
        stack, seen = self.stack(), list[Tensor]()

        def read(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(given[0] if given else next(iter(named.values())))

        def note(_: nn.Module, __: Any, output: Any) -> None:
            seen.append(output if isinstance(output, Tensor) else output[0])

        handles = [layer.register_forward_pre_hook(read, with_kwargs=True) for layer in stack[:1]]
        handles += [layer.register_forward_hook(note) for layer in stack]
        try:
            last = self(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        if stack and len(seen) != len(stack) + 1:
            raise ValueError(f"{type(self).__name__} runs its {len(stack)} layers {len(seen) - 1} times: read the last")
        return [*(self.of_layer(output, last) for output in seen[:-1]), last]

    def set_compute(self, *, compiled: bool, activation_checkpointing: bool, sharded: bool) -> None:
        """Set how the network is computed; called once, before training.

        - `compiled`: compile each block.
        - `activation_checkpointing`: keep the blocks' inputs alone, and compute the rest again in the backward pass.
        - `sharded`: say that a weight will be whole only inside the forward pass of its own module.
        """
        if activation_checkpointing:
            what = f"{type(self).__name__} has no activation checkpointing"
            raise ValueError(f"{what}: set trainer.activation_checkpointing=false")
        for block in self.blocks() if compiled else []:
            if not isinstance(block, nn.ModuleList):
                block.compile()

    def begin_step(self, seed: int, step: int) -> None:
        """Draw what a whole optimizer step shares, on each rank and in each micro-batch, such as layers to leave out.

        A function of the seed and the number of steps before this one.
        """

    def take_shortcuts(self, dtype: torch.dtype) -> bool:
        """Compute from now on, without gradients, in the quickest way that says the same to rounding.

        Tells whether weights are now of `dtype`; else autocast sees to it.
        """
        return False

    def take_no_shortcut(self) -> None:
        """Compute from now on all that a formula of operations counts, padding included."""

    @abstractmethod
    def export(self, directory: Path) -> None:
        """Write the weights as model.safetensors under the names that the home library uses, and its config."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Read what `export` wrote; any missing or unexpected weight is an error."""

    def as_transformers(self) -> Any | None:
        """Build, or take, the model of transformers that computes the same, without a head; None where it has none."""
        return None

    @abstractmethod
    def usage(self) -> str:
        """Write the python lines that load exported weights without this package; `DIR` stands for the directory."""
