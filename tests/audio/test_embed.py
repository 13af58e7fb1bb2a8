"""Recordings as vectors: those of transformers, alone and padded, from arrays and from files."""

import wave

import numpy as np
import pytest
import torch
import transformers

from pretraining import handoff, load
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.embedding.settings import Wanted
from pretraining.errors import RunError
from tests.objectives.audio.small_audio import encoder

LENGTHS = (1600, 1100, 1301)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("speech") / "step-0000001"
    towers = AUDIO.towers(encoder(initializer_range=0.2), AudioPreprocess(sample_rate=8000, normalise=True))
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


def waves():
    draw = np.random.default_rng(0)
    return [(0.1 * draw.normal(size=length)).astype(np.float32) for length in LENGTHS]


@torch.no_grad()
def states_of_transformers(directory, wave):
    """Hidden states of one recording, by transformers alone."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    inputs = extractor(wave, sampling_rate=8000, return_tensors="pt").input_values
    return model(inputs, output_hidden_states=True)


def test_recordings_are_the_pooled_states_of_transformers_at_each_layer(written):
    theirs = [states_of_transformers(written, wave) for wave in waves()]
    model = load(written)
    given = [(wave, 8000) for wave in waves()]
    expected = np.concatenate([found.last_hidden_state.mean(1).numpy() for found in theirs])
    together = model.embed(given)
    assert np.allclose(together, expected, atol=1e-5) and together.shape == (3, 16)
    assert np.allclose(np.concatenate([model.embed([one]) for one in given]), together, atol=1e-5)
    for layer in (0, 1):
        expected = np.concatenate([found.hidden_states[layer].mean(1).numpy() for found in theirs])
        assert np.allclose(model.embed(given, layer=layer), expected, atol=1e-5), layer
    as_datasets_has_it = [{"array": wave.astype(np.float64), "sampling_rate": 8000} for wave in waves()]
    assert np.allclose(model.embed(as_datasets_has_it), together, atol=1e-5)


def test_files_are_what_their_samples_are(written, tmp_path):
    pytest.importorskip("soundfile")
    files, whole = [], [np.round(samples * 32767).astype(np.int16) for samples in waves()]
    for number, samples in enumerate(whole):
        files.append(tmp_path / f"{number}.wav")
        with wave.open(str(files[-1]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(samples.tobytes())
    model = load(written)
    found = model.embed(files)
    assert np.allclose(found, model.embed([(samples, 8000) for samples in whole]), atol=1e-3)
    read = [(shown, vectors) for shown, vectors in model.pieces(model.read(tmp_path), Wanted(batch_size=2))]
    assert [row["file"] for row in read[0][0]] == ["0.wav", "1.wav", "2.wav"]
    assert np.allclose(read[0][1], found, atol=1e-6)


def test_what_is_too_long_is_cut_and_counted(written, capsys):
    samples = waves()[0]
    cut = load(written, max_seconds=0.1).embed([(samples, 8000)])
    assert "1 of 1 recordings have more than inputs.max_seconds=0.1" in capsys.readouterr().err
    assert np.allclose(cut, load(written).embed([(samples[:800], 8000)]), atol=1e-6)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (np.zeros(900, np.float32), r"item 0 is ndarray, and this network reads recordings: give a path, or \(samples"),
        ((np.zeros(900, np.int64), 8000), r"item 0 has samples int64 \[900\] at the rate 8000: give real numbers"),
        ((np.zeros(900, np.float32), 0.5), r"at the rate 0.5: .* and a whole rate"),
        ((8000, np.zeros(9000, np.float32)), r"at the rate ndarray: [^\n]*$"),
        (
            (np.zeros((2, 900), np.float32), 8000),
            r"samples \[2, 900\], .* give \[N\] or \[N, channels\], such as samples.T",
        ),
        ((np.full(900, np.nan, np.float32), 8000), r"item 0 holds values that are no numbers"),
        ((np.ones(8, np.float32), 8000), r"item 0 has 0.001 s, of which this backbone makes no frame"),
        ("nowhere.wav", r"item 0 names the file nowhere.wav, which cannot be read"),
    ],
)
def test_what_is_no_recording_is_told(written, item, told):
    with pytest.raises(RunError, match=told):
        load(written).embed([item])
