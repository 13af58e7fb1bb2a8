"""Views of uint8 images on a CPU, by the C code of views.c; tensor operations do the same, several times slower."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from pretraining.image.augment.settings import Blur, Crop, Output
from pretraining.kernels import compile

INPUTS = {
    **dict.fromkeys(("boxes", "order"), torch.int64),
    **dict.fromkeys(("factors", "sigma"), torch.float32),
    **dict.fromkeys(("flip", "greyscale", "blur", "solarise"), torch.bool),
    **dict.fromkeys(("mean", "std"), torch.float32),
}


class Batch(ctypes.Structure):
    """The struct of the same name in views.c."""

    _fields_ = (
        *compile.fields(("images",), ("batch", "channels", "height", "width", "rows", "size", "bicubic", "taps")),
        *compile.fields((*INPUTS, "out"), ("bfloat16", "channels_last", "following", "failed")),
    )


def library() -> ctypes.CDLL | None:
    """Load the C code, or None where it cannot be compiled, which is said once."""
    return compile.library(Path(__file__).with_name("views.c"), otherwise="views are made by tensor operations")


def compute(
    code: ctypes.CDLL, images: Tensor, drawn: dict[str, Tensor], out: Tensor, crop: Crop, blur: Blur, output: Output
) -> Tensor:
    """Fill `out` [N, C, S, S] with the views of uint8 `images` [B, C, H, W] that `drawn` describes, on torch's threads.

    Raises ValueError where a box is empty or leaves its image, and MemoryError where a thread finds no room for a view.
    """
    images, rows, channels = images.contiguous(), len(out), images.shape[1]
    inputs = drawn | {name: torch.tensor(getattr(output, name)).expand(channels) for name in ("mean", "std")}
    held = [inputs[name].to(dtype).contiguous() for name, dtype in INPUTS.items()]
    _check(drawn["boxes"], drawn["order"], images.shape[2:])
    batch = Batch(
        images.data_ptr(), *images.shape, rows, crop.size, crop.interpolation == "bicubic", blur.kernel_size,
        *(part.data_ptr() for part in held), out.data_ptr(), out.dtype == torch.bfloat16, output.channels_last, 0, 0,
    )  # fmt: skip
    compile.in_threads(code.compute_views, batch, most=rows)
    return out


def _check(boxes: Tensor, order: Tensor, extent: torch.Size) -> None:
    """Compiled code reads where it is told."""
    corner, sides = boxes[:, :2], boxes[:, 2:]
    inside = (corner >= 0) & (sides >= 1) & (corner + sides <= torch.tensor(extent))
    if not bool(inside.all()):
        what = f"the crop (top, left, height, width) {boxes[~inside.all(1)][0].tolist()} is empty or leaves its image"
        raise ValueError(f"{what} of {extent[0]} x {extent[1]} pixels")
    if not bool(((order >= 0) & (order < 4)).all()):
        raise ValueError("the order of colour operations must hold 0, 1, 2 and 3")
