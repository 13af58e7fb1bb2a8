"""A cheap stem: log-mel energies and a few convolutions, in place of convolutions over the wave.

Shapes: B rows, N samples, T frames, M mel bins, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.audio.spectrum import FLOOR, PREEMPHASIS, mel_filters, window


class LogMelStem(nn.Module):
    """Mel energies of windows of `kernels[0]` samples every `strides[0]`, then a convolution for each further kernel.

    `channels` counts the mel bins and then each convolution's channels. Nothing is padded, and frames are normalised by
    themselves: what follows a row changes nothing in it.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int], rate: int) -> None:
        super().__init__()
        self.size, self.hop = kernels[0], strides[0]
        self.fft = 1 << (self.size - 1).bit_length()
        filters = torch.from_numpy(mel_filters(rate, channels[0], self.fft)).float()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.from_numpy(window(self.size)).float(), persistent=False)
        sizes = zip(channels[:-1], channels[1:], kernels[1:], strides[1:], strict=True)
        self.convolutions = nn.ModuleList(nn.Conv1d(into, out, kernel, stride) for into, out, kernel, stride in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in channels)

    def forward(self, waves: Tensor) -> Tensor:
        """Compute the frames of waves [B, N]. [B, C, T]"""
        frames = self.norms[0](self._energies(waves).to(next(self.norms.parameters()).dtype))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            frames = F.gelu(norm(convolution(frames.transpose(1, 2)).transpose(1, 2)))
        return frames.transpose(1, 2)

    @torch.no_grad()
    def _energies(self, waves: Tensor) -> Tensor:
        """Compute log mel energies. [B, T, M]"""
        with torch.autocast(waves.device.type, enabled=False):
            framed = waves.to(self.filters.dtype).unfold(1, self.size, self.hop)
            framed = framed - framed.mean(2, keepdim=True)
            framed = framed - PREEMPHASIS * torch.cat([framed[..., :1], framed[..., :-1]], 2)
            power = torch.fft.rfft(framed * self.window, self.fft).abs().square()
            return (power @ self.filters).clamp(min=FLOOR).log()
