"""Batches by duration: so many seconds per step, padded or cropped, counted exactly, from data to a run's record."""

import json

import numpy as np
import pytest
from omegaconf import OmegaConf

from pretraining.audio.collate import StackWaves
from pretraining.audio.data.letters import SpokenLetters
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import compose
from pretraining.data.loader import StepLoader
from pretraining.launch import affordable_steps, main
from pretraining.random import Keys
from tests.audio.test_runs import overrides, refused

PLAIN = AudioPreprocess(sample_rate=8000, normalise=False)
ROWS = {"min_seconds": 0.3, "max_seconds": 2.0, "on_bad": "refuse", "batch_size": 4, "eval_batch_size": 4, "workers": 0}


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """Open 240 utterances in steps of 6 seconds."""
    cache = tmp_path_factory.mktemp("cache")

    def opened(split="train", **changes):
        settings = ROWS | {"size": 240, "max_words": 4, "seed": 0, "cache_dir": cache, "batch_seconds": 6.0} | changes
        return SpokenLetters(**settings).source(split, PLAIN)

    return opened


def steps(source, **options):
    count = int(source.batches.behind[-1])
    collate = StackWaves(preprocess=PLAIN, kernels=[10], strides=[5])
    return list(StepLoader(source, collate, **{"batch_size": 1, "max_steps": count, "seed": 3} | options))


def test_a_step_holds_so_many_seconds_padding_included(letters):
    source = letters()
    sizes = [step.micro_batches[0]["inputs"]["waves"].shape for step in steps(source)]
    padded = np.array([rows * samples / 8000 for rows, samples in sizes])
    assert padded.max() <= 6.0 and len({rows for rows, _ in sizes}) > 2
    assert source.lengths.sum() / 8000 / padded.sum() > 0.85
    assert letters("validation").batches is None


def test_a_crop_gives_all_rows_of_a_step_one_length_and_moves_with_the_epoch(letters, capsys):
    source = letters(fit="crop")
    share = source.kept.sum() / source.lengths.sum()
    assert f"data.fit=crop keeps {share:.0%} of the audio of each epoch" in capsys.readouterr().err and 0.7 < share < 1
    served = steps(source, max_steps=2 * int(source.batches.behind[-1]))
    assert all("lengths" not in step.micro_batches[0]["inputs"] for step in served)
    widths = {step.micro_batches[0]["inputs"]["waves"].shape[1] for step in served}
    assert widths == {int(source.lengths[group].min()) for group in source.batches.groups} and len(widths) > 1
    row = int(source.lengths.argmax())
    if source.kept[row] == source.lengths[row]:
        row = int((source.lengths - source.kept).argmax())
    whole, starts = source.read(0, np.array([row])), set()
    for epoch in range(4):
        keys = Keys(3, "train", np.array([epoch]), np.array([row]))
        cut = whole.cropped(keys)
        places = [
            p
            for p in range(len(whole.samples) - cut.lengths[0] + 1)
            if (whole.samples[p : p + cut.lengths[0]] == cut.samples).all()
        ]
        assert len(cut.samples) == source.kept[row] and places
        assert (cut.cropped(keys).samples == cut.samples).all()
        starts.add(places[0])
    assert len(starts) > 1
    seconds = sum(step.units for step in served) / 2
    assert seconds == pytest.approx(source.kept.sum() / 8000) == pytest.approx(source.mean_seconds * source.count(0))


def test_what_no_step_can_hold_is_named(letters, cache_dir, tmp_path):
    with pytest.raises(ValueError, match=r"batch_seconds=1 holds no row of 2\.0 s: raise it, or cut rows shorter"):
        letters(batch_seconds=1.0)
    with pytest.raises(
        ValueError, match=r"split has \d+\.\d s of audio, less than one step of data\.batch_seconds=900"
    ):
        letters(batch_seconds=900.0)
    with pytest.raises(ValueError, match=r"data\.fit=crop and data\.batch_seconds=None: choose pad, or crop with"):
        letters(batch_seconds=None, fit="crop")
    mine = overrides("wav2vec2", cache_dir)
    refused([*mine, "data.batch_seconds=4", "trainer.accumulate=4"], tmp_path, "data.batch_seconds holds only",
            "x trainer.accumulate=4: raise it")  # fmt: skip
    refused([*mine, "data.batch_seconds=0"], tmp_path, "data.batch_seconds=0")


def test_budgets_and_records_count_the_seconds_that_are_served(cache_dir, tmp_path):
    mine = [word for word in overrides("masked_units", cache_dir) if not word.startswith("trainer.max_steps")]
    mine += ["data.batch_seconds=12", "trainer.val_every=0", "trainer.checkpoint_every=1000"]
    data = {"size": 60, "max_words": 4, "seed": 0, "cache_dir": cache_dir, "batch_seconds": 12.0, "min_seconds": 0.5}
    source = SpokenLetters(**ROWS | data).source("train", PLAIN)
    epoch, count = source.lengths.sum() / 8000, int(source.batches.behind[-1])
    assert affordable_steps(compose([*mine, f"budget.units={2.5 * epoch}"])) == int(2.5 * count)
    run = main(compose([*mine, f"budget.units={epoch + 1e-6}", f"run_dir={tmp_path / 'run'}"]))
    assert json.loads((run / "metrics.json").read_text())["audio_seconds"] == pytest.approx(epoch, abs=1e-6)
    written = OmegaConf.load(run / "config.yaml")
    assert written.trainer.max_steps == count and written.data.batch_size == round(source.count(0) / count)
