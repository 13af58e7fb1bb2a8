"""Blocks of patches are what was asked for, a function of each image's key, and cover all places alike."""

import numpy as np
import pytest
import torch

from pretraining.objectives.image.blocks import block_masks, rectangles
from pretraining.objectives.image.patch_predictor import Blocks
from pretraining.random import Keys, uniform

SIDE, IMAGES = 14, 600


def keys(rows, epoch=0):
    rows = np.asarray(rows)
    return Keys(3, "train", np.full_like(rows, epoch), rows)


def drawn(count, rows=range(IMAGES), epoch=0):
    return torch.from_numpy(uniform(keys(list(rows), epoch), "blocks", count))


def test_a_rectangle_has_its_area_and_aspect_and_lies_inside():
    found = rectangles(drawn(3), torch.full((IMAGES,), 36.0), (SIDE, SIDE), (0.75, 1.5))
    rows, columns = found.any(2).sum(1), found.any(1).sum(1)
    assert torch.equal(found.sum((1, 2)), rows * columns), "filled"
    assert (rows * columns - 36).abs().max() <= 6 and ((rows + 0.5) / (columns - 0.5)).min() > 0.74
    assert ((rows - 0.5) / (columns + 0.5)).max() < 1.5 and found.any(0).all()


def test_block_masks_hide_up_to_what_was_asked_in_blocks():
    count = torch.arange(IMAGES) % 90
    found = block_masks(drawn(64).unflatten(1, (16, 4)), count, (SIDE, SIDE))
    hidden = found.sum((1, 2))
    assert (hidden <= count).all() and not found[count == 0].any()
    assert (hidden[count > 40].float() / count[count > 40]).mean() > 0.85
    neighbours = (found[:, 1:] & found[:, :-1]).sum() / found[:, 1:].sum()
    assert neighbours > 0.75, "single patches hidden at this rate would have a hidden neighbour in 23 % of cases"


@pytest.mark.parametrize(("side", "blocks"), [(SIDE, Blocks()), (4, Blocks()), (4, Blocks(targets=2, context=0.6))])
def test_contexts_and_targets_share_no_patch(side, blocks):
    asked = blocks.ask(drawn(blocks.numbers(side)), side)
    assert asked.context.shape == (IMAGES, round(blocks.context * side * side))
    assert asked.targets.shape == asked.valid.shape == (IMAGES, blocks.targets, blocks.most(side))
    for image in range(IMAGES):
        wanted = asked.targets[image][asked.valid[image]].tolist()
        assert wanted and not set(wanted) & set(asked.context[image].tolist())
    sizes = asked.valid.sum(2)
    assert sizes.min() >= 1 and sizes.max() <= blocks.most(side)
    if side == SIDE:
        assert (sizes / side**2).min() > 0.12 and (sizes / side**2).max() < 0.23


def test_no_patch_is_left_out_of_all_contexts_or_targets_and_no_side_is_preferred():
    """Cutting contexts to a batch's shortest leaves out the last rows. Targets crowd the middle, contexts the rim."""
    asked = Blocks().ask(drawn(Blocks().numbers(SIDE), range(4000)), SIDE)
    seen = torch.zeros(4000, SIDE**2).scatter(1, asked.context, 1.0).mean(0).view(SIDE, SIDE)
    assert seen.min() > 0.05
    for first, last in ((seen[:3], seen[-3:]), (seen[:, :3], seen[:, -3:])):
        assert last.mean() / first.mean() == pytest.approx(1.0, abs=0.1)
    wanted = torch.zeros(4000, SIDE**2)
    for target in range(4):
        wanted.scatter_add_(1, asked.targets[:, target], asked.valid[:, target].float())
    wanted = wanted.mean(0).view(SIDE, SIDE)
    assert wanted.min() > 0.03 and wanted[5:9, 5:9].max() / wanted[5:9, 5:9].min() < 1.25
    assert torch.allclose(wanted, wanted.flip(0), atol=0.1) and torch.allclose(wanted, wanted.flip(1), atol=0.1)


def test_an_image_s_blocks_are_those_of_its_key_in_any_batch():
    blocks = Blocks()
    together = blocks.ask(drawn(blocks.numbers(SIDE), range(8)), SIDE)
    alone = blocks.ask(drawn(blocks.numbers(SIDE), [5]), SIDE)
    assert all(torch.equal(part[5], one[0]) for part, one in zip(together, alone, strict=True))
    later = blocks.ask(drawn(blocks.numbers(SIDE), [5], epoch=1), SIDE)
    assert not torch.equal(later.context, alone.context)


def test_blocks_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match="must leave something of an image to see, got 4 of"):
        Blocks(scale=(0.2, 0.3))
    with pytest.raises(ValueError, match="a share above 0 and up to 1, got 0"):
        Blocks(context=0.0)
