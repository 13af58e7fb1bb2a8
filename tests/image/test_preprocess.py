"""Preparation of images, against torchvision's."""

import json

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from pretraining.image.preprocess import ImagePreprocess


def preprocess(**changes) -> ImagePreprocess:
    return ImagePreprocess(**({"size": 16, "channels": 3, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]} | changes))


def test_it_resizes_the_centre_square_and_normalises_as_torchvision_does():
    images = torch.randint(0, 256, (4, 3, 30, 40), dtype=torch.uint8)
    floats = reference.center_crop(reference.to_dtype(images, torch.float32, scale=True), [30, 30])
    resized = reference.resize(floats, [16, 16], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    expected = reference.normalize(resized, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    torch.testing.assert_close(preprocess()(images), expected, rtol=0, atol=1e-5)


def test_images_of_the_right_size_are_only_normalised():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    restored = (
        preprocess()(images) * torch.tensor([0.2, 0.3, 0.4])[:, None, None]
        + torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    )
    assert torch.equal((restored * 255).round().to(torch.uint8), images)


def test_grey_and_coloured_images_take_the_channels_that_the_backbone_wants():
    grey = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    coloured = grey.expand(-1, 3, -1, -1)
    one = preprocess(channels=1, mean=[0.0], std=[1.0])
    three = preprocess(mean=[0.0] * 3, std=[1.0] * 3)
    torch.testing.assert_close(three(grey), three(coloured))
    torch.testing.assert_close(
        one(coloured), one(grey) * 0.9999, rtol=0, atol=1e-6
    )  # torchvision's grey weights sum to 0.9999
    with pytest.raises(ValueError, match="2 channels"):
        three(grey.expand(-1, 2, -1, -1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (224, 0.875), (32, 0.875)])
def test_transformers_prepares_pictures_of_any_shape_as_we_do(tmp_path, size, crop, channels):
    """But for levels of 8 bits, to which it rounds along each axis; and the description is read again."""
    from PIL import Image
    from transformers import AutoImageProcessor

    scale = {"mean": [0.5] * channels, "std": [0.25] * channels}
    ours = ImagePreprocess(size=size, channels=channels, crop=crop, **scale)
    ours.save_for_transformers(tmp_path)
    theirs = AutoImageProcessor.from_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for shape in ((64, 64), (80, 64), (81, 160), (40, 24), (500, 336)):
        picture = Image.fromarray(noise).resize(shape, Image.Resampling.BICUBIC)
        picture = picture.convert("L") if channels == 1 else picture
        pixels = torch.from_numpy(np.asarray(picture).reshape(*shape[::-1], channels).transpose(2, 0, 1).copy())
        found = theirs(picture, return_tensors="pt")["pixel_values"]
        if crop == 1.0 or min(shape) * 7 % 8 == 0:
            apart = (found - ours(pixels[None])).abs() * 0.25 * 255
            assert apart.max() < 2.0 and apart.mean() < 0.5
    assert ImagePreprocess.of_transformers(str(tmp_path)).kwargs == ours.kwargs


def test_its_kwargs_are_json_and_rebuild_it(tmp_path):
    original = preprocess(crop=0.875)
    original.save(tmp_path)
    twin = ImagePreprocess.load(tmp_path, **json.loads(json.dumps(original.kwargs)))
    images = torch.randint(0, 256, (4, 3, 30, 40), dtype=torch.uint8)
    assert torch.equal(twin(images), original(images))
    assert original.fit(None) is original


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "choose 1"),
        ({"mean": [0.5]}, "one per channel"),
        ({"interpolation": "nearest"}, "choose bilinear or bicubic"),
        ({"crop": 0.0}, "share of the shorter side"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        preprocess(**changes)
