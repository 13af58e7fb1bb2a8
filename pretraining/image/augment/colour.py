"""Colour operations on float images in [0, 1], by each image's own parameters, clipped after each as torchvision does.

Shapes: B images, C channels (1 or 3), H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pretraining.image.augment.constants import constant

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey; torchvision's figures
FEW = 8  # images of a chunk, then large and mostly of one kind: each kind by itself; more are blended at once


def on_rows(images: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """Apply `operation(images, *parameters)` where `chosen` [B] is true; may change `images`, as the operation may.

    A CPU visits the chosen images only. On an accelerator their number would have to come back to the host, so all are
    computed.
    """
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], operation(images.clone(), *parameters), images)
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == len(images):
        return operation(images, *parameters)
    if len(rows):
        chosen_images, *chosen_parameters = (part.index_select(0, rows) for part in (images, *parameters))
        put_rows(images, rows, operation(chosen_images, *chosen_parameters))
    return images


def put_rows(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """Write `values` [K, ...] into `rows` [K] of a tensor on the CPU: numpy copies whole rows, torch single numbers."""
    if target.dtype == torch.bfloat16:  # which numpy does not know
        target, values = target.view(torch.int16), values.to(torch.bfloat16).view(torch.int16)
    target.numpy()[rows.numpy()] = values.numpy()


def grey(images: Tensor) -> Tensor:
    """Compute the luminance. [B, C, H, W] -> [B, 1, H, W]."""
    if images.shape[1] == 1:
        return images
    batch, _, height, width = images.shape
    weights = constant([LUMA], images.device).to(images.dtype).expand(batch, 1, 3)
    return torch.bmm(weights, images.reshape(batch, 3, -1)).view(batch, 1, height, width)


def greyscale(images: Tensor) -> Tensor:
    """Replace every channel by the luminance."""
    return grey(images).expand_as(images).contiguous()


def mean_grey(images: Tensor) -> Tensor:
    """Compute the mean luminance. [B, C, H, W] -> [B, 1, 1, 1]."""
    means = images.mean((2, 3))
    if images.shape[1] == 3:
        means = means @ constant(LUMA, images.device).to(images.dtype)[:, None]
    return means[:, :, None, None]


def brighten(images: Tensor, factor: Tensor) -> Tensor:
    """Move each image away from black by `factor` [B, 1, 1, 1], and clip; in place, like the next two."""
    return images.mul_(factor).clamp_(0.0, 1.0)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move each image away from its mean luminance."""
    reference = mean_grey(images).mul_(1.0 - factor)
    return images.mul_(factor).add_(reference).clamp_(0.0, 1.0)


def saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Move each pixel away from its own luminance."""
    reference = grey(images) * (1.0 - factor)
    return images.mul_(factor).add_(reference).clamp_(0.0, 1.0)


def blend(images: Tensor, factor: Tensor, kind: Tensor) -> Tensor:
    """Move each image away from black, its mean luminance or its own luminance, by `factor`, and clip; in place.

    `kind` [B]: BRIGHTNESS, CONTRAST or SATURATION. `factor` [B]: 1 changes nothing, 0 leaves only the reference.
    """
    spread = factor[:, None, None, None]
    if images.device.type == "cpu" and len(images) <= FEW:
        for which, operation in ((BRIGHTNESS, brighten), (CONTRAST, contrast), (SATURATION, saturate)):
            images = on_rows(images, (kind == which) & (factor != 1.0), operation, spread)
        return images
    # All three at once: fewer passes than three of which one counts.
    kind, rest = kind[:, None, None, None], 1.0 - spread
    mean = mean_grey(images).mul_(rest * (kind == CONTRAST))
    reference = (grey(images) * (rest * (kind == SATURATION))).add_(mean)
    return images.mul_(spread).add_(reference).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` [B] of the colour circle, in [-1/2, 1/2], keeping HSV value and saturation; in place.

    Count the hue w in sixths of the circle from red, in [-3, 3]. With each channel scaled to [0, 1] between smallest
    and largest, |w| = 1 - red + green + blue, and w has the sign of green - blue. Back again, a channel is value -
    chroma * ramp, with the ramps |w| - 1, 2 - |w + 1| and 2 - |w - 1| of red, green and blue clipped to [0, 1]. Cases
    are not told apart: that is slow everywhere.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    side = green - blue
    hue = (green + blue).sub_(red).sub_(least).div_(least.copy_(chroma).clamp_(min=1e-20)).add_(1.0).copysign_(side)
    hue.add_(6.0 * shift[:, None, None])
    hue.sub_(torch.mul(hue, 1.0 / 6.0, out=side).round_().mul_(6.0))
    torch.sub(value, torch.abs(hue, out=side).sub_(1.0).clamp_(0.0, 1.0).mul_(chroma), out=red)
    torch.add(value, torch.add(hue, 1.0, out=side).abs_().sub_(2.0).clamp_(-1.0, 0.0).mul_(chroma), out=green)
    torch.add(value, hue.sub_(1.0).abs_().sub_(2.0).clamp_(-1.0, 0.0).mul_(chroma), out=blue)
    return images


def colour_jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue, each image in its own order; in place.

    `factors` [B, 4] in that order (1, 1, 1 and 0 change nothing); `order` int64 [B, 4] lists the operations as they are
    applied. The three blends of an image share three passes over the batch; hue steps in between at its turn.
    """
    hue_turn = (order == HUE).int().argmax(1)
    for turn in range(4):
        due = (hue_turn == turn) & (factors[:, HUE] != 0.0)
        images = on_rows(images, due, adjust_hue, factors[:, HUE])
        if turn < 3:
            kind = order.gather(1, (turn + (hue_turn <= turn).long())[:, None])
            images = blend(images, factors.gather(1, kind)[:, 0], kind[:, 0])
    return images


def solarise(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Invert the values at or above `threshold`."""
    return torch.where(images >= threshold, 1.0 - images, images)
