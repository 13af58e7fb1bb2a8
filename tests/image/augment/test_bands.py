"""The banded products: windows that are wide enough, for sizes that divide into blocks and sizes that do not."""

import pytest
import torch

from pretraining.image.augment.resampling import Band, blurring, contract, resampling


def dense(band: Band, extent: int) -> torch.Tensor:
    """Write a band out as one matrix per image. [B, size, extent]"""
    batch, blocks, _, outputs = band.weights.shape
    matrix = torch.zeros(batch, blocks * outputs, extent)
    rows = band.rows.expand(batch, -1, -1)[:, :, :, None].expand(-1, -1, -1, outputs)
    for block in range(blocks):
        for output in range(outputs):
            matrix[:, block * outputs + output].scatter_add_(
                1, rows[:, block, :, output], band.weights[:, block, :, output]
            )
    return matrix[:, : band.size]


def intervals(extent: int) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = [
        (start, length) for length in range(1, extent + 1, 3) for start in (0, (extent - length) // 2, extent - length)
    ]
    start, length = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    return start, length


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("extent", "size"), [(20, 50), (64, 64), (65, 16), (130, 100), (40, 1)])
def test_every_output_is_a_weighted_mean_of_pixels_of_its_interval(extent, size, interpolation):
    start, length = intervals(extent)
    flip = torch.arange(len(start)) % 2 == 0
    band = resampling(start, length, size=size, extent=extent, flip=flip, interpolation=interpolation)
    matrix = dense(band, extent)
    torch.testing.assert_close(matrix.sum(2), torch.ones(len(start), size), rtol=0, atol=1e-5)
    place = torch.arange(extent)
    outside = (place < start[:, None]) | (place >= (start + length)[:, None])
    assert matrix.abs().masked_fill(~outside[:, None], 0.0).max() == 0.0
    weighed = (matrix * (place + 0.5)).sum(2)  # a straight ramp stays straight, but for the ends of the interval
    middle = start + length / 2
    torch.testing.assert_close(weighed.mean(1), middle, rtol=0, atol=1e-2)


@pytest.mark.parametrize(("extent", "size"), [(20, 50), (64, 64), (130, 100)])
def test_a_flip_reverses_the_outputs(extent, size):
    start, length = intervals(extent)
    flips = torch.full_like(start, 0.0).bool()
    plain, mirrored = (
        dense(resampling(start, length, size=size, extent=extent, flip=flip, interpolation="bicubic"), extent)
        for flip in (flips, ~flips)
    )
    torch.testing.assert_close(mirrored, plain.flip(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [12, 48, 49, 64, 100])
def test_a_band_equals_its_dense_matrix(size):
    images = torch.rand(3, 2, size, 7)
    band = blurring(torch.tensor([0.3, 1.0, 2.0]), size=size, kernel_size=9)
    expected = torch.einsum("bor,bcrw->bcwo", dense(band, size), images)
    torch.testing.assert_close(contract(images, band), expected, rtol=0, atol=1e-6)


def test_bytes_and_floats_contract_alike():
    images = torch.randint(0, 256, (3, 2, 20, 7), dtype=torch.uint8)
    band = blurring(torch.tensor([0.3, 1.0, 2.0]), size=20, kernel_size=3)
    assert torch.equal(contract(images, band), contract(images.float(), band))
