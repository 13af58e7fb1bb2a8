"""Boxes, masks and maps move with their image, and what is drawn about an image depends on its key alone."""

import numpy as np
import pytest
import torch

from finetuning.data.splits import Examples
from finetuning.dense.masks import box_of, encode
from finetuning.dense.objects import Objects
from finetuning.inputs.base import Picked
from finetuning.inputs.dense import MapInputs, ObjectInputs, placed
from finetuning.metrics.segmentation import IGNORED
from pretraining.errors import RunError
from pretraining.image.preprocess import ImagePreprocess
from pretraining.random import Keys

PREPROCESS = ImagePreprocess(size=64, channels=3, mean=[0.2, 0.4, 0.6], std=[0.25, 0.25, 0.25])
BOTH = ["horizontal", "vertical"]


def keys(rows, stream="train"):
    rows = np.asarray(rows)
    return Keys(5, stream, np.zeros_like(rows), rows)


def blocks(count=24):
    """Draw images of several sizes with one bright block each, and its box and mask."""
    generator = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(count):
        height, width = generator.integers(30, 90, 2)
        left, top = generator.integers(0, width - 12), generator.integers(0, height - 12)
        box = np.array([left, top, left + generator.integers(8, 12), top + generator.integers(8, 12)], float)
        mask = np.zeros((height, width), bool)
        mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
        images.append(np.repeat(mask[None].astype(np.uint8) * 255, 3, 0))
        labels.append(Objects(box[None], np.array([1]), masks=[encode(mask)]))
    return images, labels


def canvases(inputs, images, labels):
    return inputs.encode(Examples.of(image=images, label=labels), labels, PREPROCESS, None)


def test_the_box_and_the_mask_lie_where_the_image_shows_them():
    inputs = ObjectInputs(size=None, scale=[0.5, 2.0], flips=BOTH)
    images, labels = blocks()
    split = canvases(inputs, images, labels)
    rows = np.arange(len(images))
    batch = split.collate(Picked(rows), keys(rows))
    assert batch["inputs"]["images"].shape == (24, 3, 64, 64) and batch["inputs"]["images"].dtype == torch.uint8
    owner = np.repeat(rows, batch["objects_per_row"].numpy())
    assert 12 < len(owner) < 24  # some were drawn outside of their canvas
    for box, mask, row in zip(batch["boxes"].numpy(), batch["masks"].numpy(), owner, strict=True):
        shown = batch["inputs"]["images"][row, 0].numpy() > 127
        assert np.abs(box_of(encode(mask)) - box).max() <= 1.0  # of a pixel: masks are of whole ones
        if shown.sum() > 30:
            assert np.abs(box_of(encode(shown)) - box).max() <= 1.0
            assert (shown & mask).sum() / (shown | mask).sum() > 0.7
    bare = split.collate(Picked(np.setdiff1d(rows, owner)), keys(np.setdiff1d(rows, owner)))
    assert len(bare["boxes"]) == 0 and (bare["inputs"]["images"][:, 0] > 200).flatten(1).sum(1).max() <= 2 * 64


def test_draws_belong_to_their_example_whatever_batch_it_is_in():
    images, labels = blocks(6)
    split = canvases(ObjectInputs(size=None, scale=[0.5, 1.5], flips=BOTH), images, labels)
    every = split.collate(Picked(np.arange(6)), keys(np.arange(6)))
    alone = split.collate(Picked(np.array([3])), keys([3]))
    assert (every["inputs"]["images"][3] == alone["inputs"]["images"][0]).all()
    other = split.collate(Picked(np.array([3])), keys([4]))
    assert not (other["placements"] == alone["placements"]).all()


def test_evaluation_puts_the_whole_image_into_the_middle_on_the_mean_colour():
    images, labels = [np.full((3, 20, 40), 200, np.uint8)], [Objects.none()]
    split = canvases(ObjectInputs(size=None, scale=[0.5, 2.0], flips=BOTH), images, labels)
    batch = split.collate(Picked(np.array([0])), keys([0], "validation"))
    assert batch["placements"].tolist() == [[20, 40, 32, 64, 16, 0]]
    drawn = batch["inputs"]["images"][0]
    assert (drawn[:, 16:48] == 200).all() and drawn[:, :16].unique(dim=1)[:, 0].tolist()[0] == [51] * 64
    finished = split.inputs.on_device(batch["inputs"], PREPROCESS)["images"]
    assert finished[0, :, 0, 0].abs().max() < 1e-6  # the mean is zero, once normalised


def test_boxes_and_maps_come_back_from_the_canvas():
    for size in [(30, 70), (90, 41), (64, 64), (7, 200)]:
        place = placed(size, 64)
        boxes = np.array([[1.0, 2, 6, 5], [0, 0, size[1], size[0]]])
        assert np.allclose(place.boxes_back(place.boxes(boxes, 64)), boxes)
    scores = torch.zeros(2, 16, 16)
    scores[0] = 0.5
    scores[1, 8:12] = 1.0  # rows 32 to 47 of a canvas of 64
    place = placed((40, 80), 64)  # 32 x 64 from row 16 on: the rows 32 to 47 are its lower half
    back = place.maps_back(scores, 64).argmax(0)
    assert back.shape == (40, 80) and (back[20:] == 1).all() and (back[:20] == 0).all()


def test_label_maps_keep_their_numbers_and_are_ignored_beside_the_image():
    images = [np.zeros((3, 32, 64), np.uint8)]
    target = np.full((32, 64), 7)
    target[:, 32:] = IGNORED
    split = canvases(MapInputs(size=None, scale=[1.0, 1.0], flips=["horizontal"]), images, [target])
    rows = np.zeros(20, np.int64)
    batch = split.collate(Picked(rows), keys(np.arange(20)))
    flipped = batch["targets"][:, 32, 0] == IGNORED
    assert 4 < flipped.sum() < 16 and batch["targets"].unique().tolist() == [IGNORED, 7]
    assert (batch["targets"] == 7).sum((1, 2)).tolist() == [32 * 32] * 20


def test_crowds_and_ignored_objects_are_not_learnt_from():
    boxes = np.array([[0.0, 0, 9, 9], [20, 20, 30, 30], [40, 40, 50, 50]])
    label = Objects(boxes, np.arange(3), crowd=np.array([1, 0, 0], bool), ignore=np.array([0, 1, 0], bool))
    split = canvases(ObjectInputs(size=None, scale=[1, 1], flips=[]), [np.zeros((3, 64, 64), np.uint8)], [label])
    assert split.stack(np.array([0]))["classes"].tolist() == [2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"scale": [2.0, 1.0]}, "smallest and a largest scale"), ({"flips": ["sideways"]}, "horizontal, vertical")],
)
def test_settings_that_mean_nothing_are_refused(changed, message):
    with pytest.raises(RunError, match=message):
        ObjectInputs(**{"size": None, "scale": [1.0, 1.0], "flips": []} | changed)
