"""Writing a hand-off, complete or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from pretraining.cache import room, sha256, share, sync
from pretraining.errors import HandoffError
from pretraining.modality import Tower

VERSION = 3
Json = dict[str, Any]


def write(
    directory: Path,
    *,
    towers: Mapping[str, Tower],
    origin: Json,
    heads: dict[str, Tensor],
    recipe: Json | None = None,
) -> Path:
    """Write a hand-off, complete or not at all, and point `last` beside it at it; returns the directory.

    `recipe` is the configuration of the objective and its collate, from which `pretraining.evaluate` builds them again.
    Where `directory` exists already (a resumed run passing the same step), the two must agree, and the first stays.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    beside = directory.with_name(f".{directory.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)  # left by a run that was killed here
    beside.mkdir()
    weights = [heads, *(tower.backbone.state_dict() for tower in towers.values())]
    try:
        with room(directory.parent, sum(tensor.nbytes for part in weights for tensor in part.values())):
            _fill(beside, towers, origin, heads, recipe or {})
        if directory.exists():
            _compare(directory, beside)
        else:
            share(beside)
            for path in sorted(beside.rglob("*")):
                sync(path)
            beside.rename(directory)
            sync(directory.parent)
    except SafetensorError as error:  # of a write: it says in words what an OSError says by number
        raise OSError(errno.EIO, str(error), str(directory)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _point_last(directory)
    return directory


def _fill(target: Path, towers: Mapping[str, Tower], origin: Json, heads: dict[str, Tensor], recipe: Json) -> None:
    from safetensors.torch import save_file

    described = {}
    for name, tower in towers.items():
        place = "." if len(towers) == 1 else name
        (target / place).mkdir(exist_ok=True)
        tower.backbone.export(target / place)
        tower.preprocess.save(target / place)
        described[name] = described_tower(tower, place)
    if heads:
        whole = {name: value.detach().cpu().contiguous().clone() for name, value in heads.items()}
        save_file(whole, target / "heads.safetensors")
    (target / "README.md").write_text(_card_text(towers, origin, heads), encoding="utf-8")
    files = [path for path in sorted(target.rglob("*")) if path.is_file()]
    digests = {str(path.relative_to(target)): sha256(path) for path in files}
    card = {"version": VERSION, "towers": described, "origin": origin, "recipe": recipe, "sha256": digests}
    (target / "handoff.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def described_part(part: Any) -> dict[str, Any]:
    """Describe a backbone or preprocessing by its class and plain arguments."""
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", "kwargs": part.kwargs}


def described_tower(tower: Tower, place: str) -> dict[str, Any]:
    """Describe a tower whose files lie in the directory `place` of a hand-off."""
    described = {"backbone": described_part(tower.backbone), "preprocess": described_part(tower.preprocess)}
    return {"modality": tower.backbone.modality.name, "directory": place, **described}


def _compare(existing: Path, fresh: Path) -> None:
    """Refuse to pass over a hand-off of the same step that holds other weights."""
    first, second = (json.loads((path / "handoff.json").read_text("utf-8"))["sha256"] for path in (existing, fresh))
    weights = [name for name in second if name.endswith(".safetensors") and first.get(name) != second[name]]
    if weights:
        what = f"{existing} was written before and holds other weights ({', '.join(weights)})"
        raise HandoffError(f"{what}: this resume did not repeat the run; use a new run_dir")


def _point_last(directory: Path) -> None:
    link = directory.parent / f".last-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    link.replace(directory.parent / "last")


def _card_text(towers: Mapping[str, Tower], origin: dict[str, Any], heads: Mapping[str, Tensor]) -> str:
    backbones = [tower.backbone for tower in towers.values()]
    parameters = sum(parameter.numel() for backbone in backbones for parameter in backbone.parameters())
    kinds = " and ".join(type(backbone).__name__ for backbone in backbones)
    facts = "\n".join(f"| {name} | {value} |" for name, value in origin.items() if value not in (None, "", {}))
    places = {name: "DIR" if len(towers) == 1 else f"DIR/{name}" for name in towers}
    usages = {name: tower.backbone.usage().replace("DIR", places[name]) for name, tower in towers.items()}
    if len(towers) > 1:  # each network under its own name
        usages = {name: re.sub(r"\bmodel\b(?!\.safetensors)", f"{name}_model", own) for name, own in usages.items()}
    usage = "\n".join(usages.values())
    if heads and len(towers) > 1:  # what brings their vectors together
        held = ", ".join(f"{name} {list(part.shape)}" for name, part in sorted(heads.items()))
        usage += f'\n\nfrom safetensors.torch import load_file\n\nheads = load_file("DIR/heads.safetensors")  # {held}'
    return f"""# {origin.get("objective", "a pretrained backbone")}: {kinds}, {parameters:,} parameters

| | |
|---|---|
{facts}

Finetune it: `python -m finetuning handoff=<this directory> task=NAME`

Load it without this framework:

```python
{usage}
```

The licence of the weights follows from that of the data above; the code is Apache-2.0.
"""
