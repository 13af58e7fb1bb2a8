"""What a masked language model has learnt after the same number of tokens: this package beside transformers' Trainer.

    python -m experiments.benchmarks.mlm_quality --shape tiny --steps 200 --seeds 1 2 3

Speed that costs quality is none. Per seed, both sides of `mlm_step` train on the same rows in the same order, each as
its user would run it (this package: `precision=auto`, its own encoder; Trainer: its defaults), then predict the same
hidden tokens of the validation split in fp32. The last line is one JSON object: validation losses in nats, and the mean
difference (ours less theirs) with its 95 % interval.
"""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any

import torch

from experiments.benchmarks import mlm_sides
from experiments.benchmarks.mlm_text import SEED, SHAPES, Setting
from experiments.benchmarks.turns import CACHE, CORES, read_options
from experiments.report.statistics import mean_interval
from pretraining.data.loader import EvalLoader

ROWS = 64  # of a batch of validation
MOST_ROWS = 1000


class Alone:
    """A turn that lasts until the training ends."""

    tokens = 0.0

    def tell(self, facts: dict[str, Any]) -> None:
        """Start the watch."""
        self.facts, self.begun = facts, time.perf_counter()

    def step(self, units: float, loss: float | None = None) -> None:
        """Count tokens."""
        self.tokens += units


def validation(setting: Setting) -> EvalLoader:
    """Open the validation rows with the hidden places that every side has to predict."""
    preprocess, source = setting._replace(seed=SEED).text("validation")
    loader = EvalLoader(source, setting.masks(preprocess), batch_size=ROWS)
    loader.batches = loader.batches[: MOST_ROWS // ROWS]
    return loader


@torch.no_grad()
def evaluate_transformers(model: Any, loader: EvalLoader) -> float:
    """Compute the mean loss of a `BertForMaskedLM` at the hidden places."""
    total, count = 0.0, 0
    model.eval()
    for batch, _ in loader:
        inputs = batch["inputs"]
        logits = model(inputs["input_ids"], attention_mask=(inputs["document_ids"] > 0).long()).logits
        logits = logits.flatten(0, 1)[batch["target_positions"]]
        real = batch["labels"] >= 0
        total += torch.nn.functional.cross_entropy(logits[real], batch["labels"][real], reduction="sum").item()
        count += int(real.sum())
    return total / count


def train_and_evaluate(setting: Setting, side: str) -> dict[str, Any]:
    """Train one side and evaluate it."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(setting.seed)
    turn: Any = Alone()
    if side == "ours":
        module = mlm_sides.ours(turn, setting._replace(precision="auto"))
        module.trainer = None  # whose precision evaluation would take
        loss = module.float().evaluate(validation(setting))["validation/mlm"]
    else:
        loss = evaluate_transformers(mlm_sides.trainer(turn, setting), validation(setting))
    seconds = round(time.perf_counter() - turn.begun, 1)
    return {"loss": round(loss, 4), "tokens": int(turn.tokens), "seconds": seconds, **turn.facts}


def main() -> None:
    """Train, judge and print."""
    rows = {"batch": (32, "rows, of one document each"), "tokens": 128, "dropout": 0.1, "seeds": [1, 2, 3]}
    shape = "tiny", sorted(SHAPES)
    given = vars(read_options(__doc__, shape=shape, steps=200, **rows, threads=CORES, cache_dir=CACHE))
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("transformers' Trainer needs accelerate: pip install '.[bench]'")
    seeds = given.pop("seeds")
    fixed = Setting(precision="fp32", rows="documents", device="cpu", compile_model=False, impl="fast", **given)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trainer": []}
    for seed in seeds:
        for side, results in found.items():
            results.append(train_and_evaluate(fixed._replace(seed=seed), side))
            print(f"seed {seed}, {side}: {results[-1]}", flush=True)
    differences = [a["loss"] - b["loss"] for a, b in zip(found["ours"], found["trainer"], strict=True)]
    mean, low, high, _ = mean_interval(differences)
    judged = {"difference": round(mean, 4), "interval": [round(low, 4), round(high, 4)]}
    print(json.dumps({**judged, **given, "seeds": seeds, **found}))


if __name__ == "__main__":
    main()
