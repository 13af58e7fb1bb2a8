"""How fast SimCLR's views are made, beside torchvision v2 (single images, tensors and PIL) and kornia (batches).

    python -m experiments.benchmarks.augment --sizes 32 224 --rounds 5

Every side does the same on one thread: uint8 pixels to a random resized crop (bicubic), a flip, colour jitter of
strength 1 (p = 0.8), greyscale (p = 0.2), Gaussian blur (p = 0.5, a tenth of the size) and normalised floats. Before
anything is timed, our chain is compared with torchvision's functions under the same parameters. Rounds alternate
between the sides, and the best round of processor time counts: other work on the machine slows all of them, the ones
that use its caches well the most. `ours` is compiled code where the machine has a C compiler, `ours_tensors` the tensor
operations that run everywhere else. The last line is one JSON object: `ratio_torchvision_SIZE` is our views per second
over those of the faster of torchvision's two ways.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as reference

from experiments.benchmarks.turns import alternate_rates, read_options
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.augment.views import Implementation, Parameters
from pretraining.random import Keys

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ADJUSTMENTS = tuple(getattr(reference, f"adjust_{kind}") for kind in ("brightness", "contrast", "saturation", "hue"))
SECONDS = 1.5  # of processor time per side and round


def kernel_size(size: int) -> int:
    """Compute the blur's taps: a tenth of the size, odd (23 at 224, 3 at 32)."""
    return size // 10 // 2 * 2 + 1


def pictures(count: int, size: int) -> Tensor:
    """Make smooth noise that looks more like photographs than white noise does. uint8 [count, 3, size, size]"""
    coarse = torch.rand(count, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def our_views(size: int, impl: Implementation = "auto") -> Views:
    """Build our chain."""
    crop, jitter, blur = Crop(size=size), Jitter(), Blur(kernel_size=kernel_size(size))
    output = Output(mean=tuple(MEAN), std=tuple(STD), channels_last=False)
    return Views(count=2, crop=crop, jitter=jitter, greyscale=0.2, blur=blur, solarise=0.0, output=output, impl=impl)


def same_by_torchvision(
    image: Tensor, row: Parameters, size: int, *, taps: int, mean: list[float], std: list[float]
) -> Tensor:
    """Apply torchvision's functions to one uint8 image with the parameters of one row of ours."""
    top, left, height, width = row.boxes[0].tolist()
    view = reference.to_dtype(image, torch.float32, scale=True)
    cubic: Any = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
    view = reference.resized_crop(view, top, left, height, width, [size, size], **cubic).clamp(0, 1)
    view = reference.horizontal_flip(view) if row.flip[0] else view
    for kind in row.order[0].tolist():
        view = ADJUSTMENTS[kind](view, row.factors[0, kind].item())
    view = reference.rgb_to_grayscale(view, 3) if row.greyscale[0] and len(image) == 3 else view
    view = reference.gaussian_blur(view, [taps] * 2, [row.sigma[0].item()] * 2) if row.blur[0] else view
    view = reference.solarize(view, 0.5) if row.solarise[0] else view
    return reference.normalize(view, mean, std)


def check_equal(size: int, count: int = 16) -> float:
    """Compare our chain with torchvision's under the same parameters; returns the most standard deviations apart."""
    views, images = our_views(size), pictures(count, size)
    parameters = views.parameters(Keys(1, "train", np.zeros(count, np.int64), np.arange(count)), range(2), (size, size))
    ours, worst = views.apply(images, parameters), 0.0
    for row in range(2 * count):
        one = parameters.rows(slice(row, row + 1))
        theirs = same_by_torchvision(images[row % count], one, size, taps=kernel_size(size), mean=MEAN, std=STD)
        worst = max(worst, (ours[row] - theirs).abs().max().item())
    if worst > 5e-3:
        apart = f"at {size} pixels our views differ from torchvision's by up to {worst}"
        raise SystemExit(f"{apart}: there is no point in timing them")
    return worst


def torchvision_side(size: int, images: Tensor, *, pil: bool) -> Callable[[], int]:
    """Prepare torchvision's chain, image by image as a data loader's worker runs it."""
    crop = v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    jitter = v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(kernel_size(size), (0.1, 2.0))], 0.5)
    steps = [crop, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2), blur]
    steps += [v2.ToImage()] if pil else []
    chain = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    inputs = [reference.to_pil_image(image) if pil else image for image in images[:32]]

    def run() -> int:
        torch.stack([chain(image) for image in inputs])
        return len(inputs)

    return run


def kornia_side(size: int, images: Tensor) -> Callable[[], int]:
    """Prepare kornia's chain on a batch, each image with its own parameters."""
    from kornia import augmentation

    taps = kernel_size(size)
    chain = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop((size, size), resample="BICUBIC"),
        augmentation.RandomHorizontalFlip(p=0.5),
        augmentation.ColorJiggle(0.8, 0.8, 0.8, 0.2, p=0.8),
        augmentation.RandomGrayscale(p=0.2),
        augmentation.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5),
        augmentation.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )

    def run() -> int:
        chain(images.float() / 255.0)
        return len(images)

    return run


def our_side(size: int, images: Tensor, impl: Implementation) -> Callable[[], int]:
    """Prepare ours: both views of a batch, parameters drawn anew in each call."""
    views, epoch = our_views(size, impl), 0

    def run() -> int:
        nonlocal epoch
        epoch += 1
        views(images, Keys(1, "train", np.full(len(images), epoch), np.arange(len(images))))
        return 2 * len(images)

    return run


def measure(size: int, rounds: int, batch: int) -> dict[str, float]:
    """Alternate between the sides; the best round of each."""
    images = pictures(batch, size)
    sides = {"ours": our_side(size, images, "auto"), "ours_tensors": our_side(size, images, "tensors")}
    sides |= {f"torchvision_{kind}": torchvision_side(size, images, pil=kind == "pil") for kind in ("tensor", "pil")}
    if importlib.util.find_spec("kornia"):
        sides["kornia"] = kornia_side(size, images)
    rates = alternate_rates(sides, seconds=SECONDS, rounds=rounds)
    return {name: max(values) for name, values in rates.items()}


def main() -> None:
    """Measure and print."""
    given = read_options(__doc__, sizes=[32, 224], rounds=5, threads=1)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    result: dict[str, float] = {}
    for size in given.sizes:
        print(f"{size} x {size}: our views equal torchvision's within {check_equal(size):.1e} standard deviations")
        best = measure(size, given.rounds, batch=256 if size <= 64 else 64)
        for name, speed in best.items():
            print(f"  {name:20} {speed:10,.0f} views/s per core   {1e6 / speed:10,.0f} us per view")
        torchvision = max(best["torchvision_tensor"], best["torchvision_pil"])
        result |= {f"views_per_second_{name}_{size}": round(rate, 1) for name, rate in best.items()}
        result[f"ratio_torchvision_{size}"] = round(best["ours"] / torchvision, 2)
        if "kornia" in best:
            result[f"ratio_kornia_{size}"] = round(best["ours"] / best["kornia"], 2)
        else:
            print("  kornia is not installed: pip install kornia to compare")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
