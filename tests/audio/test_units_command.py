"""The command that makes units and judges them: its numbers against distances and counts that are written out."""

import itertools
from collections import Counter

import numpy as np
import pytest

from pretraining.audio.codebook import features
from pretraining.audio.data.letters import spoken
from pretraining.audio.unit_quality import make_units, purity
from pretraining.audio.units import KMeansUnits
from pretraining.errors import RunError
from tests.audio.test_units import data

WORDS = [
    "data=spoken_letters",
    "data.size=30",
    "data.max_words=2",
    "preprocess.units=9",
    "preprocess.sample_seconds=20",
]


def test_a_clip_knows_which_letter_sounds_when():
    for index in range(6):
        clip = spoken(0, "train", index, longest=3)
        sounds, samples = clip.sounds(8000), clip.samples(8000).astype(float)
        assert len(sounds) == len(samples)
        letters = [letter for letter, _ in itertools.groupby(sounds) if letter != " "]
        assert letters == list("".join(clip.words))
        quiet = np.square(samples[sounds == " "]).mean()  # but for noise
        assert all(np.square(samples[sounds == letter]).mean() > 5 * quiet for letter in set(letters))


def test_numbers_are_those_of_distances_and_counts_written_out(tmp_path):
    found = make_units([*WORDS, f"data.cache_dir={tmp_path}"])
    rows = data(tmp_path, min_seconds=0.5, max_seconds=4.0)
    made = KMeansUnits(sample_rate=8000, normalise=True, units=9, sample_seconds=20).fit(rows)
    away, pairs = [], []
    for clip in rows.clips("validation"):
        for place, frame in enumerate(features(made(clip.samples(8000)), 8000, "mfcc")):
            squares = [np.sum((frame - code) ** 2) for code in made.codebook.codes]
            away.append(min(squares))
            pairs.append((int(np.argmin(squares)), clip.sounds(8000)[80 * place + 100]))
    shares = np.array(list(Counter(unit for unit, _ in pairs).values())) / len(pairs)
    of_units = [Counter(letter for unit, letter in pairs if unit == number) for number in range(9)]
    pure = sum(max(counts.values(), default=0) for counts in of_units) / len(pairs)
    assert found["inertia"] == pytest.approx(np.mean(away)) and found["frames"] == len(pairs)
    assert found["used"] == len(shares) <= found["units"] == 9
    assert found["perplexity"] == pytest.approx(np.prod(shares**-shares))
    assert found["purity"] == pytest.approx(pure)
    commonest = max(Counter(letter for _, letter in pairs).values()) / len(pairs)
    assert found["commonest_sound"] == pytest.approx(commonest) and pure > commonest + 0.1


def test_purity_of_units_that_are_sounds_is_one_and_of_a_single_unit_that_of_the_commonest():
    sounds = np.array(list("aabbbc"))
    assert purity(np.array([2, 2, 0, 0, 0, 1]), sounds) == {"purity": 1.0, "commonest_sound": 0.5}
    assert purity(np.zeros(6, int), sounds)["purity"] == 0.5


def test_what_has_no_units_is_refused(tmp_path):
    for words in (["data=stdlib_docs"], ["data=spoken_letters", "preprocess=speech"]):
        with pytest.raises(
            RunError, match="give recordings, and preprocess=speech_units, random_speech_units or layer_units"
        ):
            make_units(words)
