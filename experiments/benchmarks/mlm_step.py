"""How fast a masked language model trains here, beside transformers' Trainer and a plain Lightning loop.

    python -m experiments.benchmarks.mlm_step --shapes mini tiny base

All sides train the same architecture (BERT; vocabulary 30,528; T = 128) on the same rows of the built-in text in the
same order, with AdamW, warm-up, clipping at 1.0, 15 % hidden tokens and a logged loss every 10 steps; data loading is
inside of what is timed. Each side has a process of its own and sleeps while another works: A B C A B C ..., after a
warm-up. Units are tokens that are no padding.

`--rows packed` fills rows with whole documents (this package keeps them apart, the others let them see each other);
`--rows documents` gives each document a row of its own, padded.

The last line is one JSON object. For each shape and dropout: `ratio_default` is this package at its default precision
over Trainer at its own (fp32), `ratio_fp32` and `ratio_bf16` compare equal precisions, `ratio_lightning` the plain loop
in fp32. Those of the first shape at the first dropout also stand at the top. The precision that this package chooses by
itself (`ours_auto`) is not measured a second time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from typing import Any

from experiments.benchmarks import mlm_sides
from experiments.benchmarks.mlm_text import SHAPES, Setting
from experiments.benchmarks.turns import BLOCKS, CACHE, CORES, DEVICE, Side, ratios, read_options, take_turns
from pretraining.engine.precision import choose_precision
from pretraining.text.plan import padding_share

BATCH = {"tiny": 32, "mini": 32, "base": 16}
PAIRS = {
    "ratio_default": ("ours_auto", "trainer_fp32"),
    "ratio_fp32": ("ours_fp32", "trainer_fp32"),
    "ratio_bf16": ("ours_bf16", "trainer_bf16"),
    "ratio_lightning": ("ours_auto", "lightning_fp32"),
}


def shared_setting(shape: str, dropout: float, given: argparse.Namespace) -> Setting:
    """Collect what all sides have in common."""
    same = {name: getattr(given, name) for name in ("tokens", "rows", "cache_dir", "device", "threads", "impl")}
    batch = given.batch or BATCH[shape]
    return Setting(shape, dropout, precision="fp32", batch=batch, compile_model=given.compile, **same)


def compare(shape: str, dropout: float, given: argparse.Namespace) -> dict[str, Any]:
    """Let all sides of one shape take turns."""
    shared = shared_setting(shape, dropout, given)
    sides: dict[str, Side] = {}
    for precision in given.precisions:
        setting = shared._replace(precision=precision)
        if precision != given.chosen:
            sides[f"ours_{precision}"] = mlm_sides.ours, setting
        if precision != "auto" and "trainer" in given.peers:
            sides[f"trainer_{precision}"] = mlm_sides.trainer, setting
    if "lightning" in given.peers:
        sides["lightning_fp32"] = mlm_sides.lightning, shared
    found = take_turns(sides, given)
    about = {"shape": shape, "dropout": dropout, "batch": shared.batch}
    return {**about, **ratios(found, PAIRS), "sides": found}


def main() -> None:
    """Measure and print."""
    precisions, peers = ["auto", "fp32", "bf16"], ["trainer", "lightning"]
    model = {"shapes": (["mini"], sorted(SHAPES)), "dropout": [0.1, 0.0], "precisions": (precisions, precisions)}
    sides = {"peers": {"nargs": "*", "choices": peers, "default": peers}, "impl": ("fast", ["transformers", "fast"])}
    batch = {"type": int, "help": "rows; by default 32, and 16 for base"}
    text = {"rows": ("packed", ["packed", "documents"]), "batch": batch, "tokens": 128}
    compiled = {"action": "store_true", "help": "torch.compile on all sides"}
    machine = {"threads": CORES, "device": DEVICE, "compile": compiled, "cache_dir": CACHE}
    given = read_options(__doc__, **model, **sides, **text, **BLOCKS, **machine)
    if "trainer" in given.peers and importlib.util.find_spec("accelerate") is None:
        cure = "pip install '.[bench]', or leave it out: --peers lightning"
        raise SystemExit(f"transformers' Trainer needs accelerate: {cure}")
    auto = "auto" in given.precisions
    given.chosen = choose_precision("auto", given.device, convolves=False) if auto else None
    _, source = shared_setting(given.shapes[0], 0.0, given).text()
    padding = padding_share(source.rows(0), given.tokens)
    results, heads = [], []
    for shape in given.shapes:
        for dropout in given.dropout:
            results.append(compare(shape, dropout, given))
            heads.append({name: value for name, value in results[-1].items() if name.startswith("ratio")})
            print(f"{shape}, dropout {dropout}, rows {given.rows} with {padding:.1%} padding: {heads[-1]}", flush=True)
    options = {name: getattr(given, name) for name in ("device", "threads", "rows", "seconds", "blocks")}
    print(json.dumps({**heads[0], **options, "padding_share": round(padding, 4), "results": results}))


if __name__ == "__main__":
    main()
