"""Random views of a batch of images: parameters from keys, then one pass of batched operations.

On a CPU that is compiled code where a compiler is at hand (compiled.py); everywhere else, and equal to rounding, tensor
operations.

Shapes: B images, V views, N = V * B rows (view after view), C channels, H height, W width, S size of a view.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pretraining.engine.memory import keep_freed_memory
from pretraining.errors import RunError
from pretraining.image.augment.colour import HUE, colour_jitter, greyscale, on_rows, put_rows, solarise
from pretraining.image.augment.compiled import compute, library
from pretraining.image.augment.constants import constant
from pretraining.image.augment.draws import CROP_NUMBERS, between, crop_boxes, draw, orders
from pretraining.image.augment.geometry import check_reach, crop_bands, gaussian_blur, resize
from pretraining.image.augment.resampling import Band
from pretraining.image.augment.settings import Blur, Crop, Jitter, Output, Probability
from pretraining.random import Keys

CHUNK_BYTES = 1 << 21  # of float images that a CPU works on at once, so that they stay in its cache
BAND_ROWS = 64  # whose resampling weights are made at once: many operations on few numbers
Implementation = Literal["auto", "tensors", "compiled"]
SLOTS = {
    **{"crop.shape": CROP_NUMBERS, "crop.place": 2, "flip": 1, "jitter": 1, "jitter.factors": 4, "jitter.order": 1},
    **{"greyscale": 1, "blur": 1, "blur.sigma": 1, "solarise": 1},
}


class Parameters(NamedTuple):
    """Everything that distinguishes one row from another."""

    boxes: Tensor  # int64 [N, 4]: top, left, height, width
    flip: Tensor  # bool [N]
    factors: Tensor  # float32 [N, 4]: brightness, contrast, saturation, hue
    order: Tensor  # int64 [N, 4]: the four, in the order of their application
    greyscale: Tensor  # bool [N]
    blur: Tensor  # bool [N]
    sigma: Tensor  # float32 [N]
    solarise: Tensor  # bool [N]

    def rows(self, chosen: slice | Tensor) -> Parameters:
        """Select the parameters of some rows."""
        return Parameters(*(part[chosen] for part in self))

    def by_operations(self) -> Tensor:
        """Order the rows so that neighbours have the same operations in the same order, and like blurs. int64 [N]"""
        untouched = (self.factors[:, :HUE] == 1.0).all(1) & (self.factors[:, HUE] == 0.0)
        digits = constant([64, 16, 4, 1], self.order.device, torch.int64)
        place = torch.where(untouched, 0, (self.order * digits).sum(1) * 4) + self.greyscale * 2 + self.blur
        return (place + (self.sigma / (1.0 + self.sigma)).double()).argsort()


@dataclass(kw_only=True, eq=False)
class Views:
    """Draws and computes `count` views per image: crop, jitter, greyscale, blur, solarise, normalise, in this order.

    A view depends on the image and on (seed, stream, epoch, index, view), not on the batch it is computed in.
    Probabilities are per view or for all. `impl=compiled` is C code for uint8 images on a CPU and needs a compiler
    (ValueError where there is none), `tensors` runs everywhere; `auto` takes the first where it can.
    """

    count: int = 2
    crop: Crop
    jitter: Jitter = field(default_factory=Jitter)
    greyscale: Probability = 0.2
    blur: Blur = field(default_factory=Blur)
    solarise: Probability = 0.0
    output: Output
    impl: Implementation = "auto"

    def __post_init__(self) -> None:
        if self.impl not in get_args(Implementation):
            raise ValueError(f"augment.impl={self.impl}: choose one of {', '.join(get_args(Implementation))}")
        if self.impl == "compiled" and library() is None:
            cure = "see above, or use augment.impl=auto"
            raise ValueError(f"augment.impl=compiled needs a C compiler, and none worked: {cure}")
        probabilities = {"flip": self.crop.flip, "jitter": self.jitter.probability, "blur": self.blur.probability}
        probabilities |= {"greyscale": self.greyscale, "solarise": self.solarise}
        self.probabilities = {slot: self._per_view(slot, value) for slot, value in probabilities.items()}
        if any(self.probabilities["blur"]):
            check_reach(self.blur.kernel_size, self.crop.size, self.crop.size)

    def _per_view(self, slot: str, probability: Probability) -> list[float]:
        values = list(probability) if isinstance(probability, list | tuple) else [float(probability)] * self.count
        if len(values) != self.count or not all(0.0 <= value <= 1.0 for value in values):
            cure = f"give one number from 0 to 1, or a list of {self.count} (one per view)"
            raise ValueError(f"the probability of {slot} is {probability}: {cure}")
        return values

    def __call__(self, images: Tensor, keys: Keys, view: int | None = None) -> Tensor:
        """Make one view of uint8 images [B, C, H, W]: float [B, C, S, S]; or all: [V * B, C, S, S], view after view."""
        views = range(self.count) if view is None else range(view, view + 1)
        return self.apply(images, self.parameters(keys, views, (images.shape[2], images.shape[3])))

    def parameters(self, keys: Keys, views: range, extent: tuple[int, int]) -> Parameters:
        """Draw the parameters of `views` of images of `extent` (height, width), on the keys' device."""
        drawn = draw(keys, SLOTS, views)
        device, batch = drawn["flip"].device, len(keys.index)
        happens = {}
        for slot, values in self.probabilities.items():
            chance = constant([values[view] for view in views], device)
            happens[slot] = (drawn[slot].view(-1, batch) < chance[:, None]).flatten()
        jitter = self.jitter
        strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
        low = constant([*(max(0.0, 1.0 - strength) for strength in strengths), -jitter.hue], device)
        high = constant([*(1.0 + strength for strength in strengths), jitter.hue], device)
        factors = low + (high - low) * drawn["jitter.factors"]
        unchanged = constant([1.0, 1.0, 1.0, 0.0], device)
        shares = {"area": self.crop.area, "aspect": self.crop.aspect}
        return Parameters(
            boxes=crop_boxes(drawn["crop.shape"], drawn["crop.place"], extent, **shares),
            flip=happens["flip"],
            factors=torch.where(happens["jitter"][:, None], factors, unchanged),
            order=orders(drawn["jitter.order"]),
            greyscale=happens["greyscale"],
            blur=happens["blur"],
            sigma=between(drawn["blur.sigma"][:, 0], *self.blur.sigma),
            solarise=happens["solarise"],
        )

    @torch.no_grad()
    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Compute the rows that `parameters` describes; row r is a view of image r modulo B."""
        batch, channels = images.shape[:2]
        for name, numbers in (("mean", self.output.mean), ("std", self.output.std)):
            if len(numbers) not in (1, channels):
                what = f"augment.output.{name} has {len(numbers)} numbers for images of {channels} channel(s)"
                raise RunError(f"{what}: give one per channel, as preprocess.{name} has")
        rows, size = len(parameters.flip), self.crop.size
        order = torch.channels_last if self.output.channels_last else torch.contiguous_format
        options = {"dtype": getattr(torch, self.output.dtype), "device": images.device, "memory_format": order}
        views = torch.empty((rows, channels, size, size), **options)
        with torch.autocast(images.device.type, enabled=False):
            if images.device.type != "cpu":
                crops = resize(images.repeat(rows // batch, 1, 1, 1), *self._bands(images, parameters))
                return views.copy_(self._coloured(crops, parameters))
            code = None if self.impl == "tensors" or images.dtype != torch.uint8 else library()
            if code is not None:
                return compute(code, images, parameters._asdict(), views, self.crop, self.blur, self.output)
            keep_freed_memory()
            chunk = max(1, CHUNK_BYTES // (4 * channels * max(size * size, images.shape[2] * images.shape[3])))
            for rows in parameters.by_operations().split(max(chunk, BAND_ROWS)):
                self._compute(images, rows, parameters.rows(rows), views, chunk)
        return views

    def _compute(self, images: Tensor, rows: Tensor, parameters: Parameters, views: Tensor, chunk: int) -> None:
        """Write `rows` of `views`, `chunk` of them at a time."""
        bands = self._bands(images, parameters)
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            crops = resize(images.index_select(0, rows[part] % len(images)), *(band.some(part) for band in bands))
            put_rows(views, rows[part], self._coloured(crops, parameters.rows(part)))

    def _bands(self, images: Tensor, parameters: Parameters) -> tuple[Band, Band]:
        size, extent = (self.crop.size, self.crop.size), (images.shape[2], images.shape[3])
        scale, kind = 1.0 / 255.0 if images.dtype == torch.uint8 else 1.0, self.crop.interpolation
        return crop_bands(parameters.boxes, extent, size, flip=parameters.flip, interpolation=kind, scale=scale)

    def _coloured(self, views: Tensor, parameters: Parameters) -> Tensor:
        """Apply every operation after the crop, each with the parameters of its row."""
        if any(self.probabilities["jitter"]):
            views = colour_jitter(views, parameters.factors, parameters.order)
        if any(self.probabilities["greyscale"]) and views.shape[1] > 1:
            views = on_rows(views, parameters.greyscale, greyscale)
        if any(self.probabilities["blur"]):
            blurred = functools.partial(gaussian_blur, kernel_size=self.blur.kernel_size)
            views = on_rows(views, parameters.blur, blurred, parameters.sigma)
        if any(self.probabilities["solarise"]):
            views = on_rows(views, parameters.solarise, solarise)
        mean, std = (constant(part, views.device)[:, None, None] for part in (self.output.mean, self.output.std))
        return views.sub_(mean).mul_(1.0 / std)


def require_views(views: Views | None) -> Views:
    """Return the views of an objective; without any it is an error."""
    if not isinstance(views, Views):
        raise ValueError("this objective learns from views of images, but there are none: choose some with augment=")
    return views
