"""Presets on the real data sets; their made-up twins are in test_presets.py."""

from pathlib import Path

import pytest

from pretraining.audio.preprocess import AudioPreprocess
from tests.audio.test_presets import data_of, labelled

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data; the twins on made-up data always run"),
]
SETS = {  # recordings of train, validation, test; seconds that are trained on, as their READMEs have them or less
    "free_spoken_digit": (2400, 300, 300, 1053),
    "connected_digits": (100, 10, 10, 400),
    "yesno": (27, 3, 30, 186),
    "ljspeech_32": (22, 2, 8, 162),
    "barista_speech": (191, 21, 64, 1758),
}


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_is_read_whole(name, tmp_path):
    path = DATA / name.replace("connected_digits", "free_spoken_digit")
    more = ["data.size=100"] if name == "connected_digits" else []
    data, rate = data_of(name, path, tmp_path / "cache", *more)
    *sizes, most = SETS[name]
    assert [len(data.clips(split)) for split in ("train", "validation", "test")] == sizes
    source = data.source("train", AudioPreprocess(sample_rate=rate, normalise=True))
    assert 0.4 * most < source.recordings.lengths.sum() / rate <= most
    splits = labelled(name, path, *more).splits()
    assert splits.test.size == sizes[2] and splits.train.size + splits.validation.size == sizes[0] + sizes[1]
