"""Data sets read through `datasets`: a local directory stands for the hub, and nothing but soundfile decodes."""

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.configuration import compose, instantiate
from tests.audio.test_presets import cell, encoded, wave

PLAIN = AudioPreprocess(sample_rate=8000, normalise=False)


@pytest.fixture(autouse=True)
def without_decoders(monkeypatch):
    """Neither of what `datasets` would decode with is there."""
    for name in ("torchcodec", "torchaudio"):
        monkeypatch.setitem(sys.modules, name, None)


def hub(name, tmp_path, *more):
    given = ["objective=masked_units", "backbone=log_mel_tiny", "data=hub_audio", f"data.name={name}"]
    return instantiate(compose([*given, f"data.cache_dir={tmp_path / 'cache'}", "data.batch_size=2", *more]).data)


def parquet_folder(root, **splits):
    root.mkdir()
    for split, count in splits.items():
        table = {"audio": [cell(n) for n in range(count)], "speaker": list(range(count))}
        pq.write_table(pa.table(table), root / f"{split}.parquet")
    return root


def assert_reads(data, split, numbers):
    source = data.source(split, PLAIN)
    assert source.count(0) == len(numbers)
    for row, number in enumerate(numbers):
        samples = source.read(0, np.array([row])).samples
        np.testing.assert_allclose(samples, wave(number, 8000, 0.5), atol=1)


def test_parquet_with_encoded_recordings_is_read_in_its_splits(tmp_path):
    data = hub(parquet_folder(tmp_path / "own", train=12, validation=3, test=4), tmp_path)
    assert [len(data.clips(split)) for split in ("train", "validation", "test")] == [12, 3, 4]
    assert_reads(data, "validation", [0, 1, 2])


def test_a_saved_data_set_with_the_feature_of_recordings_is_read_without_a_decoder(tmp_path):
    import datasets

    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{n}.flac" for n in range(14)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded(number))
    rows = datasets.Dataset.from_dict({"sound": list(map(str, paths))})
    kept = rows.cast_column("sound", datasets.Audio(decode=False))
    saved = datasets.Dataset(
        kept.data.table, info=datasets.DatasetInfo(features=datasets.Features({"sound": datasets.Audio()}))
    )
    datasets.DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "saved"))
    assert isinstance(datasets.load_from_disk(str(tmp_path / "saved"))["train"].features["sound"], datasets.Audio)
    data = hub(tmp_path / "saved", tmp_path, "data.column=sound")
    sizes = [len(data.clips(split)) for split in ("train", "validation", "test")]
    assert sizes == [12, 1, 1] and set(data.given) == {"train"}  # those that are missing are cut from it
    numbers = [int(clip.name.split()[-1]) for clip in data.clips("train")]
    assert_reads(data, "train", numbers)


def test_another_content_is_another_identity(tmp_path):
    first = hub(parquet_folder(tmp_path / "a", train=20), tmp_path)
    second = hub(parquet_folder(tmp_path / "b", train=21), tmp_path)
    assert first.identity("train") != second.identity("train") != second.identity("test")


def test_what_cannot_be_read_is_named(tmp_path):
    place = parquet_folder(tmp_path / "own", train=12)
    with pytest.raises(ValueError, match=r"has no column 'sound', only audio, speaker: set data\.column"):
        hub(place, tmp_path, "data.column=sound")
    with pytest.raises(ValueError, match=r"data\.column=speaker, whose value at data\.name=.* row \d+ is a int"):
        hub(place, tmp_path, "data.column=speaker").source("train", PLAIN)
    with pytest.raises(FileNotFoundError, match=r"data\.name=.*none cannot be read"):
        hub(tmp_path / "none", tmp_path)
