"""`python -m pretraining.evaluate handoff=DIR data=NAME`: a hand-off's pretraining loss on any data, as a JSON line."""

from __future__ import annotations

from pretraining.cli.early import answer

if __name__ == "__main__":  # before anything slow is imported
    answer("evaluate")

import json
import sys
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from pretraining import handoff
from pretraining.cli.configuration import as_run_errors, class_of, compose, exit_cleanly, instantiate
from pretraining.data.loader import EVALUATION_SEED, EvalLoader
from pretraining.errors import HandoffError, RunError
from pretraining.handoff import Handoff
from pretraining.modality import Modality, Tower
from pretraining.objectives.base import Objective
from pretraining.optim.optimizers import SGD


def recipe_of(given: Handoff, data: Any, packages: tuple[str, ...]) -> Any:
    """Read how a hand-off was pretrained; data of another kind than its objective learns from are an error."""
    recipe = given.card.get("recipe", {})
    if "objective" not in recipe:
        told = given.path or given.card["origin"]["objective"]
        raise HandoffError(f"{told} does not say which objective it was pretrained with")
    _refuse_foreign(recipe, packages)
    kind = class_of(recipe["objective"])
    if kind.modality not in (None, data.modality):
        what = f"{kind.__name__} learns from {kind.modality}, but data={data.__name__} is {data.modality}"
        raise RunError(f"{what}: choose data of the former kind")
    return recipe


def restored(given: Handoff, tower: Tower, recipe: Any) -> tuple[Objective, Any]:
    """Build the objective and collate that a hand-off, as one `tower`, was pretrained with, heads included."""
    collate = instantiate(recipe["collate"], preprocess=tower.preprocess)
    flat: dict[str, Any] = {"peak_lr": 1.0, "warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0}
    idle = SGD(**flat, weight_decay=0.0, momentum=0.0, nesterov=False)
    objective: Objective = instantiate(recipe["objective"], backbone=tower.backbone, optimizer=idle)
    if given.card["origin"]["objective"] == "random":
        return objective, collate
    heads = load_file(f"{given.path}/heads.safetensors") if "heads.safetensors" in given.card["sha256"] else {}
    expected = set(objective.heads())
    if expected != set(heads):
        odd = sorted(expected ^ set(heads))
        raise HandoffError(f"{given.path}/heads.safetensors does not fit the objective: {odd[:5]}")
    try:
        objective.load_state_dict({**objective.state_dict(), **heads})
    except RuntimeError as error:
        what = " ".join(str(error).split())
        raise HandoffError(f"{given.path}/heads.safetensors does not fit the objective: {what}") from error
    return objective, collate


def _refuse_foreign(node: Any, packages: tuple[str, ...]) -> None:
    """Refuse a recipe that would build anything outside of the packages whose code runs anyway."""
    if isinstance(node, dict):
        if "_target_" in node and handoff.class_in(packages, node["_target_"]) is None:
            raise handoff.refused(node["_target_"], "class")
        node = list(node.values())
    for value in node if isinstance(node, list) else ():
        _refuse_foreign(value, packages)


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate; returns the terms and metrics with the number of rows and where the weights came from."""
    if config.split not in ("train", "validation", "test"):
        raise RunError(f"split={config.split} is unknown: choose train, validation or test")
    modality: Modality = class_of(config.data).modality
    given = handoff.read(config.handoff, modality=modality, trust=config.trust)
    recipe = recipe_of(given, class_of(config.data), handoff.trusted_packages(modality, config.trust))
    tower = modality.whole(given.towers)
    objective, collate = restored(given, tower, recipe)
    with as_run_errors():
        data = instantiate(config.data)
        if modality is not objective.backbone.modality:
            told = f"{type(objective).__name__} learns from {objective.backbone.modality}"
            raise RunError(f"{told}, but data={type(data).__name__} is {modality}")
        source = modality.source(data, config.split, tower.preprocess, collate, seed=EVALUATION_SEED)
    size = data.eval_batch_size
    if objective.coupled:  # releases that did not say what they trained with: as the data has it
        size = objective.settings.batch_size = given.card["origin"].get("batch_size", data.batch_size)
    with as_run_errors():
        loader = EvalLoader(source, collate, batch_size=size, full_batches=objective.coupled)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        measured = objective.evaluate(loader, config.split)
        whole = objective.quality(EvalLoader(source, collate, batch_size=data.eval_batch_size))
    measured |= {f"{config.split}/{name}": value for name, value in whole.items()}
    rows = sum(len(rows) for rows in loader.batches)
    return {**measured, "rows": rows, "handoff": given.path, "digest": given.digest}


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        print(json.dumps(evaluate(compose(sys.argv[1:], root="evaluate"))))


if __name__ == "__main__":
    cli()
