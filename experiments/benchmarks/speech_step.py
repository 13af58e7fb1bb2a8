"""How fast wav2vec 2.0 trains here, end to end, beside transformers' own model and helpers in a plain loop.

    python -m experiments.benchmarks.speech_step --batch 8 --blocks 3 --seconds 60

Four layers of 256 behind a stem of 128 channels (`--shapes small`), waves of 16 kHz and at most 8 seconds, padded to
the longest of a batch; loading, masks, negatives and the optimizer are inside of what is timed. Each side has a process
of its own and sleeps while another works: A B A B ..., after a warm-up. Units are seconds of audio without padding.

The last line is one JSON object: `ratio_default` is this package at its default precision over transformers at its own
(fp32), `ratio_fp32` both in fp32, `ratio_bf16` both in bf16.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from experiments.benchmarks import speech_sides
from experiments.benchmarks.turns import (
    BLOCKS,
    CACHE,
    CORES,
    DEVICE,
    Side,
    ratios,
    read_options,
    show_rates,
    take_turns,
)

PAIRS = {
    "ratio_default": ("ours_auto", "transformers_fp32"),
    "ratio_fp32": ("ours_fp32", "transformers_fp32"),
    "ratio_bf16": ("ours_bf16", "transformers_bf16"),
}
SIDES = ["ours_auto", "ours_fp32", "ours_bf16", "transformers_fp32", "transformers_bf16"]


def sides_of(shape: str, given: argparse.Namespace) -> dict[str, Side]:
    """Name the sides with their settings."""
    same = {name: getattr(given, name) for name in ("batch", "device", "threads", "workers", "cache_dir")}
    works = {"ours": speech_sides.ours, "transformers": speech_sides.plain}
    sides: dict[str, Side] = {}
    for name in given.sides:
        who, precision = name.split("_")
        sides[name] = works[who], speech_sides.Setting(shape, **same, precision=precision)
    return sides


def main() -> None:
    """Measure and print."""
    batch, shapes = (8, "rows per step"), (["small"], list(speech_sides.SHAPES))
    cores = {"threads": CORES, "workers": (0, "of the peer's data loader")}
    given = read_options(
        __doc__, shapes=shapes, batch=batch, sides=(SIDES, SIDES), **BLOCKS, **cores, device=DEVICE, cache_dir=CACHE
    )
    results: list[dict[str, Any]] = []
    for shape in given.shapes:
        sides = sides_of(shape, given)
        _ = next(iter(sides.values()))[1].source  # made once, before both sides ask for it
        found = take_turns(sides, given)
        show_rates(found, "s of audio per s", f"{shape:<8}")
        results.append({"shape": shape, **ratios(found, PAIRS), "sides": found})
    heads = {name: value for name, value in results[0].items() if name.startswith("ratio")}
    options = {name: getattr(given, name) for name in ("device", "threads", "workers", "batch", "seconds", "blocks")}
    print(json.dumps({**heads, **options, "results": results}))


if __name__ == "__main__":
    main()
