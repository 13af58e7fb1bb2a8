"""How fast rows become masked batches on one core, beside transformers' collator on the same rows.

    python -m experiments.benchmarks.collate

Ours: reading rows, laying them out, an exact number of keyed predictions per row, their fates, random tokens, labels and places. Theirs:
`DataCollatorForLanguageModeling` on token lists that are there already. Units are tokens that are no padding, in processor time; the
sides take turns. The last line is one JSON object with `tokens_per_second` (the median round) and `ratio_collate`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from experiments.benchmarks.mlm_sides import SEED, Rows, text
from pretraining.data.loader import collated
from pretraining.objectives.text.masked_language import MaskTokens
from pretraining.random import Keys


def ours(tokens: int, batch: int, cache_dir: str) -> Callable[[int], int]:
    """Give a function that makes batch `number` and counts its tokens."""
    preprocess, source = text(tokens, "packed", cache_dir)
    collate = MaskTokens(
        preprocess=preprocess, max_tokens=tokens, fraction=0.15, unit="token", mask_share=0.8, random_share=0.1
    )

    def run(number: int) -> int:
        rows = (np.arange(batch) + number * batch) % source.count(0)
        keys = Keys(SEED, "train", np.full(batch, number), rows)
        return int(collated(collate, source.read(0, rows), keys)["tokens"])

    return run


def theirs(tokens: int, batch: int, cache_dir: str) -> Callable[[int], int]:
    """Give the same of transformers' collator."""
    from transformers import DataCollatorForLanguageModeling

    preprocess, source = text(tokens, "packed", cache_dir)
    collate, rows = (
        DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15),
        Rows(preprocess, source, 4 * batch),
    )
    ready = [rows[number] for number in range(len(rows))]

    def run(number: int) -> int:
        first = number % 4 * batch
        return int(collate(ready[first : first + batch])["attention_mask"].sum())

    return run


def rate(run: Callable[[int], int], seconds: float) -> float:
    """Time one side for a while."""
    made, number, started = 0, 0, time.process_time()
    while time.process_time() - started < seconds:
        made += run(number)
        number += 1
    return made / (time.process_time() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256, help="rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round of one side")
    parser.add_argument("--cache-dir", default="~/.cache/pretraining")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sides = {
        "ours": ours(given.tokens, given.batch, given.cache_dir),
        "transformers": theirs(given.tokens, given.batch, given.cache_dir),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(0)
    for _ in range(given.rounds):
        for name, run in sides.items():
            rates[name].append(rate(run, given.seconds))
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(
            f"{name:14} {median[name] / 1e6:8.2f} M tokens/s per core, {min(values) / 1e6:.2f} to {max(values) / 1e6:.2f}"
        )
    ratio = round(median["ours"] / median["transformers"], 1)
    found = {
        "tokens_per_second": round(median["ours"]),
        "transformers_tokens_per_second": round(median["transformers"]),
    }
    print(json.dumps({"ratio_collate": ratio, **found, "tokens": given.tokens, "batch": given.batch}))


if __name__ == "__main__":
    main()
