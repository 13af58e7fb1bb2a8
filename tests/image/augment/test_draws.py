"""Parameters: the documented generator's numbers, and torchvision's distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.augment.draws import CROP_NUMBERS, crop_boxes, draw, orders
from pretraining.image.augment.views import SLOTS
from pretraining.random import Keys, uniform

SAMPLES = 4000


def keys(count: int = SAMPLES) -> Keys:
    return Keys(3, "train", np.full(count, 2), np.arange(count))


def make(**changes) -> Views:
    settings = {
        "crop": Crop(size=8),
        "jitter": Jitter(),
        "greyscale": 0.2,
        "blur": Blur(kernel_size=3),
        "solarise": 0.1,
        "output": Output(mean=[0.5] * 3, std=[0.25] * 3),
    }
    return Views(count=2, **(settings | changes))


def test_all_slots_and_views_at_once_are_the_numbers_of_one_at_a_time():
    drawn = draw(keys(9), SLOTS, range(1, 3))
    of_tensors = draw(keys(9).to("cpu"), SLOTS, range(1, 3))
    for slot, count in SLOTS.items():
        for view in (1, 2):
            expected = uniform(keys(9), slot, count, view)
            assert np.array_equal(drawn[slot].numpy()[9 * (view - 1) : 9 * view], expected)
        assert torch.equal(of_tensors[slot], drawn[slot])


@pytest.mark.parametrize("extent", [(32, 32), (60, 200), (224, 160)])
def test_crops_are_distributed_as_torchvisions(extent):
    """Two samples of 4,000: Kolmogorov-Smirnov finds no difference in height, width, area, ratio and place."""
    numbers = draw(keys(), {"shape": CROP_NUMBERS, "place": 2}, range(1))
    ours = crop_boxes(numbers["shape"], numbers["place"], extent, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)).numpy()
    torch.manual_seed(0)
    image = torch.empty(3, *extent)
    sampler = v2.RandomResizedCrop(8, antialias=True)
    drawn = [sampler.make_params([image]) for _ in range(SAMPLES)]
    theirs = np.array([[crop["top"], crop["left"], crop["height"], crop["width"]] for crop in drawn])
    for first, second in (
        *zip(ours.T, theirs.T, strict=True),
        (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        (ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
    ):
        assert stats.ks_2samp(first, second).pvalue > 1e-3
    assert (
        (ours >= 0).all()
        and (ours[:, 0] + ours[:, 2] <= extent[0]).all()
        and (ours[:, 1] + ours[:, 3] <= extent[1]).all()
    )


def test_where_no_crop_fits_the_largest_centred_one_of_an_allowed_ratio_is_taken():
    nothing_fits = torch.full((2, CROP_NUMBERS), 0.999)
    found = crop_boxes(nothing_fits, torch.rand(2, 2), (10, 100), area=(0.9, 1.0), aspect=(3 / 4, 4 / 3))
    sampler = v2.RandomResizedCrop(8, scale=(0.9, 1.0), antialias=True)
    theirs = sampler.make_params([torch.empty(3, 10, 100)])
    assert found.tolist() == [[theirs["top"], theirs["left"], theirs["height"], theirs["width"]]] * 2


def test_every_order_of_jitter_is_as_frequent_as_any_other():
    drawn = orders(draw(keys(24_000), {"order": 1}, range(1))["order"]).numpy()
    assert (np.sort(drawn, axis=1) == np.arange(4)).all()
    _, counts = np.unique(drawn @ np.array([64, 16, 4, 1]), return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-3


def test_jitter_factors_and_blur_widths_are_distributed_as_torchvisions():
    ours = Jitter(probability=1.0, brightness=0.8, contrast=0.4, saturation=1.2, hue=0.2)
    parameters = make(jitter=ours).parameters(keys(), range(1), (32, 32))
    torch.manual_seed(0)
    jitter = v2.ColorJitter(0.8, 0.4, 1.2, 0.2)
    drawn = [jitter.make_params([]) for _ in range(SAMPLES)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for column, name in enumerate(names):
        theirs = np.array([float(parameters_of[name]) for parameters_of in drawn])
        assert stats.ks_2samp(parameters.factors[:, column].numpy(), theirs).pvalue > 1e-3
    blur = v2.GaussianBlur(3, (0.1, 2.0))
    widths = np.array([blur.make_params([])["sigma"][0] for _ in range(SAMPLES)])
    assert stats.ks_2samp(parameters.sigma.numpy(), widths).pvalue > 1e-3


def test_things_happen_as_often_as_they_are_said_to_and_apart_from_each_other():
    parameters = make().parameters(keys(), range(1), (32, 32))
    jittered = (parameters.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(1)
    happened = {"flip": (parameters.flip, 0.5), "jitter": (jittered, 0.8), "greyscale": (parameters.greyscale, 0.2)}
    happened |= {"blur": (parameters.blur, 0.5), "solarise": (parameters.solarise, 0.1)}
    for name, (found, probability) in happened.items():
        spread = math.sqrt(probability * (1 - probability) / SAMPLES)
        assert abs(found.float().mean().item() - probability) < 4 * spread, name
    table = np.corrcoef(np.stack([found.numpy() for found, _ in happened.values()]).astype(float))
    assert np.abs(table - np.eye(5)).max() < 4 / math.sqrt(SAMPLES)


def test_views_of_one_image_are_drawn_apart():
    parameters = make().parameters(keys(), range(2), (32, 32))
    first, second = parameters.rows(slice(SAMPLES)), parameters.rows(slice(SAMPLES, None))
    assert np.abs(np.corrcoef(first.sigma, second.sigma)[0, 1]) < 4 / math.sqrt(SAMPLES)
    assert (first.boxes == second.boxes).all(1).float().mean() < 0.01


def test_a_probability_can_differ_between_views():
    blur = Blur(probability=[1.0, 0.0], kernel_size=3)
    parameters = make(blur=blur).parameters(keys(50), range(2), (32, 32))
    assert parameters.blur[:50].all() and not parameters.blur[50:].any()
    only_second = make(blur=blur).parameters(keys(50), range(1, 2), (32, 32))
    assert not only_second.blur.any()
    with pytest.raises(ValueError, match=r"probability of blur is \[1.0, 0.0, 0.5\].*list of 2"):
        make(blur=Blur(probability=[1.0, 0.0, 0.5], kernel_size=3))
