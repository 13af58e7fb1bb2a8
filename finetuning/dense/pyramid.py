"""Maps of one width at several strides, out of what any image backbone answers.

Shapes: B images, S their size in pixels, C channels, W width.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FeaturePyramidNetwork

from pretraining.backbones.base import Features
from pretraining.errors import RunError

FINEST = 4  # the smallest stride by default


class Pyramid(nn.Module):
    """Maps [B, W, S / stride, S / stride], from fine to coarse.

    Of a network with stages: a feature pyramid network (Lin et al. 2017) on the stages of these strides. Of patches:
    the simple feature pyramid (Li et al. 2022, "Exploring plain vision transformer backbones", section 3) on the last
    map. Coarser strides than there are halve the last map. `strides` null: of stages, those from 4 on and the next; of
    patches, half of theirs, theirs and twice theirs.
    """

    def __init__(self, features: Features, *, size: int, strides: list[int] | None, width: int) -> None:
        super().__init__()
        self.out_channels = width
        own = [round(size / part.shape[-1]) for part in features.stages or ()]
        cells = grid_of(features)
        patch = size // cells.shape[-1]
        if strides is None:
            usual = sorted({stride for stride in own if stride >= FINEST} or {own[-1]}) if own else [patch // 2, patch]
            strides = [*usual, 2 * usual[-1]]
        self.strides = list(strides)
        if self.strides != sorted({*self.strides}):
            raise RunError(f"got task.strides={self.strides}: give them from fine to coarse, each once")
        self.parts: nn.Module
        if own:
            self.places, widths = self._stages(own, features)
            self.parts = FeaturePyramidNetwork(widths, width)
        else:
            self.places = []
            self.parts = nn.ModuleList([self._branch(patch, stride, cells.shape[1], width) for stride in self.strides])

    def _stages(self, own: list[int], features: Features) -> tuple[list[int], list[int]]:
        assert features.stages is not None
        places = {stride: place for place, stride in enumerate(own)}
        there = [stride for stride in self.strides if stride in places]
        beyond = [stride for stride in self.strides if stride not in places]
        halved = [there[-1] << (number + 1) for number in range(len(beyond))] if there else []
        if not there or beyond != halved:
            what = f"got task.strides={self.strides}, but the backbone's maps have the strides {sorted(places)}"
            raise RunError(f"{what}: choose among these, and doubles of the last one")
        chosen = [places[stride] for stride in there]
        return chosen, [features.stages[place].shape[1] for place in chosen]

    @staticmethod
    def _branch(patch: int, stride: int, channels: int, width: int) -> nn.Sequential:
        """Bring the last map to a stride: transposed convolutions double it, pooling halves it."""
        doublings = math.log2(patch / stride)
        if doublings != int(doublings) or doublings > 2:
            what = f"got task.strides={stride} for a backbone with patches of {patch} pixels"
            raise RunError(f"{what}: give {patch // 4}, {patch // 2}, {patch}, {patch * 2}, ...")
        layers: list[nn.Module] = [nn.MaxPool2d(2) for _ in range(int(-doublings))]
        for number in range(int(doublings)):
            if number:
                layers += [LayerNorm2d(channels), nn.GELU()]
            layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, stride=2))
            channels //= 2
        layers += [nn.Conv2d(channels, width, 1, bias=False), LayerNorm2d(width)]
        return nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width))

    def forward(self, features: Features) -> list[Tensor]:
        """Compute the maps."""
        if not self.places:
            cells = grid_of(features)
            return [branch(cells) for branch in self.parts]  # type: ignore[attr-defined]
        assert features.stages is not None
        given = OrderedDict((str(place), features.stages[place]) for place in self.places)
        maps = list(self.parts(given).values())
        while len(maps) < len(self.strides):
            maps.append(F.max_pool2d(maps[-1], 1, 2))
        return maps


def grid_of(features: Features) -> Tensor:
    """Lay the positions out as the map that they are. [B, C, rows, columns]"""
    if features.grid is None or len(features.grid) != 2:
        raise RunError("got a backbone whose positions are no map, which dense tasks need: take another handoff=")
    return features.positions.transpose(1, 2).unflatten(2, features.grid)


@torch.no_grad()
def example_features(backbone: nn.Module, channels: int, size: int) -> Features:
    """Compute the features of one black image: the shapes that a head will get."""
    training = {name: part.training for name, part in backbone.named_modules()}
    try:
        return backbone.eval()(torch.zeros(1, channels, size, size))
    except (AssertionError, RuntimeError, ValueError) as error:
        told = str(error).splitlines()[0]
        raise RunError(
            f"got task.inputs.size={size}, which this backbone does not take ({told}): leave it null, or give another"
        ) from error
    finally:
        for name, part in backbone.named_modules():
            part.training = training[name]
