"""The compiled views equal those of the tensor operations, do not depend on threads or batch, and are not needed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.random import Keys

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="no C compiler; without one: the last tests here"
)
COUNT = 12
OFF = {
    "crop": Crop(size=24, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0),
    "jitter": Jitter(probability=0.0),
    "greyscale": 0.0,
    "blur": Blur(probability=0.0, kernel_size=5),
    "solarise": 0.0,
    "output": Output(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
}
ONE_AT_A_TIME = {
    "bicubic": {"crop": Crop(size=24)},
    "bilinear": {"crop": Crop(size=24, interpolation="bilinear")},
    "enlarged": {"crop": Crop(size=51, area=(0.05, 0.3))},
    "much reduced": {"crop": Crop(size=7, area=(0.9, 1.0))},
    "flipped": {"crop": Crop(size=24, area=(1.0, 1.0), flip=1.0)},
    "brightness": {"jitter": Jitter(probability=1.0, contrast=0.0, saturation=0.0, hue=0.0)},
    "contrast": {"jitter": Jitter(probability=1.0, brightness=0.0, saturation=0.0, hue=0.0)},
    "saturation": {"jitter": Jitter(probability=1.0, brightness=0.0, contrast=0.0, hue=0.0)},
    "hue": {"jitter": Jitter(probability=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.5)},
    "all four": {"jitter": Jitter(probability=1.0)},
    "greyscale": {"greyscale": 1.0},
    "narrow blur": {"blur": Blur(probability=1.0, kernel_size=11, sigma=(0.1, 0.4))},
    "wide blur": {"blur": Blur(probability=1.0, kernel_size=23, sigma=(1.0, 2.0))},
    "solarise": {"solarise": 1.0},
    "bfloat16": {"output": Output(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), dtype="bfloat16")},
    "contiguous": {"output": Output(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), channels_last=False)},
    "one mean for all": {"output": Output(mean=(0.5,), std=(0.25,), channels_last=False)},
}


def images(height=40, width=56):
    return torch.randint(
        0, 256, (COUNT, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def keys(rows=slice(None)):
    index = np.arange(COUNT)[rows]
    return Keys(5, "train", np.zeros(len(index), np.int64), index)


def both(settings, originals):
    return [Views(count=2, impl=impl, **(OFF | settings))(originals, keys()) for impl in ("tensors", "compiled")]


@needs_compiler
@pytest.mark.parametrize("name", ONE_AT_A_TIME)
@pytest.mark.parametrize("extent", [(40, 56), (57, 31)])
def test_each_operation_equals_the_tensor_operation(name, extent):
    plain, compiled = both(ONE_AT_A_TIME[name], images(*extent))
    assert compiled.dtype == plain.dtype and compiled.stride() == plain.stride()
    if name == "solarise":  # discontinuous: a value at the threshold may fall on either side
        assert ((plain - compiled).abs() > 1e-4).float().mean() < 1e-3
    else:
        torch.testing.assert_close(compiled, plain, rtol=0, atol=2e-2 if name == "bfloat16" else 1e-4)
    everything_off = both({"crop": ONE_AT_A_TIME[name].get("crop", OFF["crop"])}, images(*extent))[1]
    if "crop" not in ONE_AT_A_TIME[name] and "output" not in ONE_AT_A_TIME[name]:
        assert not torch.allclose(compiled, everything_off, atol=1e-2), "the operation did nothing"


@needs_compiler
def test_pixels_whose_memory_is_strided_are_read_as_they_are():
    originals = images().to(memory_format=torch.channels_last)
    plain, compiled = both({}, originals)
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)


@needs_compiler
@pytest.mark.parametrize("threads", [1, 3, 40])
def test_views_are_the_same_bits_for_any_number_of_threads_and_any_batch(threads):
    views = Views(
        count=2, impl="compiled", **(OFF | {"jitter": Jitter(), "blur": Blur(kernel_size=5), "crop": Crop(size=24)})
    )
    together, before = views(images(), keys()), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(views(images(), keys()), together)
        part = slice(3, 8)
        assert torch.equal(
            views(images()[part], keys(part)), torch.cat([together[:COUNT][part], together[COUNT:][part]])
        )
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("box", [[0, 0, 41, 5], [0, 52, 5, 5], [-1, 0, 5, 5], [3, 3, 0, 5]])
def test_a_box_beyond_its_image_is_refused(box):
    views = Views(count=1, impl="compiled", **OFF)
    parameters = views.parameters(keys(), range(1), (40, 56))
    parameters.boxes[4] = torch.tensor(box)
    with pytest.raises(ValueError, match="leaves its image of 40 x 56"):
        views.apply(images(), parameters)


@needs_compiler
def test_wrong_colour_orders_and_channel_counts_are_refused():
    views = Views(count=1, impl="compiled", **OFF)
    parameters = views.parameters(keys(), range(1), (40, 56))
    with pytest.raises(ValueError, match="order of colour"):
        views.apply(images(), parameters._replace(order=parameters.order + 1))
    with pytest.raises(ValueError, match=r"augment\.output\.mean has 3 numbers for images of 2 channel"):
        views.apply(images()[:, :2], parameters)


def test_an_unknown_way_to_compute_and_a_blur_wider_than_the_view_are_refused():
    with pytest.raises(ValueError, match=r"impl=fast: choose one of auto, tensors, compiled"):
        Views(count=1, impl="fast", **OFF)
    with pytest.raises(ValueError, match="a blur of 49 taps"):
        Views(count=1, **(OFF | {"blur": Blur(probability=0.1, kernel_size=49)}))


SCRIPT = """
import torch, numpy as np, sys
sys.path.insert(0, {folder!r})
from test_compiled import OFF, images, keys
from pretraining.image.augment import Views
print(Views(count=1, **OFF)(images(), keys()).sum().item())
try:
    Views(count=1, impl="compiled", **OFF)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_views_come_from_tensor_operations_and_it_is_said(tmp_path, compiler):
    environment = os.environ | {"CC": compiler, "PRETRAINING_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT.format(folder=os.path.dirname(__file__))]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    total, refusal = ended.stdout.splitlines()
    expected = Views(count=1, impl="tensors", **OFF)(images(), keys()).sum().item()
    assert float(total) == pytest.approx(expected, abs=1e-2)
    assert "needs a C compiler" in refusal
    assert ended.stderr.count("views are made by tensor operations") == 1 and compiler in ended.stderr
