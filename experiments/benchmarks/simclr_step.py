"""How fast SimCLR trains here, end to end, beside lightly's benchmark and a plain loop with torchvision and PIL.

    python -m experiments.benchmarks.simclr_step --batch 128 --blocks 3 --seconds 60

ResNet-18 with CIFAR stem on 32 x 32 pictures; augmentation, loading, loss and optimizer are inside of what is timed.
Each side has a process of its own and sleeps while another works: A B C A B C ..., after a warm-up. A peer's workers
may fill their queue while it sleeps, a few batches in its favour. Units are images (two views each).

The last line is one JSON object: `ratio_default` is this package at its default precision over lightly at its own
(fp32), `ratio_fp32` both in fp32, `ratio_bf16` both in bf16, lightly with channels_last, too, and `ratio_plain` the
default over the plain loop; `ratio_winograd` is ours in bf16 over itself without `trainer.winograd`. Where the
default's own precision is no side, the default stands for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json

from experiments.benchmarks import simclr_sides
from experiments.benchmarks.turns import BLOCKS, CORES, DEVICE, Side, ratios, read_options, show_rates, take_turns

PAIRS = {
    "ratio_default": ("ours_auto", "lightly_fp32"),
    "ratio_fp32": ("ours_fp32", "lightly_fp32"),
    "ratio_bf16": ("ours_bf16", "lightly_bf16_channels_last"),
    "ratio_plain": ("ours_auto", "plain_fp32"),
    "ratio_winograd": ("ours_bf16", "ours_bf16_direct"),
}


def sides_of(given: argparse.Namespace) -> dict[str, Side]:
    """Name the sides with their settings."""
    fp32 = simclr_sides.Setting(given.batch, given.device, given.threads, given.workers)
    bf16, plain = fp32._replace(precision="bf16"), simclr_sides.plain
    ours, lightly = simclr_sides.ours, simclr_sides.lightly
    sides: dict[str, Side] = {"ours_auto": (ours, fp32._replace(precision="auto"))}
    sides |= {"ours_fp32": (ours, fp32), "ours_bf16": (ours, bf16), "lightly_fp32": (lightly, fp32)}
    sides |= {"ours_bf16_direct": (ours, bf16._replace(winograd=False))}
    sides |= {"lightly_bf16_channels_last": (lightly, bf16._replace(channels_last=True)), "plain_fp32": (plain, fp32)}
    return {name: side for name, side in sides.items() if name in given.sides} if given.sides else sides


def main() -> None:
    """Measure and print."""
    some = "some of ours_auto, ours_fp32, ours_bf16, lightly_fp32, ...; by default all"
    cores = {"threads": CORES, "workers": (CORES, "of the peers' data loaders")}
    batch, chosen = (128, "images per step"), {"nargs": "+", "help": some}
    given = read_options(__doc__, batch=batch, sides=chosen, **BLOCKS, **cores, device=DEVICE)
    sides = sides_of(given)
    if any(name.startswith("lightly") for name in sides) and importlib.util.find_spec("lightly") is None:
        cure = "pip install '.[bench]', or leave it out: --sides ours_auto plain_fp32"
        raise SystemExit(f"lightly is not installed: {cure}")
    found = take_turns(sides, given)
    show_rates(found, "images/s")
    options = {name: getattr(given, name) for name in ("device", "threads", "workers", "batch")}
    print(json.dumps({**ratios(found, PAIRS), **options, "sides": found}))


if __name__ == "__main__":
    main()
