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
import functools
import importlib.util
import json
import os
from typing import Any

from experiments.benchmarks import mlm_sides
from experiments.benchmarks.mlm_text import SHAPES, Setting
from experiments.benchmarks.turns import make_parser, ratios, take_turns

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
    chosen = chosen_precision(given.device) if "auto" in given.precisions else None
    sides: dict[str, Any] = {}
    for precision in given.precisions:
        setting = {"setting": shared._replace(precision=precision)}
        if precision != chosen:
            sides[f"ours_{precision}"] = mlm_sides.ours, setting
        if precision != "auto" and "trainer" in given.peers:
            sides[f"trainer_{precision}"] = mlm_sides.trainer, setting
    if "lightning" in given.peers:
        sides["lightning_fp32"] = mlm_sides.lightning, {"setting": shared}
    found = take_turns(sides, blocks=given.blocks, seconds=given.seconds, warmup=given.warmup)
    about = {"shape": shape, "dropout": dropout, "batch": shared.batch}
    return {**about, **ratios(found, PAIRS), "sides": found}


@functools.cache
def chosen_precision(device: Any) -> str:
    """Tell what this package's `auto` stands for."""
    from pretraining.engine.precision import choose_precision

    return choose_precision("auto", device, convolves=False)


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=sorted(SHAPES), default=["mini"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0])
    parser.add_argument("--precisions", nargs="+", choices=["auto", "fp32", "bf16"], default=["auto", "fp32", "bf16"])
    parser.add_argument("--peers", nargs="*", choices=["trainer", "lightning"], default=["trainer", "lightning"])
    parser.add_argument("--impl", choices=["transformers", "fast"], default="fast")
    parser.add_argument("--rows", choices=["packed", "documents"], default="packed")
    parser.add_argument("--batch", type=int, help="rows; by default 32, and 16 for base")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a block")
    parser.add_argument("--warmup", type=float, default=15.0, help="seconds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile on all sides")
    parser.add_argument("--cache-dir", default="~/.cache/pretraining")
    given = parser.parse_args()
    if "trainer" in given.peers and importlib.util.find_spec("accelerate") is None:
        cure = "pip install '.[bench]', or leave it out: --peers lightning"
        raise SystemExit(f"transformers' Trainer needs accelerate: {cure}")
    from pretraining.text.plan import padding_share

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
