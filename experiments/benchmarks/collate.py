"""How fast rows become masked batches on one core, beside transformers' collator on the same rows.

    python -m experiments.benchmarks.collate

Ours: reading rows, laying them out, an exact number of keyed predictions per row, their fates, random tokens, labels
and places. Theirs: `DataCollatorForLanguageModeling` on token lists that are there already. Units are tokens that are
no padding, in processor time; the sides take turns. The last line is one JSON object with `tokens_per_second` (the
median round) and `ratio_collate`.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable

import numpy as np
import torch

from experiments.benchmarks.mlm_text import SEED, Rows, mask_tokens, open_text
from experiments.benchmarks.turns import CACHE, alternate_rates, read_options
from pretraining.data.loader import collated
from pretraining.random import Keys


def ours(tokens: int, batch: int, cache_dir: str) -> Callable[[], int]:
    """Prepare a function that makes the next batch and counts its tokens."""
    preprocess, source = open_text(tokens, "packed", cache_dir)
    collate = mask_tokens(preprocess, tokens)
    numbers = itertools.count()

    def run() -> int:
        number = next(numbers)
        rows = (np.arange(batch) + number * batch) % source.count(0)
        keys = Keys(SEED, "train", np.full(batch, number), rows)
        return int(collated(collate, source.read(0, rows), keys)["units"])

    return run


def theirs(tokens: int, batch: int, cache_dir: str) -> Callable[[], int]:
    """Prepare the same of transformers' collator."""
    from transformers import DataCollatorForLanguageModeling

    preprocess, source = open_text(tokens, "packed", cache_dir)
    collate = DataCollatorForLanguageModeling(preprocess.tokenizer, mlm_probability=0.15)
    rows = Rows(preprocess, source, 4 * batch)
    ready = [rows[number] for number in range(len(rows))]
    firsts = itertools.cycle(range(0, len(ready), batch))

    def run() -> int:
        first = next(firsts)
        return int(collate(ready[first : first + batch])["attention_mask"].sum())

    return run


def main() -> None:
    """Measure and print."""
    round_of_one = 1.0, "of a round of one side"
    given = read_options(__doc__, tokens=128, batch=(256, "rows"), rounds=7, seconds=round_of_one, cache_dir=CACHE)
    torch.set_num_threads(1)
    sides = {"ours": ours, "transformers": theirs}
    runs = {name: prepare(given.tokens, given.batch, given.cache_dir) for name, prepare in sides.items()}
    rates = alternate_rates(runs, seconds=given.seconds, rounds=given.rounds)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        spread = f"{min(values) / 1e6:.2f} to {max(values) / 1e6:.2f}"
        print(f"{name:14} {median[name] / 1e6:8.2f} M tokens/s per core, {spread}")
    ratio = round(median["ours"] / median["transformers"], 1)
    rounded = {"tokens_per_second": round(median["ours"])}
    rounded["transformers_tokens_per_second"] = round(median["transformers"])
    print(json.dumps({"ratio_collate": ratio, **rounded, "tokens": given.tokens, "batch": given.batch}))


if __name__ == "__main__":
    main()
