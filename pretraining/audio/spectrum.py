"""Short-time spectra: log-mel energies and MFCC as Kaldi defines them, without dither.

Shapes: N samples, T spectral frames of `WINDOW` seconds every `HOP` seconds, M mel bins, C coefficients.
"""

from __future__ import annotations

import functools

import numpy as np

WINDOW, HOP = 0.025, 0.010
LOWEST = 20.0  # Hz
PREEMPHASIS, LIFTER = 0.97, 22.0
MFCC_BINS, MFCC_COEFFICIENTS = 23, 13
FLOOR = float(np.finfo(np.float32).eps)  # of an energy


def spectral_frames(samples: int, rate: int) -> int:
    """Count the spectral frames that fit into so many samples."""
    return max(0, (samples - round(WINDOW * rate)) // round(HOP * rate) + 1)


@functools.cache
def mel_filters(rate: int, bins: int, size: int) -> np.ndarray:
    """Tabulate triangular filters, equally wide in mel, over an FFT of `size`. float64 [size / 2 + 1, M]"""

    def mel(frequency: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)

    edges = np.linspace(mel(LOWEST), mel(rate / 2), bins + 2)
    places = mel(np.arange(size // 2 + 1) * rate / size)[:, None]
    rising = (places - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


@functools.cache
def window(size: int) -> np.ndarray:
    """Tabulate Kaldi's window: a Hann window to the power of 0.85. float64 [size]"""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))) ** 0.85


def log_mel(wave: np.ndarray, rate: int, bins: int) -> np.ndarray:
    """Compute log mel energies of a wave [N]: means removed, pre-emphasised, windowed. float64 [T, M]"""
    size, hop = round(WINDOW * rate), round(HOP * rate)
    if len(wave) < size:
        return np.zeros((0, bins))
    framed = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop].astype(np.float64)
    framed = framed - framed.mean(1, keepdims=True)
    framed = framed - PREEMPHASIS * np.concatenate([framed[:, :1], framed[:, :-1]], 1)
    fft = 1 << (size - 1).bit_length()
    power = np.abs(np.fft.rfft(framed * window(size), fft)) ** 2
    return np.log(np.maximum(power @ mel_filters(rate, bins, fft), FLOOR))


def mfcc(wave: np.ndarray, rate: int) -> np.ndarray:
    """Compute 13 MFCC of a wave [N] with their first and second differences in time. float64 [T, 39]"""
    places = np.arange(MFCC_BINS) + 0.5
    cosines = np.cos(np.pi / MFCC_BINS * places[:, None] * np.arange(MFCC_COEFFICIENTS)) * np.sqrt(2 / MFCC_BINS)
    cosines[:, 0] /= np.sqrt(2)
    lift = 1 + 0.5 * LIFTER * np.sin(np.pi * np.arange(MFCC_COEFFICIENTS) / LIFTER)
    coefficients = log_mel(wave, rate, MFCC_BINS) @ cosines * lift
    first = differences(coefficients)
    return np.concatenate([coefficients, first, differences(first)], 1)


def differences(values: np.ndarray) -> np.ndarray:
    """Compute the slope of each column over five frames; the ends are repeated beyond. [T, C]"""
    if not len(values):
        return values
    wide = np.pad(values, ((2, 2), (0, 0)), mode="edge")
    count = len(values)
    return (wide[3 : 3 + count] - wide[1 : 1 + count] + 2 * (wide[4 : 4 + count] - wide[:count])) / 10.0
