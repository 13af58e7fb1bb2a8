"""How long a hand-off takes to write and to read, beside transformers' `save_pretrained` and `from_pretrained` of the same model.

    python -m experiments.benchmarks.handoff

Ours syncs what it writes, keeps a sha256 of each file and checks it when it reads, and holds the tokenizer. The sides take turns. The
last line is one JSON object: `ratio_write` and `ratio_read` are their seconds over ours, `ratio_size` our bytes over theirs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.mlm_sides import SHAPES, bert_config, text
from pretraining import handoff
from pretraining.text.backbones.transformers_model import TransformersBackbone


def seconds(work: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Time one call."""
    started = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - started


def size(directory: Path) -> int:
    """Add up a directory's files."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache-dir", default="~/.cache/pretraining")
    given = parser.parse_args()
    preprocess, _ = text(128, "packed", given.cache_dir)
    torch.manual_seed(0)
    backbone = TransformersBackbone(config={"model_type": "bert", **bert_config(given.shape, 0.1, preprocess)})
    options: dict[str, Any] = {
        "backbone": backbone,
        "preprocess": preprocess,
        "origin": {"objective": "benchmark"},
        "heads": {},
    }
    times: dict[str, list[float]] = {name: [] for name in ("write", "their_write", "read", "their_read")}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.rounds + 1):
            mine, other = Path(scratch) / f"step-{number:07d}", Path(scratch) / f"other-{number}"
            write = seconds(handoff.write, mine, **options)
            their_write = seconds(_saved, backbone.model, preprocess.tokenizer, other)
            read = seconds(handoff.read, str(mine))
            their_read = seconds(type(backbone.model).from_pretrained, other)
            if number:  # the first round warms up
                for name, value in zip(times, (write, their_write, read, their_read), strict=True):
                    times[name].append(value)
        sizes = size(mine), size(other)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:12} {value:7.3f} s, {min(times[name]):.3f} to {max(times[name]):.3f}")
    ratios = {f"ratio_{name}": round(median[f"their_{name}"] / median[name], 2) for name in ("write", "read")}
    facts = {f"{name}_seconds": round(value, 4) for name, value in median.items()}
    print(
        json.dumps(
            {**ratios, "ratio_size": round(sizes[0] / sizes[1], 4), **facts, "megabytes": round(sizes[0] / 1e6, 1)}
        )
    )


def _saved(model: Any, tokenizer: Any, directory: Path) -> None:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
