"""The whole chain: against torchvision's with injected parameters, and the same views in any batch."""

import os
import shutil

import numpy as np
import pytest
import torch

from experiments.benchmarks.augment import same_by_torchvision
from pretraining.errors import RunError
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.augment import views as module
from pretraining.random import Keys

COUNT = 24


def keys(rows=slice(None), epoch=0) -> Keys:
    index = np.arange(COUNT)[rows]
    return Keys(3, "train", np.full(len(index), epoch), index)


def images(channels=3, size=40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, channels, 10, 10, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


@pytest.fixture(autouse=True, params=["tensors", "compiled"])
def impl(request, monkeypatch):
    """Everything here holds for both ways to compute views on a CPU."""
    if request.param == "compiled" and shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler: the same tests run on tensor operations")
    monkeypatch.setitem(SETTINGS, "impl", request.param)


SETTINGS = {}


def make(size=32, channels=3, **changes) -> Views:
    settings = {
        **SETTINGS,
        "crop": Crop(size=size),
        "jitter": Jitter(),
        "greyscale": 0.2,
        "blur": Blur(kernel_size=5),
        "solarise": 0.2,
        "output": Output(mean=[0.5] * channels, std=[0.25] * channels),
    }
    return Views(count=2, **(settings | changes))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_the_whole_chain_is_torchvisions_with_the_same_parameters(size, channels):
    """Within 1e-3 of a deviation, or 2.5e-4 of the grey scale; for all but a thousandth of the pixels: solarising is
    discontinuous.
    """
    views, originals = make(size, channels), images(channels)
    parameters = views.parameters(keys(), range(2), (40, 40))
    ours = views.apply(originals, parameters)
    for row in range(2 * COUNT):
        one = parameters.rows(slice(row, row + 1))
        theirs = same_by_torchvision(
            originals[row % COUNT], one, size, taps=5, mean=[0.5] * channels, std=[0.25] * channels
        )
        assert ((ours[row] - theirs).abs() > 1e-3).float().mean() < 1e-3, row


def test_views_do_not_depend_on_the_batch_or_the_chunk_they_are_computed_in(monkeypatch):
    views, originals = make(), images()
    together = views(originals, keys())
    for view in range(2):
        assert torch.equal(views(originals, keys(), view), together[COUNT * view : COUNT * (view + 1)])
    for part in (slice(0, 5), slice(5, 24), slice(7, 8)):
        alone = views(originals[part], keys(part))
        expected = torch.cat([together[:COUNT][part], together[COUNT:][part]])
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    torch.testing.assert_close(views(originals, keys()), together, rtol=0, atol=1e-5)


def test_the_same_keys_give_the_same_views_as_arrays_or_tensors_and_others_do_not():
    views, originals = make(), images()
    first = views(originals, keys())
    assert torch.equal(first, views(originals, keys())) and torch.equal(first, views(originals, keys().to("cpu")))
    assert not torch.isclose(first, views(originals, keys(epoch=1))).all(dim=(1, 2, 3)).any()
    assert not torch.isclose(first[:COUNT], first[COUNT:]).all(dim=(1, 2, 3)).any()


@pytest.mark.parametrize("name", ["mean", "std"])
def test_numbers_that_are_not_one_per_channel_are_refused(name):
    output = {"mean": [0.5] * 3, "std": [0.25] * 3} | {name: [0.5, 0.5]}
    with pytest.raises(RunError, match=rf"augment.output.{name} has 2 numbers for images of 3 channel\(s\)"):
        make(output=Output(**output))(images(), keys())
    one = make(output=Output(**{"mean": [0.5], "std": [0.5]}))(images(), keys())
    assert torch.equal(one, make(output=Output(mean=[0.5] * 3, std=[0.5] * 3))(images(), keys()))


def test_the_pixels_given_are_left_alone():
    originals = images()
    kept = originals.clone()
    make()(originals, keys())
    assert torch.equal(originals, kept)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_comes_in_the_type_and_memory_order_asked_for(dtype, channels_last):
    originals = images()
    output = Output(mean=[0.5] * 3, std=[0.25] * 3, dtype=dtype, channels_last=channels_last)
    found = make(output=output)(originals, keys())
    assert found.dtype == getattr(torch, dtype)
    assert found.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    torch.testing.assert_close(found.float(), make()(originals, keys()), rtol=0.01, atol=0.01)


def test_autocast_around_it_does_not_cost_precision():
    originals = images()
    plain = make()(originals, keys())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(make()(originals, keys()), plain)


def test_nothing_but_a_resize_is_left_when_all_is_off():
    off = make(
        crop=Crop(size=40, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0),
        jitter=Jitter(probability=0.0),
        greyscale=0.0,
        blur=Blur(probability=0.0, kernel_size=3),
        solarise=0.0,
    )
    restored = off(images(), keys())[:COUNT] * 0.25 + 0.5
    torch.testing.assert_close(restored * 255, images().float(), rtol=0, atol=1e-3)


def test_a_single_image_and_an_oblong_one_work():
    oblong = torch.randint(0, 256, (1, 3, 30, 70), dtype=torch.uint8)
    assert make()(oblong, keys(slice(0, 1))).shape == (2, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_views_of_the_cpu_without_waiting_for_it():
    views, originals = make(64), images()
    expected = views(originals, keys())
    on_device, keys_there = originals.cuda(), keys().to("cuda")
    views(on_device, keys_there)
    torch.cuda.set_sync_debug_mode("error")
    found = views(on_device, keys_there)
    torch.cuda.set_sync_debug_mode("default")
    assert ((found.cpu() - expected).abs() > 5e-3).float().mean() < 1e-3
