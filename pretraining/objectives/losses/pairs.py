"""Losses of pairs: each example of one side is told from all examples of the other side, over all ranks, in memory that
does not grow with the square of the batch.

Similarities are plain products: whatever scales or shifts them is part of the vectors. So it gets its gradient with
them, once, however the batch is cut up.

Shapes: n pairs of this rank, N of all ranks, D width, C captions that an example of the first side has at most,
K false captions that one has at most, M captions of all ranks: N true ones, then the false ones that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pretraining.distributed.collectives import gather_with_gradient
from pretraining.objectives.losses.nt_xent import refuse_unequal

NUMBERS = ("caption", "captions", "false")
TILE = 1 << 24  # similarities that are held at once


class Contrasted(NamedTuple):
    """A loss summed over this rank's pairs, and how often the most similar example of the other side is a right one."""

    total: Tensor  # []
    first_right: Tensor  # []: found for those of the first side
    second_right: Tensor  # []


class Sides(NamedTuple):
    """This rank's vectors of both sides with those of all ranks, and which captions belong where."""

    own: tuple[Tensor, Tensor]  # [n, D] each
    all: tuple[Tensor, Tensor]  # [N, D] and [M, D]
    own_caption: Tensor  # int64 [n]
    own_captions: Tensor  # int64 [n, C]
    all_caption: Tensor  # int64 [M]
    all_captions: Tensor  # int64 [N, C]

    @classmethod
    def gathered(cls, vectors: Tensor, batch: Mapping[str, Tensor], across_ranks: bool) -> Sides:
        """Gather the vectors [n, 2 + K, D] of all ranks, which must hold as many pairs each.

        `batch` numbers each pair's `caption` [n], all `captions` of its first side [n, C] and its `false` ones [n, K],
        with -1 where there are fewer. False captions are further ones that examples of the first side are told from,
        over all ranks, but are looked for by nothing themselves (Yuksekgonul et al. 2023, section 4, NegCLIP).
        """
        if across_ranks:
            refuse_unequal(vectors)
        gather = gather_with_gradient if across_ranks else lambda tensor: tensor
        every, caption, captions, false = gather(vectors), *(gather(batch[name]) for name in NUMBERS)
        first, second, own = every[:, 0], every[:, 1], (vectors[:, 0], vectors[:, 1])
        if false.shape[1]:
            there = false >= 0
            second, caption = torch.cat([second, every[:, 2:][there]]), torch.cat([caption, false[there]])
        return cls(own, (first, second), batch["caption"], batch["captions"], caption, captions)

    def positive_of_first(self, rows: slice) -> Tensor:
        """Mark, for examples of the first side, which captions are theirs. bool [rows, M]"""
        return (self.own_captions[rows, :, None] == self.all_caption[None, None]).any(1)

    def positive_of_second(self, rows: slice) -> Tensor:
        """Mark, for captions, the examples of the first side that they belong to. bool [rows, N]"""
        return (self.own_caption[rows, None, None] == self.all_captions[None]).any(2)


def clip_loss(sides: Sides, *, label_smoothing: float = 0.0, tile: int = TILE) -> Contrasted:
    """Sum cross-entropies of a softmax over the other side, the mean of both directions (Radford et al. 2021, fig. 3).

    Where several are right the target is spread evenly over them; `label_smoothing` of it over all (ALIGN).
    """

    def direction(side: int, positive_of: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
        own, others = sides.own[side], sides.all[1 - side]

        def part(vectors: Tensor, others: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            logits, positive = vectors @ others.T, positive_of(rows)
            target = positive / positive.sum(1, keepdim=True).to(logits.dtype)
            target = (1.0 - label_smoothing) * target + label_smoothing / len(others)
            return (logits.logsumexp(1) - (logits * target).sum(1)).sum(), _right(logits, positive)

        return _over_tiles(part, own, others, tile)

    with torch.autocast(sides.own[0].device.type, enabled=False):
        first, first_right = direction(0, sides.positive_of_first)
        second, second_right = direction(1, sides.positive_of_second)
    return Contrasted(0.5 * (first + second), first_right, second_right)


def siglip_loss(sides: Sides, *, tile: int = TILE) -> Contrasted:
    """Sum -log sigmoid(similarity) of what belongs together and -log sigmoid(-similarity) of what does not, over all
    combinations of this rank's first side with every rank's second side (Zhai et al. 2023, algorithm 1).
    """

    def part(vectors: Tensor, others: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        logits, positive = vectors @ others.T, sides.positive_of_first(rows)
        return F.softplus(torch.where(positive, -logits, logits)).sum(), _right(logits, positive)

    def found(vectors: Tensor, others: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        logits = vectors @ others.T
        return logits.new_zeros(()), _right(logits, sides.positive_of_second(rows))

    with torch.autocast(sides.own[0].device.type, enabled=False):
        total, first_right = _over_tiles(part, sides.own[0], sides.all[1], tile)
        with torch.no_grad():
            _, second_right = _over_tiles(found, sides.own[1], sides.all[0], tile)
    return Contrasted(total, first_right, second_right)


def _over_tiles(
    part: Callable[..., tuple[Tensor, Tensor]], own: Tensor, others: Tensor, tile: int
) -> tuple[Tensor, Tensor]:
    """Add up what `part` computes of this rank's rows; several tiles are computed again in the backward pass."""
    step = max(1, tile // len(others))
    rows = [slice(start, min(start + step, len(own))) for start in range(0, len(own), step)]
    if len(rows) == 1:
        return part(own, others, rows[0])
    found = [checkpoint(part, own[few], others, few, use_reentrant=False) for few in rows]
    totals, right = zip(*found, strict=True)
    return torch.stack(totals).sum(), torch.stack(right).sum()


@torch.no_grad()
def _right(logits: Tensor, positive: Tensor) -> Tensor:
    return positive.gather(1, logits.argmax(1, keepdim=True)).sum()
