"""How long a hand-off takes to write and to read, beside `save_pretrained` and `from_pretrained` of the same model.

    python -m experiments.benchmarks.handoff

Ours syncs what it writes, keeps a sha256 of each file and checks it when it reads, and holds the tokenizer. The sides
take turns. The last line is one JSON object: `ratio_write` and `ratio_read` are transformers' seconds over ours,
`ratio_size` our bytes over theirs.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.mlm_text import SHAPES, bert_config, open_text
from experiments.benchmarks.turns import CACHE, alternate, read_options
from pretraining import handoff
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT


def timed(work: Callable[[Path], Any], folder: Path, *, write: bool) -> Callable[[], float]:
    """Make a measurement of work on the next directory in a folder; reading is of the newest that is there."""
    numbers = itertools.count()

    def measure() -> float:
        directory = folder / f"step-{next(numbers):07d}" if write else max(folder.glob("step-*"))
        started = time.perf_counter()
        work(directory)
        return time.perf_counter() - started

    return measure


def size(folder: Path) -> int:
    """Add up the files of the newest directory in a folder."""
    return sum(path.stat().st_size for path in max(folder.glob("step-*")).rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    given = read_options(__doc__, shape=("base", sorted(SHAPES)), rounds=5, cache_dir=CACHE)
    preprocess, _ = open_text(128, "packed", given.cache_dir)
    torch.manual_seed(0)
    backbone = TransformersBackbone(config={"model_type": "bert", **bert_config(given.shape, 0.1, preprocess)})
    model: Any = backbone.model
    towers = TEXT.towers(backbone, preprocess)

    def write(directory: Path) -> None:
        handoff.write(directory, towers=towers, origin={"objective": "benchmark"}, heads={})

    def save(directory: Path) -> None:
        model.save_pretrained(directory)
        preprocess.tokenizer.save_pretrained(directory)

    with tempfile.TemporaryDirectory() as scratch:
        mine, other = Path(scratch) / "ours", Path(scratch) / "theirs"
        sides = {
            "write": timed(write, mine, write=True),
            "their_write": timed(save, other, write=True),
            "read": timed(lambda directory: handoff.read(str(directory)), mine, write=False),
            "their_read": timed(type(model).from_pretrained, other, write=False),
        }
        # The first round warms up.
        times = {name: values[1:] for name, values in alternate(sides, given.rounds + 1).items()}
        sizes = size(mine), size(other)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:12} {value:7.3f} s, {min(times[name]):.3f} to {max(times[name]):.3f}")
    found = {f"ratio_{name}": round(median[f"their_{name}"] / median[name], 2) for name in ("write", "read")}
    found |= {"ratio_size": round(sizes[0] / sizes[1], 4)}
    found |= {f"{name}_seconds": round(value, 4) for name, value in median.items()}
    print(json.dumps({**found, "megabytes": round(sizes[0] / 1e6, 1)}))


if __name__ == "__main__":
    main()
