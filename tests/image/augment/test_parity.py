"""Every operation against torchvision (or PIL) with the same parameters, image by image."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from pretraining.image.augment.colour import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    adjust_hue,
    blend,
    colour_jitter,
    greyscale,
    on_rows,
    solarise,
)
from pretraining.image.augment.geometry import gaussian_blur, resized_crop

MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
PIL_MODES = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ADJUSTMENTS = [
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
]


def pictures(count: int = 12, channels: int = 3, height: int = 40, width: int = 52, seed: int = 0) -> torch.Tensor:
    """Smooth noise with saturated and black regions, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, height // 4 + 1, width // 4 + 1, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    rough = smooth + 0.15 * torch.randn(smooth.shape, generator=generator)
    return ((rough * 1.6 - 0.3).clamp(0, 1) * 255).round().to(torch.uint8)


def boxes(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random boxes, among them the whole image and single pixels."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(1, height + 1, (count,), generator=generator)
    columns = torch.randint(1, width + 1, (count,), generator=generator)
    rows[0], columns[0], rows[1], columns[1] = height, width, 1, 1
    top = (torch.rand(count, generator=generator) * (height - rows + 1)).long()
    left = (torch.rand(count, generator=generator) * (width - columns + 1)).long()
    return torch.stack([top, left, rows, columns], 1)


def as_float(images: torch.Tensor) -> torch.Tensor:
    return reference.to_dtype(images, torch.float32, scale=True)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 24), (40, 52), (64, 96), (50, 75)])
def test_a_resized_crop_is_torchvisions_to_two_in_a_hundred_thousand(size, interpolation, channels):
    images = pictures(channels=channels)
    where = boxes(len(images), 40, 52)
    flip = torch.arange(len(images)) % 2 == 0
    ours = resized_crop(images, where, size, flip=flip, interpolation=interpolation)
    for number, (top, left, height, width) in enumerate(where.tolist()):
        theirs = reference.resized_crop(
            as_float(images[number]), top, left, height, width, list(size), MODES[interpolation], antialias=True
        ).clamp(0, 1)
        theirs = reference.horizontal_flip(theirs) if flip[number] else theirs
        torch.testing.assert_close(ours[number], theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 24), (64, 96)])
def test_a_resized_crop_is_pils_to_its_rounding(size, interpolation):
    """PIL rounds to whole grey levels after each axis: within 1.6 levels. It also clips there, hence the limited
    contrast.
    """
    images = (pictures().float() * 0.5 + 64).to(torch.uint8)
    where = boxes(len(images), 40, 52)
    upright = torch.zeros(len(images), dtype=torch.bool)
    ours = resized_crop(images, where, size, flip=upright, interpolation=interpolation) * 255
    for number, (top, left, height, width) in enumerate(where.tolist()):
        picture = Image.fromarray(images[number].permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
        theirs = np.asarray(picture.resize(size[::-1], PIL_MODES[interpolation]), dtype=np.float32)
        difference = (ours[number].permute(1, 2, 0) - torch.from_numpy(theirs.copy())).abs()
        assert difference.max() < 1.6
        assert difference.mean() < 0.4


def test_float_images_are_resized_as_their_uint8_originals():
    images = pictures()
    where, upright = boxes(len(images), 40, 52), torch.zeros(len(images), dtype=torch.bool)
    of_bytes = resized_crop(images, where, (20, 20), flip=upright, interpolation="bicubic")
    of_floats = resized_crop(as_float(images), where, (20, 20), flip=upright, interpolation="bicubic")
    torch.testing.assert_close(of_bytes, of_floats, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(40, 52), (32, 32), (96, 70)])
@pytest.mark.parametrize("kernel_size", [3, 9, 23])
def test_a_blur_is_torchvisions_to_two_in_a_million(kernel_size, shape):
    images = as_float(pictures(height=shape[0], width=shape[1]))
    sigma = torch.linspace(0.1, 2.0, len(images))
    ours = gaussian_blur(images, sigma, kernel_size)
    for number, width in enumerate(sigma.tolist()):
        theirs = reference.gaussian_blur(images[number], [kernel_size, kernel_size], [width, width])
        torch.testing.assert_close(ours[number], theirs, rtol=0, atol=2e-6)


def test_a_blur_wider_than_the_reflection_is_refused():
    with pytest.raises(ValueError, match="choose kernel_size below 16"):
        gaussian_blur(torch.rand(2, 1, 8, 8), torch.ones(2), 17)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [BRIGHTNESS, CONTRAST, SATURATION])
@pytest.mark.parametrize("count", [5, 12])  # few, and more than that: two ways to the same
def test_brightness_contrast_and_saturation_are_torchvisions_to_a_millionth(kind, channels, count):
    images = as_float(pictures(count, channels))
    factors = torch.linspace(0.0, 2.0, len(images))
    ours = blend(images.clone(), factors, torch.full((len(images),), kind))
    for number, factor in enumerate(factors.tolist()):
        theirs = ADJUSTMENTS[kind](images[number], factor)
        torch.testing.assert_close(ours[number], theirs, rtol=0, atol=1e-6)


def test_hue_is_torchvisions_to_two_in_a_million():
    images = as_float(pictures())
    images[0] = images[0, :1]  # grey: no hue at all
    images[1] = 0.0
    images[2, :, :, ::2] = torch.tensor([1.0, 0.0, 1.0])[:, None, None]  # corners of the colour cube
    images[2, :, :, 1::2] = torch.tensor([0.0, 1.0, 1.0])[:, None, None]
    shifts = torch.linspace(-0.5, 0.5, len(images))
    ours = adjust_hue(images.clone(), shifts)
    for number, shift in enumerate(shifts.tolist()):
        torch.testing.assert_close(ours[number], reference.adjust_hue(images[number], shift), rtol=0, atol=2e-6)


def test_hue_of_every_corner_and_edge_of_the_colour_cube_turns_as_torchvisions():
    levels = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 5, 25)
    shifts = torch.linspace(-0.5, 0.5, 25)
    ours = adjust_hue(cube.repeat(25, 1, 1, 1), shifts)
    for number, shift in enumerate(shifts.tolist()):
        torch.testing.assert_close(ours[number], reference.adjust_hue(cube[0], shift), rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_every_order_as_torchvision_does(channels):
    orders = torch.tensor(list(permutations(range(4))))
    images = as_float(pictures(len(orders), channels))
    generator = torch.Generator().manual_seed(1)
    factors = torch.rand(len(orders), 4, generator=generator) * torch.tensor([1.6, 1.6, 1.6, 1.0])
    factors += torch.tensor([0.2, 0.2, 0.2, -0.5])
    ours = colour_jitter(images.clone(), factors, orders)
    for number, order in enumerate(orders.tolist()):
        theirs = images[number]
        for kind in order:
            theirs = ADJUSTMENTS[kind](theirs, factors[number, kind].item())
        torch.testing.assert_close(ours[number], theirs, rtol=0, atol=5e-6)


def test_neutral_factors_leave_images_as_they_are():
    images = as_float(pictures())
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(len(images), 1)
    order = torch.tensor([2, 3, 0, 1]).repeat(len(images), 1)
    assert torch.equal(colour_jitter(images.clone(), neutral, order), images)


def test_greyscale_and_solarise_are_torchvisions():
    images = as_float(pictures())
    torch.testing.assert_close(
        greyscale(images), reference.rgb_to_grayscale(images, num_output_channels=3), rtol=0, atol=1e-6
    )
    assert torch.equal(solarise(images), reference.solarize(images, 0.5))


def test_an_operation_on_chosen_rows_touches_no_other():
    images = as_float(pictures())
    chosen = torch.arange(len(images)) % 3 == 0
    changed = on_rows(images.clone(), chosen, solarise)
    assert torch.equal(changed[~chosen], images[~chosen])
    assert torch.equal(changed[chosen], solarise(images[chosen]))
    assert torch.equal(on_rows(images.clone(), chosen & False, solarise), images)
    assert torch.equal(on_rows(images.clone(), chosen | True, solarise), solarise(images))
