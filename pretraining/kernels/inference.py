"""Operations without gradients that do at once what training does in several.

Shapes: N tokens, D width, E width of what a linear layer makes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def is_inference() -> bool:
    """Tell whether nothing will be differentiated: in torch's inference mode, and not while code is compiled."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


def activated(layer: nn.Linear, activation: Any, stream: Tensor) -> Tensor:
    """Compute activation(layer(stream)), [N, D] -> [N, E]: in bf16 on CPUs a GELU (by erf) inside of the product."""
    exact = getattr(activation, "act", activation) is F.gelu  # transformers wraps it
    if (
        exact
        and is_inference()
        and stream.device.type == "cpu"
        and stream.dtype == layer.weight.dtype == torch.bfloat16
    ):
        return torch.ops.mkldnn._linear_pointwise(stream, layer.weight, layer.bias, "gelu", [], "none")
    return activation(layer(stream))
