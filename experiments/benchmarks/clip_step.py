"""How fast CLIP trains here, end to end, beside a plain loop over transformers' CLIPModel as open_clip's goes.

    python -m experiments.benchmarks.clip_step --batch 256

Two sides, three blocks of 15 seconds each and a warm-up: under three minutes on two cores. `--sides` names others.

ViT-tiny (12 layers of 192) on 64 x 64 pixels in patches of 8, and 4 layers of 256 (BERT-mini) on captions: scenes of
digits, drawn once and held in memory. Loading, tokenising, both networks, loss, AdamW and clipping are inside of what
is timed. Each side has a process of its own and sleeps while another works: A B C A B C ..., after a warm-up. A peer's
workers may fill their queue while it sleeps, a few batches in its favour. Units are pairs.

The last line is one JSON object: `ratio_default` is this package at its default precision over the plain loop at its
own (fp32), captions padded to the longest of the batch; `ratio_fp32` and `ratio_bf16` are both in one precision.
`ratio_padded` is the default over the plain loop with captions padded to 77 tokens, as open_clip's tokenizer does.
"""

from __future__ import annotations

import argparse
import json

from experiments.benchmarks import clip_sides
from experiments.benchmarks.turns import CORES, DEVICE, Side, ratios, read_options, show_rates, take_turns

SHORT = {"blocks": 3, "seconds": (15.0, "of a block"), "warmup": (6.0, "seconds")}
DEFAULT = ["ours_auto", "plain_fp32"]
PAIRS = {
    "ratio_default": ("ours_auto", "plain_fp32"),
    "ratio_fp32": ("ours_fp32", "plain_fp32"),
    "ratio_bf16": ("ours_bf16", "plain_bf16"),
    "ratio_padded": ("ours_auto", "plain_fp32_padded"),
}


def sides_of(given: argparse.Namespace) -> dict[str, Side]:
    """Name the sides with their settings."""
    fp32 = clip_sides.Setting(given.batch, given.device, given.threads, given.workers)
    bf16, ours, plain = fp32._replace(precision="bf16"), clip_sides.ours, clip_sides.plain
    sides: dict[str, Side] = {"ours_auto": (ours, fp32._replace(precision="auto")), "ours_fp32": (ours, fp32)}
    sides |= {"ours_bf16": (ours, bf16), "plain_fp32": (plain, fp32), "plain_bf16": (plain, bf16)}
    sides |= {"plain_fp32_padded": (plain, fp32._replace(padded=True))}
    return {name: side for name, side in sides.items() if name in given.sides}


def main() -> None:
    """Measure and print."""
    known = ["ours_auto", "ours_fp32", "ours_bf16", "plain_fp32", "plain_bf16", "plain_fp32_padded"]
    cores = {"threads": CORES, "workers": (CORES, "of the peer's data loader")}
    batch, chosen = (256, "pairs per step"), {"nargs": "+", "choices": known, "default": DEFAULT}
    given = read_options(__doc__, batch=batch, sides=chosen, **SHORT, **cores, device=DEVICE)
    found = take_turns(sides_of(given), given)
    show_rates(found, "pairs/s")
    options = {name: getattr(given, name) for name in ("device", "threads", "workers", "batch")}
    print(json.dumps({**ratios(found, PAIRS), **options, "sides": found}))


if __name__ == "__main__":
    main()
