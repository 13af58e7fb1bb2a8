"""How fast joint embeddings train here, end to end, beside lightly's networks, transforms and losses in a plain loop.

    python -m experiments.benchmarks.joint_step --methods byol vicreg moco_v3 dino --batch 128 --blocks 3 --seconds 60

Whole steps of a ResNet-18 with CIFAR stem on 32 x 32 pictures: augmentation, loading, teacher, loss and optimizer are
inside of what is timed. The sides of a method take turns, each in a process of its own (see `simclr_step`), one method
after another. Units are images (two views each).

The last line is one JSON object with, for each method, `ratio_default`: this package at its default precision over
lightly at its own (fp32), and `ratio_bf16`: both in bf16, lightly with channels_last. Where the default's own precision
is no side, the default stands for it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json

from experiments.benchmarks import joint_sides
from experiments.benchmarks.simclr_sides import Setting
from experiments.benchmarks.turns import BLOCKS, CORES, DEVICE, Side, ratios, read_options, show_rates, take_turns

PAIRS = {
    "ratio_default": ("ours_auto", "lightly_fp32"),
    "ratio_fp32": ("ours_fp32", "lightly_fp32"),
    "ratio_bf16": ("ours_bf16", "lightly_bf16_channels_last"),
}
SIDES = ["ours_auto", "lightly_fp32", "lightly_bf16_channels_last"]


def sides_of(method: str, given: argparse.Namespace) -> dict[str, Side]:
    """Name a method's sides with their settings."""
    setting = Setting(given.batch, given.device, given.threads, given.workers)
    setting = setting._replace(rate=joint_sides.RATES.get(method, setting.rate))
    sides: dict[str, Side] = {}
    for name in given.sides:
        family, precision, *more = name.split("_", 2)
        work = functools.partial(getattr(joint_sides, family), method)
        sides[name] = (work, setting._replace(precision=precision, channels_last=bool(more)))
    return sides


def main() -> None:
    """Measure and print."""
    cores = {"threads": CORES, "workers": (CORES, "of the peer's data loader")}
    known = [*SIDES[:1], "ours_fp32", "ours_bf16", *SIDES[1:]]
    chosen = {"nargs": "+", "choices": known, "default": SIDES, "help": "by default all but the second and third"}
    methods = {"nargs": "+", "choices": joint_sides.METHODS, "default": joint_sides.METHODS}
    batch = (128, "images per step")
    given = read_options(__doc__, methods=methods, batch=batch, sides=chosen, **BLOCKS, **cores, device=DEVICE)
    if any(name.startswith("lightly") for name in given.sides) and importlib.util.find_spec("lightly") is None:
        raise SystemExit("lightly is not installed: pip install '.[bench]', or leave it out: --sides ours_auto")
    done = {}
    for method in given.methods:
        found = take_turns(sides_of(method, given), given)
        show_rates(found, "images/s", f"{method:<10}")
        done[method] = {**ratios(found, PAIRS), "sides": found}
    options = {name: getattr(given, name) for name in ("device", "threads", "workers", "batch")}
    print(json.dumps({**options, **done}))


if __name__ == "__main__":
    main()
