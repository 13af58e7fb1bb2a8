"""Joins spoken digits of one speaker: real speech with transcripts, as much of it as one wants.

    python -m experiments.speech.connected_digits data/free_spoken_digit data/connected_digits

Reads SPLIT.parquet with `audio`, `text` and `speaker`, and writes SPLIT.parquet with the same columns: 3 to 6 clips of
a speaker with silence of 0 to 190 ms before each, so no recording is in two splits. Always the same ones.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from pretraining.audio.data.clips import decode
from pretraining.random import word

COUNTS = {"train": 3000, "validation": 200, "test": 300}
LEAST, MOST, LONGEST_GAP = 3, 6, 0.19  # clips, seconds


def joined(table: dict[str, list], count: int, seed: tuple[int, ...]) -> dict[str, list]:
    """Join clips into `count` recordings."""
    random = np.random.default_rng(seed)
    clips = [decode(cell["bytes"], f"row {row}") for row, cell in enumerate(table["audio"])]
    speakers = np.array(table["speaker"])
    made: dict[str, list] = {"audio": [], "text": [], "speaker": []}
    for number in range(count):
        speaker = speakers[random.integers(len(speakers))]
        rows = random.choice(np.flatnonzero(speakers == speaker), random.integers(LEAST, MOST + 1), replace=False)
        rate, parts = clips[rows[0]][1], []
        for row in rows:
            parts += [np.zeros(round(random.uniform(0.0, LONGEST_GAP) * rate), np.float32), clips[row][0][:, 0]]
        file = io.BytesIO()
        soundfile.write(file, np.concatenate(parts), rate, format="FLAC", subtype="PCM_16")
        made["audio"].append({"bytes": file.getvalue(), "path": f"{number:05}.flac"})
        made["text"].append(" ".join(table["text"][row] for row in rows))
        made["speaker"].append(str(speaker))
    return made


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    given.target.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        table = pq.read_table(given.source / f"{split}.parquet", columns=["audio", "text", "speaker"]).to_pydict()
        pq.write_table(pa.table(joined(table, count, (0, word(split)))), given.target / f"{split}.parquet")


if __name__ == "__main__":
    main()
