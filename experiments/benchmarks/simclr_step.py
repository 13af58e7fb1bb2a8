"""How fast SimCLR trains here, end to end, beside lightly's benchmark and a plain loop with torchvision and PIL.

    python -m experiments.benchmarks.simclr_step --batch 128 --blocks 3 --seconds 60

ResNet-18 with CIFAR stem on 32 x 32 pictures; augmentation, loading, loss and optimizer are inside of what is timed.
Each side has a process of its own and sleeps while another works: A B C A B C ..., after a warm-up. A peer's workers
may fill their queue while it sleeps, a few batches in its favour. Units are images (two views each).

The last line is one JSON object: `ratio_default` is this package at its default precision over lightly at its own
(fp32), `ratio_fp32` both in fp32, `ratio_bf16` both in bf16, lightly with channels_last, too, and `ratio_plain` the
default over the plain loop. Where the default's own precision is no side, the default stands for it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
from typing import Any

from experiments.benchmarks import simclr_sides
from experiments.benchmarks.turns import make_parser, ratios, take_turns

PAIRS = {
    "ratio_default": ("ours_auto", "lightly_fp32"),
    "ratio_fp32": ("ours_fp32", "lightly_fp32"),
    "ratio_bf16": ("ours_bf16", "lightly_bf16_channels_last"),
    "ratio_plain": ("ours_auto", "plain_fp32"),
}


def sides_of(given: argparse.Namespace) -> dict[str, Any]:
    """Name the sides with their options."""
    shared = {"batch": given.batch, "device": given.device, "threads": given.threads}
    peer = {**shared, "workers": given.workers}
    sides: dict[str, Any] = {
        f"ours_{precision}": (simclr_sides.ours, {**shared, "precision": precision})
        for precision in ("auto", "fp32", "bf16")
    }
    sides["lightly_fp32"] = simclr_sides.lightly, {**peer, "precision": "fp32", "channels_last": False}
    sides["lightly_bf16_channels_last"] = simclr_sides.lightly, {**peer, "precision": "bf16", "channels_last": True}
    sides["plain_fp32"] = simclr_sides.plain, {**peer, "precision": "fp32", "channels_last": False}
    return {name: side for name, side in sides.items() if name in given.sides} if given.sides else sides


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=128, help="images per step")
    some = "some of ours_auto, ours_fp32, ours_bf16, lightly_fp32, ...; by default all"
    parser.add_argument("--sides", nargs="+", help=some)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a block")
    parser.add_argument("--warmup", type=float, default=15.0, help="seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the peers' data loaders")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    sides = sides_of(given)
    if any(name.startswith("lightly") for name in sides) and importlib.util.find_spec("lightly") is None:
        cure = "pip install '.[bench]', or leave it out: --sides ours_auto plain_fp32"
        raise SystemExit(f"lightly is not installed: {cure}")
    found = take_turns(sides, blocks=given.blocks, seconds=given.seconds, warmup=given.warmup)
    for name, side in found.items():
        spread = f"({side['lowest']:,.1f} to {side['highest']:,.1f})"
        print(f"{name:<28}{side['per_second']:10,.1f} images/s {spread}", flush=True)
    options = {"device": given.device, "threads": given.threads, "workers": given.workers, "batch": given.batch}
    print(json.dumps({**ratios(found, PAIRS), **options, "sides": found}))


if __name__ == "__main__":
    main()
