"""Units of a network's layer: the nearest means to its vectors, named once for each row, and trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining import handoff
from pretraining.audio.data.base import AudioExamples
from pretraining.audio.geometry import field_and_hop, frames_of
from pretraining.audio.layer_units import LayerUnits
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.units import KMeansUnits
from pretraining.cli.configuration import compose
from pretraining.launch import main
from pretraining.objectives.audio.frames import MaskFrames
from tests.audio.test_units import data
from tests.objectives.audio.small_audio import KERNELS, STRIDES, encoder, keys_of


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hand-off of a tiny encoder, never trained."""
    towers = AUDIO.towers(encoder(), AudioPreprocess(sample_rate=8000, normalise=True))
    directory = tmp_path_factory.mktemp("network") / "step-0000001"
    return handoff.write(directory, towers=towers, origin={"objective": "none"}, heads={})


def recipe(network, **changes):
    settings = {"sample_rate": 8000, "normalise": True, "units": 9, "sample_seconds": 8.0, "layer": 1}
    return LayerUnits(handoff=str(network), **settings | changes)


@torch.no_grad()
def test_units_are_the_means_nearest_to_a_layer_at_its_frames(network, tmp_path):
    made, rows = recipe(network).fit(data(tmp_path)), 0
    backbone = handoff.read(str(network)).backbone.eval()
    for split in ("train", "validation"):
        source = data(tmp_path).source(split, made)
        for samples in source.read(0, np.arange(source.count(0))).each():
            layer = backbone.hidden_layers(waves=torch.from_numpy(made(samples))[None])[1].positions[0].numpy()
            nearest = [int(np.argmin([np.sum((frame - code) ** 2) for code in made.codebook.codes])) for frame in layer]
            assert made.units(samples).tolist() == nearest
            rows += len(set(nearest)) > 2
    assert rows > 20


def test_rows_are_named_once_and_a_collate_asks_for_the_frame_s_own_unit(network, tmp_path, monkeypatch):
    made = recipe(network).fit(data(tmp_path))
    monkeypatch.setattr(LayerUnits, "features", lambda *_: pytest.fail("named before"))
    again = recipe(network).fit(data(tmp_path))
    source = data(tmp_path).source("train", again)
    examples: AudioExamples = source.read(0, np.arange(4))
    batch = MaskFrames(preprocess=again, kernels=KERNELS, strides=STRIDES, share=0.5, span=3)(
        examples, keys_of(range(4))
    )
    for row, samples in enumerate(examples.each()):
        units, hidden = made.units(samples), int(batch["hidden"][row])
        assert len(units) == frames_of(len(samples), KERNELS, STRIDES)
        assert batch["codes"][row, :hidden].tolist() == units[batch["places"][row, :hidden]].tolist()


@pytest.mark.parametrize("kind", ["layer", "mfcc"])
def test_a_crop_takes_the_units_of_its_own_place_in_the_whole_row(kind, network, tmp_path):
    """Each frame's unit is that of the whole row whose middle is nearest to its own: the place is found by samples."""
    rows = data(tmp_path, batch_seconds=6.0, fit="crop")
    recipes = {
        "layer": recipe(network),
        "mfcc": KMeansUnits(sample_rate=8000, normalise=True, units=9, sample_seconds=8.0),
    }
    made = recipes[kind].fit(rows)
    source, cut = rows.source("train", made), 0
    examples, (field, hop) = source.read(0, np.arange(source.count(0))), field_and_hop(KERNELS, STRIDES)
    keys = keys_of(range(source.count(0)))
    collate = MaskFrames(preprocess=made, kernels=KERNELS, strides=STRIDES, share=0.5, span=3)
    batch, (window, step) = collate(examples, keys), made.codebook.grid(8000)
    for row, (whole, kept) in enumerate(zip(examples.each(), examples.cropped(keys).each(), strict=True)):
        start = next(n for n in range(len(whole)) if np.array_equal(whole[n : n + len(kept)], kept))
        units, cut = made.units(whole), cut + (start > hop)
        for place, code in zip(
            *(batch[name][row, : batch["hidden"][row]] for name in ("places", "codes")), strict=True
        ):
            middle = start + int(place) * hop + field / 2
            away = [abs(number * step + window / 2 - middle) for number in range(len(units))]
            assert int(code) in units[np.flatnonzero(np.isclose(away, min(away)))]
    assert cut > 5 and len(set(batch["codes"].flatten().tolist())) > 3


def test_other_rows_layers_and_rates_are_refused(network, tmp_path):
    made = recipe(network).fit(data(tmp_path))
    with pytest.raises(ValueError, match=r"a row of 0\.50 s has no units, which were named for the rows of other data"):
        made.units(np.ones(4000, np.int16))
    with pytest.raises(ValueError, match=r"preprocess\.layer=3, but the network of .* has the layers 0 to 2"):
        recipe(network, layer=3).fit(data(tmp_path))
    with pytest.raises(ValueError, match=r"preprocess\.sample_rate=16000, but the network of .* reads 8000"):
        recipe(network, sample_rate=16000).fit(data(tmp_path))
    (tmp_path / "handoff").mkdir()
    made.save(tmp_path / "handoff")
    read = AudioPreprocess.load(tmp_path / "handoff", **made.kwargs)
    assert read.digest == made.digest
    with pytest.raises(ValueError, match="has no units"):
        read.units(np.ones(4000, np.int16))


def test_a_second_iteration_learns_the_units_of_the_first(tmp_path, cache_dir):
    quiet = ["logger.wandb.mode=disabled", "logger.progress=false", f"data.cache_dir={cache_dir}", "data.size=40"]
    small = [*quiet, "data.batch_size=8", "trainer.max_steps=6", "trainer.val_every=3", "objective.width=16"]
    small += ["backbone=log_mel_tiny", "backbone.encoder.num_hidden_layers=2", "trainer.precision=fp32"]
    first = main(compose(["objective=masked_units", "preprocess.units=8", f"run_dir={tmp_path / 'first'}", *small]))
    layer = ["preprocess=layer_units", f"preprocess.handoff={first / 'handoff/last'}", "preprocess.layer=2"]
    layer += ["preprocess.units=12", "preprocess.sample_seconds=20", "preprocess.sample_rate=8000"]
    second = main(compose(["objective=masked_units", f"run_dir={tmp_path / 'second'}", *small, *layer]))
    found = json.loads((second / "metrics.json").read_text())
    assert 0 < found["validation/unit_entropy"] <= np.log(12) + 1e-6
    assert found["validation/masked_units"] < 1.2 * np.log(12)
    assert handoff.read(str(second / "handoff/last")).preprocess.codebook.codes.shape == (12, 128)
