"""Commands that write what the real ones would, at once, with known effects in the numbers."""

import base64
import csv
import json
import math
import os
import random
import shutil
import time
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import yaml

from experiments import launch

MLM = ["objective=masked_language", "data=stdlib_docs", "backbone=bert"]
SPEC = {
    "name": "invented",
    "question": "Does it <work> & how well?",
    "pretraining_seeds": [1],
    "finetuning_seeds": [1, 2, 3, 4, 5],
    "references": ["never_pretrained", "classical"],
    "workers": 1,
    "budget": {"steps": 40},
    "pretrain": {
        "masked_language": {"overrides": MLM},
        "simclr": {"overrides": ["objective=simclr", "data=digits", "backbone=resnet"]},
    },
    "handoffs": {},
    "finetune": {
        "docs_topic": {
            "arms": ["masked_language"],
            "overrides": ["task=docs_topic"],
            "modes": ["full", "frozen"],
            "shots": [10],
        },
        "digits": {"arms": ["simclr"], "overrides": ["task=digits"], "modes": ["full", "frozen"], "fractions": [0.01]},
    },
}
TEST_EXAMPLES = 200
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
UNITS = {"simclr": "images"}  # what an objective's modality counts; hand-offs of others do not say it, and it is tokens
PLANTED = {"docs_topic": 0.2, "digits": 0.0}
SELECT = {"docs_topic": "accuracy", "digits": "accuracy"}  # by which each task chooses its weights
CLASSES = ["a", "b", "c"]  # as many test examples of each, or one more


def spec(**changes):
    return {**SPEC, **changes}


def write_conf(directory, source, content):
    """Make a conf/ with nothing but the study's root, its executors and an invented study."""
    (directory / "study").mkdir(parents=True)
    (directory / "study.yaml").write_text((source / "study.yaml").read_text())
    shutil.copytree(source / "executor", directory / "executor")
    (directory / "study" / "invented.yaml").write_text(yaml.safe_dump(content))
    return directory


def resolve(command, overrides):
    tree = {"trainer": {"max_steps": 40}, "data": {"workers": 0}}
    for override in overrides:
        key, value = override.split("=", 1)
        at = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            at = at.setdefault(parent, {}) if isinstance(at.get(parent, {}), dict) else at
        at[leaf] = {"name": value} if leaf == "data" else yaml.safe_load(value.strip("'"))
    if "task" in tree:
        tree["task"] = {"name": tree["task"], "select": SELECT.get(tree["task"], "accuracy")}
    return tree


def run(command, overrides):
    config = resolve(command, overrides)
    run_dir = Path(config["run_dir"])
    study_dir = run_dir.parents[1]
    with (study_dir / "calls.txt").open("a") as file:
        file.write(f"{run_dir.name}\n")
    _sabotage(study_dir, run_dir.name)
    print("the run speaks")
    os.system("echo its child speaks")
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (pretrain if command == "pretraining" else finetune)(run_dir, config)


def _sabotage(study_dir, name):
    plan = study_dir / "sabotage.json"
    for part, act in (json.loads(plan.read_text()) if plan.exists() else {}).items():
        if part in name and act == "raise":
            raise RuntimeError("out of <luck>")
        if part in name and act == "die":
            os._exit(9)
        if part in name and act == "sleep":
            time.sleep(60)
        if part in name and act == "interrupt":
            raise KeyboardInterrupt


def pretrain(run_dir, config):
    noise, unit = random.Random(config["seed"]), UNITS.get(config["objective"], "tokens")
    per_step = 64 if unit == "images" else 4096
    with (run_dir / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/loss", "validation/loss", "examples", unit, "flops", "time"])
        for step in range(1, 41):
            loss = 3 / step**0.3 + noise.gauss(0, 0.05)
            validation = f"{loss + 0.1:.4f}" if step % 10 == 0 else ""
            writer.writerow([step, f"{loss:.4f}", validation, step * 64, step * per_step, step * 1e9, 1.7e9 + step / 2])
    (run_dir / "handoff" / "last").mkdir(parents=True, exist_ok=True)
    if config["objective"] in UNITS:
        card = {"origin": {"unit": unit}}
        (run_dir / "handoff" / "last" / "handoff.json").write_text(json.dumps(card))
    if config["objective"] == "simclr":
        (run_dir / "pictures").mkdir(exist_ok=True)
        (run_dir / "pictures" / "views.png").write_bytes(PICTURE)
    numbers = {
        "validation/loss": 1.1 + _missed(config),
        "steps": 40,
        "examples": 2560,
        unit: 40 * per_step,
        "flops": 4e10,
        "parameters": 1e6,
        "seconds": 20.0,
    }
    (run_dir / "metrics.json").write_text(json.dumps(numbers))


def _missed(config):
    """How far the rate is from the best one, which differs between objectives."""
    rate = config.get("optimizer", {}).get("peak_lr")
    best = -3.0 if config["objective"] == "simclr" else -2.0
    return 0.0 if rate is None else (math.log10(rate) - best) ** 2


def finetune(run_dir, config):
    task, pretrained = config["task"]["name"], not str(config["handoff"]).startswith("random:")
    subset = random.Random(zlib.crc32(f"{config['seed']} {task} {config['mode']}".encode()))
    own = random.Random(zlib.crc32(run_dir.name.encode()))
    value = 0.5 + subset.gauss(0, 0.03) + own.gauss(0, 0.01) + PLANTED[task] * pretrained
    numbers = {"test/accuracy": value, "test/f1_macro": value - 0.01, "test/loss": 1 - value}
    numbers |= {"test/accuracy_low": value - 0.05, "test/accuracy_high": value + 0.05}
    (run_dir / "metrics.json").write_text(json.dumps(numbers))
    drawn = random.Random(zlib.crc32(task.encode()))
    right = [drawn.random() < value for _ in range(TEST_EXAMPLES)]  # the same examples are hard for all
    labels = [number % 3 for number in range(TEST_EXAMPLES)]
    guesses = [label if hit else (label + 1) % 3 for label, hit in zip(labels, right, strict=True)]
    write_predictions(run_dir, labels, guesses)
    if task == "digits":
        (run_dir / "pictures").mkdir(exist_ok=True)
        for number in range(3):
            (run_dir / "pictures" / f"{number:04d}.png").write_bytes(PICTURE)


def write_predictions(run_dir, labels, guesses):
    """Write what a classification leaves, for numbers of `CLASSES`."""
    names = {"label": [CLASSES[n] for n in labels], "prediction": [CLASSES[n] for n in guesses]}
    pyarrow.parquet.write_table(pa.table(names), run_dir / "predictions.parquet")
    pairs, numbers = list(zip(labels, guesses, strict=True)), range(len(CLASSES))
    matrix = [[pairs.count((truth, guess)) for guess in numbers] for truth in numbers]
    (run_dir / "test_report.json").write_text(json.dumps({"classes": CLASSES, "confusion_matrix": matrix}))


COMMANDS = launch.Commands(
    resolve,
    run,
    measure=lambda overrides: 7,
    time=lambda overrides: (7, 2.0),
    measured=lambda task: ("accuracy", "f1_macro", "loss"),
    classical=lambda overrides: ("counting words", {"test/accuracy": 0.6, "test/loss": 0.5}),
)


class Silent:
    """A watch that only remembers."""

    def __init__(self):
        self.seen = []

    def started(self, node):
        pass

    def ended(self, node, state):
        self.seen.append((node.name, state["status"]))
