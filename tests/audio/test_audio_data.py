"""Recordings in splits and rows: spoken letters, folders, tables; long ones in pieces."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pretraining.audio.data.base import pieces
from pretraining.audio.data.files import AudioFolder
from pretraining.audio.data.letters import KEYWORDS, LETTERS, LEXICON, SpokenLetters, spoken
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.cli.prepare import prepare_all

ROWS = {"min_seconds": 0.3, "max_seconds": 2.0, "on_bad": "refuse", "batch_size": 4, "eval_batch_size": 4, "workers": 0}
PLAIN = AudioPreprocess(sample_rate=8000, normalise=False)


def letters(cache_dir, **changes):
    return SpokenLetters(**ROWS | {"size": 40, "max_words": 3, "seed": 0, "cache_dir": cache_dir} | changes)


def test_an_utterance_is_a_function_of_seed_split_and_index():
    first, again, other = (spoken(seed, "train", 5, longest=3).samples(8000) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(other) != len(first) or (other != first).any()
    texts = [spoken(0, split, index, longest=4).text for split in ("train", "test") for index in range(50)]
    assert len(set(texts)) > 60 and {len(text.split()) for text in texts} == {1, 2, 3, 4}
    assert set("".join(texts)) <= set(LETTERS) | {" "} and {w for t in texts for w in t.split()} <= set(LEXICON)
    assert set(KEYWORDS) < set(LEXICON) and all(set(word) <= set(LETTERS) for word in LEXICON)


def test_no_voice_is_heard_in_two_splits():
    heard = {split: {spoken(0, split, index, longest=1).speaker for index in range(300)} for split in
             ("train", "validation", "test")}  # fmt: skip
    assert len(heard["train"]) == 24 and len(heard["test"]) == 8
    assert not heard["train"] & heard["test"] and not heard["validation"] & (heard["train"] | heard["test"])


def test_letters_sound_like_their_resonances():
    from pretraining.audio.data.letters import Voice, said

    middle = Voice(pitch=110.0, tract=1.0, pace=0.2)
    for letter, sound in LETTERS.items():
        wave = said(sound, middle, 16000, np.random.default_rng(1))
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16384))
        near = np.abs(np.fft.rfftfreq(16384, 1 / 16000)[:, None] - sound.resonances).min(1) < max(200, sound.width)
        assert (spectrum[near] ** 2).sum() > 0.6 * (spectrum**2).sum(), letter


def test_the_same_clip_lasts_as_long_at_another_rate():
    clip = spoken(0, "train", 3, longest=4)
    assert len(clip.samples(16000)) == pytest.approx(2 * len(clip.samples(8000)), rel=2e-3)


def test_a_split_is_opened_as_rows_and_a_short_one_is_an_error(tmp_path):
    source = letters(tmp_path).source("train", PLAIN)
    assert source.count(0) == 40 and letters(tmp_path).source("test", PLAIN).count(0) == 4
    read = source.read(0, np.array([7, 3]))
    np.testing.assert_array_equal(read.each()[0], spoken(0, "train", 7, longest=3).samples(8000)[: 2 * 8000])
    assert source.mean_seconds == pytest.approx(source.lengths.mean() / 8000)
    with pytest.raises(
        ValueError, match=r"40 rows, less than one batch of data\.batch_size=64: lower data\.batch_size"
    ):
        letters(tmp_path, batch_size=64).source("train", PLAIN)
    with pytest.raises(ValueError, match=r"all 40 recordings of the train split are shorter than data\.min_seconds=60"):
        letters(tmp_path, min_seconds=60.0, max_seconds=60.0).source("train", PLAIN)
    with pytest.raises(ValueError, match=r"data\.min_seconds=3 and data\.max_seconds=2"):
        letters(tmp_path, min_seconds=3)


def test_recordings_are_prepared_ahead_of_training(tmp_path):
    given = ["data=spoken_letters", "preprocess=speech_units", "preprocess.units=8", f"data.cache_dir={tmp_path}"]
    facts = prepare_all([*given, "data.size=20", "data.batch_size=4", "preprocess.sample_seconds=5"])
    assert [fact["split"] for fact in facts] == ["train", "validation"] and facts[0]["recordings"] == 20
    whole = [len(spoken(0, "train", index, longest=4).samples(8000)) for index in range(20)]
    assert facts[0]["seconds"] == pytest.approx(sum(length for length in whole if length >= 4000) / 8000, abs=0.06)
    assert len(list((tmp_path / "units").glob("*/units.safetensors"))) == 1


def test_long_recordings_are_cut_into_pieces_that_cover_them():
    starts, lengths = pieces(np.array([0, 10, 25, 27, 47]), 10, 3)
    assert starts.tolist() == [0, 10, 20, 27, 37] and lengths.tolist() == [10, 10, 5, 10, 10]
    starts, lengths = pieces(np.array([0, 10, 25, 27, 47]), 10, 10)  # all of one length
    assert starts.tolist() == [0, 10, 27, 37] and set(lengths.tolist()) == {10}


def folder(root, count=30, rate=16000):
    for number in range(count):
        path = root / "abc"[number % 3] / f"{number:02d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, spoken(0, "train", number, longest=2).samples(rate), rate)
    return root


def audio_folder(path, cache_dir, **changes):
    settings = {"path": str(path), "mono": "mean", "column": "audio", "cache_dir": cache_dir}
    return AudioFolder(**ROWS | settings | changes)


def test_a_folder_is_split_without_overlap_and_resampled_at_load(tmp_path):
    data = audio_folder(folder(tmp_path / "own"), tmp_path / "cache")
    names = {split: {clip.name for clip in data.clips(split)} for split in ("train", "validation", "test")}
    assert [len(names[split]) for split in names] == [24, 3, 3] and len(set.union(*names.values())) == 30
    at_8k, at_16k = (data.source("test", AudioPreprocess(sample_rate=r, normalise=True)) for r in (8000, 16000))
    assert at_8k.mean_seconds == pytest.approx(at_16k.mean_seconds, rel=1e-3) and at_8k.rate == 8000


def test_folders_named_after_splits_are_splits(tmp_path):
    folder(tmp_path / "own" / "train", 9)
    folder(tmp_path / "own" / "dev", 6)
    data = audio_folder(tmp_path / "own", tmp_path / "cache")
    assert len(data.clips("validation")) == 6 and len(data.clips("train")) == 8 and len(data.clips("test")) == 1


def test_a_recording_of_twenty_minutes_is_read_in_rows(tmp_path):
    (tmp_path / "own").mkdir()
    long = np.tile(spoken(0, "train", 0, longest=4).samples(8000), 1300)[: 20 * 60 * 8000]
    for name in ("one", "two", "three"):
        soundfile.write(tmp_path / "own" / f"{name}.wav", long, 8000)
    source = audio_folder(tmp_path / "own", tmp_path / "cache", max_seconds=30.0).source("train", PLAIN)
    assert source.count(0) % 40 == 0 and (source.lengths == 30 * 8000).all()


def test_tables_of_recordings_are_read_as_datasets_has_them(tmp_path):
    def cell(number):
        held = io.BytesIO()
        soundfile.write(held, spoken(0, "train", number, longest=2).samples(8000), 8000, format="FLAC")
        return {"bytes": held.getvalue(), "path": None}

    for name, count in (("train", 8), ("validation", 5), ("test", 4)):
        pq.write_table(
            pa.table({"audio": [cell(n) for n in range(count)], "n": list(range(count))}), tmp_path / f"{name}.parquet"
        )
    data = audio_folder(tmp_path, tmp_path / "cache")
    assert [len(data.clips(split)) for split in ("train", "validation", "test")] == [8, 5, 4]
    samples = data.source("train", PLAIN).read(0, np.array([3])).samples
    np.testing.assert_allclose(samples, spoken(0, "train", 3, longest=2).samples(8000)[:16000], atol=1)
    with pytest.raises(ValueError, match=r"no column 'sound', only audio, n|no readable column 'sound'"):
        audio_folder(tmp_path, tmp_path / "cache", column="sound").clips("train")
    with pytest.raises(ValueError, match=r"column 'n' of .*train\.parquet holds int64, not encoded recordings"):
        audio_folder(tmp_path, tmp_path / "cache", column="n").clips("train")


def test_a_path_without_recordings_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.path=.*none does not exist"):
        audio_folder(tmp_path / "none", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no recording in its train split \(we take \.wav, \.flac"):
        audio_folder(tmp_path, tmp_path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "struct"])
def test_a_table_names_its_recordings_by_paths(kind, tmp_path):
    place = tmp_path / "own" / "clips"
    place.mkdir(parents=True)
    for number in range(12):
        soundfile.write(place / f"{number:02d}.flac", spoken(0, "train", number, longest=2).samples(16000), 16000)
    shutil.copytree(tmp_path / "own", tmp_path / "other")
    names = sorted(file.name for file in place.iterdir())
    table = tmp_path / f"table.{'parquet' if kind == 'struct' else kind}"
    if kind == "csv":
        table.write_text("audio\n" + "\n".join(names) + "\n")
    elif kind == "jsonl":
        table.write_text("".join(json.dumps({"audio": name}) + "\n" for name in names))
    else:
        cells = names if kind == "parquet" else [{"bytes": None, "path": name} for name in names]
        pq.write_table(pa.table({"audio": cells}), table)
    data = audio_folder(table, tmp_path / "cache", folder="own/clips")
    files = [clip for split in ("train", "validation", "test") for clip in data.clips(split)]
    assert len(files) == 12 and all(len(clip.samples(8000)) for clip in files)
    (tmp_path / "tables").mkdir()
    table.rename(tmp_path / "tables" / table.name)  # a directory that holds nothing else
    inside = audio_folder(tmp_path / "tables", tmp_path / "cache", folder="../own/clips")
    assert sum(len(inside.clips(split)) for split in ("train", "validation", "test")) == 12
    known = inside.identity("train")
    assert audio_folder(tmp_path / "tables", tmp_path / "cache", folder="../other/clips").identity("train") != known
    soundfile.write(place / names[0], np.ones(9000) * 0.1, 16000)  # the recording changed, its table did not
    assert audio_folder(tmp_path / "tables", tmp_path / "cache", folder="../own/clips").identity("train") != known


def test_recordings_that_are_left_out_as_too_short_are_counted(tmp_path, capsys):
    for split in ("train", "validation", "test"):
        folder(tmp_path / "own" / split, 12)
    soundfile.write(tmp_path / "own" / "train" / "short.wav", np.ones(1600) * 0.1, 16000)
    for split in ("train", "validation", "test"):
        audio_folder(tmp_path / "own", tmp_path / "cache").source(split, PLAIN)
    told = [line for line in capsys.readouterr().err.splitlines() if "shorter than data.min_seconds=0.3" in line]
    assert len(told) == 1 and told[0].startswith("1 of 13 training recordings")
