"""Cross-entropy over a vocabulary from hidden states: the scores exist once, in the precision they are computed in.

Shapes: K predictions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100  # of predictions that count for nothing
_ROWS_ON_CPU = 64  # at once: their scores stay in a core's cache between the product and the softmax
_SCORES_AT_ONCE = 2**27  # elsewhere: what is held in single precision beside the scores themselves


def vocabulary_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    """Sum -log softmax(hidden @ weight.T + bias)[label] over predictions but `NO_LABEL` entries. [], at least fp32.

    `hidden` [K, D], `weight` [V, D], `bias` [V], `labels` int64 [K]. Products are computed as autocast would; the
    softmax is not rounded. Its derivative takes the place of the scores, so that neither they nor their gradient are
    ever copied.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _CrossEntropy.apply(hidden.to(dtype), weight.to(dtype), bias.to(dtype), labels)  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
        counted = labels != NO_LABEL
        wanted = torch.where(counted, labels, 0)[:, None]
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        found = hidden.new_empty(len(hidden), len(weight))
        total = hidden.new_zeros((), dtype=exact)
        size = _ROWS_ON_CPU if hidden.device.type == "cpu" else max(_SCORES_AT_ONCE // len(weight), 1)
        for first in range(0, len(hidden), size):
            here = slice(first, first + size)
            scores = torch.addmm(bias, hidden[here], weight.t(), out=found[here])
            logs = torch.log_softmax(scores, 1, dtype=exact)
            total -= (logs.gather(1, wanted[here])[:, 0] * counted[here]).sum()
            if any(ctx.needs_input_grad):
                minus = logs.new_full((1, 1), -1.0).expand(len(logs), 1)
                scores.copy_(logs.exp_().scatter_add_(1, wanted[here], minus))
        ctx.save_for_backward(hidden, weight, found, counted)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden, weight, found, counted = ctx.saved_tensors
        scale = (counted * gradient).to(hidden.dtype)[:, None]
        return (found @ weight) * scale, found.t() @ (hidden * scale), (found.t() @ scale)[:, 0], None
