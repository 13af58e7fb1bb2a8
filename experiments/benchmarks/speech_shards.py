"""How much audio a core reads: from the 16-bit shards that training reads, and from files that are decoded each time.

    python -m experiments.benchmarks.speech_shards

Spoken letters at 16 kHz as FLAC (`--format` takes mp3 and wav, too). `shards` reads rows, prepares them and pads them
to batches, as a loader does; `files` decodes with libsndfile, then does the same, as a loader without shards does;
`write` decodes files into shards, which is done once. Rates are hours of audio per minute of processor time.

The last line is one JSON object: `ratio_files` is shards over files.
"""

from __future__ import annotations

import functools
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.turns import alternate_rates, read_options
from pretraining.audio.collate import StackWaves
from pretraining.audio.data.base import AudioExamples, AudioSource
from pretraining.audio.data.clips import EncodedClip
from pretraining.audio.data.files import AudioFolder
from pretraining.audio.data.layouts import audio_files
from pretraining.audio.data.letters import spoken
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.random import Keys

RATE, WORDS, BATCH = 16_000, 16, 8
STEM = {"kernels": [10, 3, 3, 3, 3, 2, 2], "strides": [5, 2, 2, 2, 2, 2, 2]}


def written(folder: Path, count: int, kind: str) -> Path:
    """Write recordings."""
    import soundfile

    folder.mkdir()
    for number in range(count):
        soundfile.write(folder / f"{number:04d}.{kind}", spoken(0, "train", number, longest=WORDS).samples(RATE), RATE)
    return folder


def opened(folder: Path, cache: Path, preprocess: AudioPreprocess) -> AudioSource:
    """Open recordings as training does."""
    reading: dict[str, Any] = {"min_seconds": 0.1, "max_seconds": 30.0, "on_bad": "refuse", "workers": 0}
    reading |= {"batch_size": 1, "eval_batch_size": 1, "cache_dir": cache, "mono": "mean", "column": "audio"}
    places = dict.fromkeys(("train", "validation", "test"), str(folder))
    return AudioFolder(path=places, **reading).source("train", preprocess)


def main() -> None:
    """Measure and print."""
    given = read_options(__doc__, recordings=64, format=("flac", ["flac", "mp3", "wav"]), seconds=4.0, rounds=5)
    with tempfile.TemporaryDirectory() as directory:
        root, preprocess = Path(directory), AudioPreprocess(sample_rate=RATE, normalise=True)
        folder = written(root / "recordings", given.recordings, given.format)
        source, collate = opened(folder, root / "cache", preprocess), StackWaves(preprocess=preprocess, **STEM)
        clips = [EncodedClip(file.name, file.read_bytes) for file in audio_files(folder)]
        numbers = itertools.count()

        def batches(read: Callable[[np.ndarray], AudioExamples]) -> int:
            """Make batches of all rows; returns their samples."""
            total = 0
            for rows in np.array_split(np.arange(len(clips)), -(-len(clips) // BATCH)):
                examples = read(rows)
                collate(examples, Keys(0, "train", np.zeros_like(rows), rows))
                total += int(examples.lengths.sum())
            return total

        def decoded(rows: np.ndarray) -> AudioExamples:
            found = [clips[row].samples(RATE) for row in rows]
            return AudioExamples(np.concatenate(found), np.array(list(map(len, found))))

        def write() -> int:
            return int(opened(folder, root / f"cache{next(numbers)}", preprocess).lengths.sum())

        runs: dict[str, Callable[[], int]] = {
            "shards": functools.partial(batches, functools.partial(source.read, 0)),
            "write": write,
        }
        runs["files"] = functools.partial(batches, decoded)
        found = alternate_rates(runs, seconds=given.seconds, rounds=given.rounds)
    hours = {name: [60.0 * rate / RATE / 3600.0 for rate in rates] for name, rates in found.items()}
    for name, rates in hours.items():
        spread = f"({min(rates):,.1f} to {max(rates):,.1f})"
        print(f"{name:<8}{statistics.median(rates):10,.1f} hours of audio per minute {spread}")
    middle = {name: round(statistics.median(rates), 2) for name, rates in hours.items()}
    ratio = round(middle["shards"] / middle["files"], 2)
    print(json.dumps({"ratio_files": ratio, "hours_per_minute": middle, "format": given.format}))


if __name__ == "__main__":
    main()
