"""Spectra and units against definitions written out, and codebooks that survive a hand-off."""

import numpy as np
import pytest

from pretraining.audio.codebook import Codebook, at_frames, features
from pretraining.audio.data.letters import SpokenLetters, spoken
from pretraining.audio.geometry import field_and_hop, frames_of
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.spectrum import differences, mfcc, spectral_frames
from pretraining.audio.units import KMeansUnits, RandomUnits

KERNELS, STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]


def test_a_published_stem_makes_a_frame_of_25_ms_each_20_ms():
    assert field_and_hop(KERNELS, STRIDES) == (400, 320)
    for samples, frames in (
        (400, 1),
        (399, 0),
        (16_000, 49),
        (40_000, 124),
        (160_000, 499),
        (250_000, 781),
        (320_000, 999),
    ):
        assert frames_of(samples, KERNELS, STRIDES) == frames


def written_out_mfcc(frame, rate):
    """Compute the 13 coefficients of one frame by sums alone."""
    size, fft = len(frame), 1 << (len(frame) - 1).bit_length()
    x = [float(value) - float(np.mean(frame)) for value in frame]
    x = [x[0] - 0.97 * x[0]] + [x[n] - 0.97 * x[n - 1] for n in range(1, size)]
    x = [x[n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / (size - 1))) ** 0.85 for n in range(size)]
    turns = np.arange(size)
    power = [abs(np.sum(x * np.exp(-2j * np.pi * k * turns / fft))) ** 2 for k in range(fft // 2 + 1)]
    mel = lambda f: 1127.0 * np.log(1 + f / 700.0)  # noqa: E731
    low, high, bins = mel(20.0), mel(rate / 2), 23
    step = (high - low) / (bins + 1)
    energies = []
    for b in range(bins):
        left, centre, right = low + b * step, low + (b + 1) * step, low + (b + 2) * step
        total = 0.0
        for k in range(fft // 2 + 1):
            place = mel(k * rate / fft)
            if left < place < right:
                total += power[k] * (
                    (place - left) / (centre - left) if place <= centre else (right - place) / (right - centre)
                )
        energies.append(np.log(max(total, np.finfo(np.float32).eps)))
    result = []
    for c in range(13):
        scale = np.sqrt((1 if c == 0 else 2) / bins)
        value = scale * sum(energies[b] * np.cos(np.pi * c * (b + 0.5) / bins) for b in range(bins))
        result.append(value * (1 + 11.0 * np.sin(np.pi * c / 22.0)))
    return result


def test_mfcc_are_what_their_definition_says():
    wave = spoken(0, "train", 2, longest=1).samples(8000)[:2000].astype(np.float32) / 32768
    found = mfcc(wave, 8000)
    assert found.shape == (spectral_frames(2000, 8000), 39) == (23, 39)
    for frame in (0, 7, 22):
        np.testing.assert_allclose(
            found[frame, :13], written_out_mfcc(wave[frame * 80 : frame * 80 + 200], 8000), rtol=1e-6
        )
    slopes = differences(np.arange(10.0)[:, None] ** 2)[:, 0]
    np.testing.assert_allclose(slopes[2:8], 2 * np.arange(2, 8))  # of n squared
    np.testing.assert_allclose(found[:, 26:], differences(found[:, 13:26]))


def test_units_are_of_the_frame_s_own_place():
    labels = np.arange(200)
    np.testing.assert_array_equal(
        at_frames(labels, 99, (400, 320), (400, 160)), np.arange(99) * 2
    )  # as HuBERT's label rate
    assert at_frames(labels, 5, (400, 640), (400, 160)).tolist() == [0, 4, 8, 12, 16]
    # 8 kHz, a field of 440 samples: its middle is 220, the window's middle 100 + 80 n
    assert at_frames(labels, 3, (440, 320), (200, 80)).tolist() == [2, 6, 10]


def test_units_are_the_nearest_codes():
    random = np.random.default_rng(0)
    wave = spoken(0, "train", 4, longest=2).samples(8000) / 32768
    found = features(wave, 8000, "mfcc")
    codes = found[random.choice(len(found), 7, replace=False)]
    book = Codebook("mfcc", np.zeros(39), np.ones(39), codes)
    nearest = [int(np.argmin([np.linalg.norm(frame - code) for code in codes])) for frame in found]
    assert book.units(wave, 8000).tolist() == nearest and len(set(nearest)) == 7


def data(cache_dir, **changes):
    rows = {
        "min_seconds": 0.3,
        "max_seconds": 2.0,
        "on_bad": "refuse",
        "batch_size": 4,
        "eval_batch_size": 4,
        "workers": 0,
    }
    return SpokenLetters(**rows | {"size": 30, "max_words": 2, "seed": 0, "cache_dir": cache_dir} | changes)


RECIPES = {
    "k-means": lambda **c: KMeansUnits(
        **{"sample_rate": 8000, "normalise": True, "units": 12, "sample_seconds": 20} | c
    ),
    "random": lambda **c: RandomUnits(
        **{"sample_rate": 8000, "normalise": True, "units": 32, "sample_seconds": 20, "width": 8, "seed": 3} | c
    ),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_codebook_is_made_once_used_widely_and_travels_in_a_hand_off(kind, tmp_path):
    (tmp_path / "handoff").mkdir()
    made = RECIPES[kind]().fit(data(tmp_path / "cache"))
    again = RECIPES[kind]().fit(data(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(made.codebook.codes, again.codebook.codes)
    made.save(tmp_path / "handoff")
    read = AudioPreprocess.load(tmp_path / "handoff", **made.kwargs)
    samples = spoken(0, "test", 1, longest=2).samples(8000)
    np.testing.assert_array_equal(made.units(samples), read.units(samples))
    all_units = np.concatenate([made.units(spoken(0, "test", n, longest=2).samples(8000)) for n in range(20)])
    shares = np.bincount(all_units) / len(all_units)
    assert np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()) > 6  # perplexity
    other = AudioPreprocess.load(tmp_path, **made.kwargs)
    assert other.codebook is None


def test_units_do_not_tell_how_loud_a_recording_is(tmp_path):
    made = RECIPES["k-means"]().fit(data(tmp_path))
    samples = spoken(0, "train", 1, longest=2).samples(8000)
    np.testing.assert_array_equal(made.units(samples // 4 * 4), made.units(samples // 4))


def test_too_few_frames_or_units_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frames of training data for preprocess\.units=100000"):
        RECIPES["k-means"](units=100_000).fit(data(tmp_path))
    with pytest.raises(ValueError, match=r"preprocess\.units=1 .*at least 2"):
        RECIPES["random"](units=1)
