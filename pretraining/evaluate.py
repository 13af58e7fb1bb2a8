"""`python -m pretraining.evaluate handoff=DIR data=NAME`: the pretraining loss of a hand-off on any data, as one line of JSON."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from pretraining import handoff
from pretraining.configuration import compose, exit_cleanly, instantiate
from pretraining.data import modality
from pretraining.data.loader import EVALUATION_SEED, EvalLoader
from pretraining.handoff import Handoff, HandoffError
from pretraining.help import help_asked
from pretraining.objectives.base import Objective
from pretraining.optim import SGD
from pretraining.run import RunError

ALLOWED = ("pretraining.objectives.", "pretraining.augment")


def restored(given: Handoff) -> tuple[Objective, Any]:
    """Build the objective and collate that a hand-off was pretrained with, heads included."""
    recipe = given.card.get("recipe", {})
    if "objective" not in recipe:
        raise HandoffError(f"{given.path or given.card['origin']['objective']} does not say which objective it was pretrained with")
    _refuse_foreign(recipe)
    collate = instantiate(recipe["collate"], preprocess=given.preprocess)
    idle = SGD(peak_lr=1.0, warmup_steps=0, schedule="constant", final_fraction=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    objective: Objective = instantiate(recipe["objective"], backbone=given.backbone, optimizer=idle)
    if given.card["origin"]["objective"] == "random":
        return objective, collate
    heads = load_file(f"{given.path}/heads.safetensors") if "heads.safetensors" in given.card["sha256"] else {}
    expected = set(objective.heads())
    if expected != set(heads):
        raise HandoffError(f"{given.path}/heads.safetensors does not fit the objective: {sorted(expected ^ set(heads))[:5]}")
    objective.load_state_dict({**objective.state_dict(), **heads})
    return objective, collate


def _refuse_foreign(node: Any) -> None:
    """Refuse a recipe that would build anything outside of this package's objectives and augmentation."""
    if isinstance(node, dict):
        target = node.get("_target_")
        if target is not None:
            module = importlib.import_module(target.rpartition(".")[0]) if target.startswith(ALLOWED) else None
            found = getattr(module, target.rpartition(".")[2], None)
            if not isinstance(found, type) or not found.__module__.startswith(ALLOWED):
                raise HandoffError(
                    f"the hand-off asks for {target!r}, which is no objective of this package: refused, it may run foreign code"
                )
        for value in node.values():
            _refuse_foreign(value)
    elif isinstance(node, list):
        for value in node:
            _refuse_foreign(value)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate; returns the terms and metrics with the number of rows and where the weights came from."""
    if config.split not in ("train", "validation", "test"):
        raise RunError(f"split={config.split} is unknown: choose train, validation or test")
    if str(config.handoff).startswith(("hf:", "torchvision:")):
        raise RunError(f"handoff={config.handoff} has no pretraining objective of ours: give a directory written by pretraining")
    given = handoff.read(config.handoff)
    objective, collate = restored(given)
    try:
        data = instantiate(config.data)
        if data.modality != objective.modality:
            raise ValueError(
                f"{type(objective).__name__} learns from {objective.modality}, but data={type(data).__name__} is {data.modality}"
            )
        source = modality.source_of(data, config.split, given.preprocess, collate, seed=EVALUATION_SEED)
    except (ValueError, OSError) as error:
        raise RunError(str(error)) from error
    loader = EvalLoader(source, collate, batch_size=data.eval_batch_size, full_batches=objective.coupled)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        measured = objective.evaluate(loader, config.split)
    return {**measured, "rows": sum(len(rows) for rows in loader.batches), "handoff": given.path, "digest": given.digest}


def cli() -> None:
    """Run the command line."""
    if help_asked("evaluate"):
        return
    with exit_cleanly():
        print(json.dumps(evaluate(compose(sys.argv[1:], root="evaluate"))))


if __name__ == "__main__":
    cli()
