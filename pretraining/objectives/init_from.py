"""Continued pretraining: the heads of the checkpoint that a backbone came from, where the objective has the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pretraining.backbones.library_heads import found_in
from pretraining.handoff.read import verified

if TYPE_CHECKING:
    from pretraining.objectives.base import Objective


def continue_heads(objective: Objective, checkpoint: str) -> str:
    """Load the heads of `checkpoint`, a hand-off or a transformers checkpoint, into `objective`; tells what was loaded.

    A head is loaded whole or left as it is drawn: the checkpoint of another objective, or of a bare encoder, has none.
    """
    heads = objective.heads()
    if not heads:
        return f"backbone.init_from={checkpoint}: this objective has no head beside the model's own"
    ours = Path(checkpoint) / "handoff.json"
    found = _of_handoff(objective, Path(checkpoint)) if ours.is_file() else _of_transformers(objective, checkpoint)
    fitting = {name: value for name, value in found.items() if name in heads and value.shape == heads[name].shape}
    parts = {name.split(".")[0] for name in heads}
    whole = {part for part in parts if all(name in fitting for name in heads if name.split(".")[0] == part)}
    loaded = {name: value for name, value in fitting.items() if name.split(".")[0] in whole}
    objective.load_state_dict({**objective.state_dict(), **loaded})
    fresh = f"; {', '.join(sorted(parts - whole))} starts anew" if parts - whole else ""
    return f"backbone.init_from={checkpoint}: continues with {', '.join(sorted(whole)) or 'no head'}{fresh}"


def _of_handoff(objective: Objective, directory: Path) -> dict[str, Tensor]:
    """Read a hand-off's heads where it was written by the same objective: equal names mean the same only then."""
    from safetensors.torch import load_file

    directory, card = verified(directory)
    same = card["origin"].get("objective") == type(objective).__name__
    return load_file(directory / "heads.safetensors") if same and (directory / "heads.safetensors").is_file() else {}


def _of_transformers(objective: Objective, checkpoint: str) -> dict[str, Tensor]:
    """Read the heads of a masked language model, under our names."""
    import transformers

    wanted = [name for name in objective.heads() if name.partition(".")[0] in getattr(objective, "library_heads", ())]
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    families = (transformers.AutoModelForPreTraining, transformers.AutoModelForMaskedLM)
    kinds = [family for family in families if type(config) in family._model_mapping]
    if not wanted or not kinds:
        return {}
    written = config.architectures or ()  # ELECTRA's two are different networks
    models: dict[Any, Any] = {family: family._model_mapping[type(config)] for family in kinds}
    kinds.sort(key=lambda family: models[family].__name__ not in written)
    model, report = kinds[0].from_pretrained(checkpoint, output_loading_info=True, dtype="float32")
    weights = {name: value for name, value in model.state_dict().items() if name not in report["missing_keys"]}
    found = {name: found_in(weights, name.partition(".")[2]) for name in wanted}
    for name in wanted:  # ModernBERT's layers have no bias: theirs is zero
        if found[name] is None and (weight := found.get(f"{name.removesuffix('.bias')}.weight")) is not None:
            found[name] = weight.new_zeros(len(weight))
    return {name: value for name, value in found.items() if value is not None}
