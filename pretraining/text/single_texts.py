"""Text networks as functions of what a tokenizer makes of single texts.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from pretraining.backbones.base import Features
from pretraining.errors import HandoffError
from pretraining.modality import Function, Tower
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.collate import padding_of
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.transformers_form import has_segments, save_tokenizer

LENGTHS = (7, 12, 33, 64)


class SingleTexts(nn.Module):
    """A network, called by transformers' names."""

    def __init__(self, backbone: TransformersBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Features:
        """Compute the features of ids [B, T]; `attention_mask` is 0 at padding, which is at the end."""
        return self.backbone.of_single_texts(input_ids, attention_mask, token_type_ids)


def function_of(tower: Tower) -> Function:
    """Make the function of a tower."""
    backbone, preprocess = tower
    if not isinstance(backbone, TransformersBackbone):
        raise HandoffError(f"{type(backbone).__name__} pads texts in a way of its own: take a network of transformers")
    segments = has_segments(backbone)
    longest = backbone.max_tokens or max(LENGTHS)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if segments else [])]

    def example(rows: int, length: int) -> dict[str, Tensor]:
        ids, real = made_up(preprocess, rows, length)
        types = {"token_type_ids": (torch.arange(length) > length // 2).long() * real} if segments else {}
        return {"input_ids": ids, "attention_mask": real, **types}

    lengths = [min(length, longest) for length in LENGTHS]
    axes = {name: ("batch", "length") for name in names}
    save = functools.partial(save_tokenizer, preprocess, backbone, plain=True)
    return Function(SingleTexts(backbone), example, lengths, axes, save)


def made_up(preprocess: TextPreprocess, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Draw rows of ordinary tokens, each but the first with more padding; returns ids and what is real. int64 [B, T]"""
    ordinary = torch.from_numpy(preprocess.ordinary_ids)
    ids = ordinary[torch.randint(0, len(ordinary), (rows, length), generator=torch.Generator().manual_seed(0))]
    real = (torch.arange(length) < (length - torch.arange(rows)[:, None]).clamp(min=1)).long()
    return torch.where(real > 0, ids, padding_of(preprocess)), real
