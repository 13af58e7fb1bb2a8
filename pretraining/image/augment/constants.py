"""Small tensors that are the same in each call: made once per device, since each copy makes the host wait."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def constant(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Put numbers (or rows of them) into a tensor on `device`. It is shared: never change it in place."""
    return _made(tuple(tuple(part) if isinstance(part, list | tuple) else part for part in values), device, dtype)


@functools.lru_cache(maxsize=256)
def _made(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)
