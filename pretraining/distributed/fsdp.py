"""Fully sharded data parallelism (FSDP2): each rank keeps its share of every weight, gradient and optimizer state.

The layers of the backbone are gathered one at a time, the rest (embeddings, heads) with the module itself; that is why
everything that touches weights goes through the module's `forward`. Checkpoints are those of any other strategy, with
whole tensors, written by rank 0: they load under any number of ranks and any strategy.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from pretraining.distributed.collectives import placed_like, rank, whole


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's FSDP2 over all ranks of all nodes; the module shards itself in `configure_model`."""

    def __init__(self, *, backend: str, timeout: datetime.timedelta) -> None:
        super().__init__(save_distributed_checkpoint=False, process_group_backend=backend, timeout=timeout)

    def setup_environment(self) -> None:
        """Set the sizes of Lightning's mesh: every rank has a share of the data."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Hold the exchange of gradients back in the backward inside."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    # -- checkpoints: Lightning numbers optimizer states by the model's order, and loads no other strategy's -----------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Leave the order of restoring to Lightning, as other strategies do."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the weights tensor by tensor (every rank takes part); only rank 0 keeps them."""
        assert self.model is not None
        return _gathered(self.model.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take this rank's share of whole weights."""
        assert self.model is not None
        mine, whole_state = self.model.state_dict(), checkpoint["state_dict"]
        shares = {name: placed_like(whole_state[name], own) for name, own in mine.items() if name in whole_state}
        self.model.load_state_dict({**whole_state, **shares}, strict=strict)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Gather an optimizer's state tensor by tensor (every rank takes part); only rank 0 keeps it."""
        state = optimizer.state_dict()
        return {**state, "state": {number: _gathered(values) for number, values in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take this rank's share of whole optimizer states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            shares = {number: _share(values, parameters[number]) for number, values in state["state"].items()}
            optimizer.load_state_dict({**state, "state": shares})

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the file, on every rank."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)


def _gathered(values: Mapping[str, Any]) -> dict[str, Any]:
    gathered = {name: whole(value).cpu() if isinstance(value, Tensor) else value for name, value in values.items()}
    return gathered if rank() == 0 else {}


def _share(values: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """Shard what has the parameter's shape; counts of steps stay whole."""
    like = {name: value for name, value in values.items() if getattr(value, "shape", None) == parameter.shape}
    return {**values, **{name: placed_like(value, parameter) for name, value in like.items()}}
