"""The hand-off: the only bridge from pretraining to finetuning. A directory of safetensors, json and tokenizer files, complete or absent.

`handoff.json` names the backbone and preprocessing as {_target_, kwargs}, the origin of the weights and the sha256 of each other file.
Nothing in it is ever unpickled, and nothing outside of this package's backbones and preprocessing is ever built from it.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from pretraining.backbones.base import Backbone
from pretraining.cache import pause_for_tests, sha256

VERSION = 2
ALLOWED = ("pretraining.backbones.", "pretraining.preprocess.")
PICKLED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"}


class HandoffError(ValueError):
    """A hand-off that cannot be used, with what to do about it."""


@dataclass
class Handoff:
    """What finetuning gets: the parts, the card (handoff.json) and where they came from."""

    backbone: Backbone
    preprocess: Any
    card: dict[str, Any]
    path: str  # resolved; "" where there is no directory
    digest: str  # sha256 of handoff.json; "" where there is no directory


# -- writing ------------------------------------------------------------------------------------------------------------------------


def write(
    directory: Path,
    *,
    backbone: Backbone,
    preprocess: Any,
    origin: dict[str, Any],
    heads: dict[str, Tensor],
    recipe: dict[str, Any] | None = None,
) -> Path:
    """Write a hand-off, complete or not at all, and point `last` beside it at it; returns the directory.

    `recipe` is the configuration of the objective and its collate, from which `pretraining.evaluate` builds them again.
    Where `directory` exists already (a resumed run passing the same step), the two must agree, and the first stays.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    for left in directory.parent.glob(f".{directory.name}-*"):  # by a run killed at this
        shutil.rmtree(left)
    beside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _fill(beside, backbone, preprocess, origin, heads, recipe or {})
        pause_for_tests()
        if directory.exists():
            _compare(directory, beside)
        else:
            for path in sorted(beside.rglob("*")):
                _sync(path)
            beside.chmod(0o755)
            beside.rename(directory)
            _sync(directory.parent)
    except SafetensorError as error:  # of a write: it says in words what an OSError says by number
        raise OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, str(error), str(directory)) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _point_last(directory)
    return directory


def _fill(
    target: Path, backbone: Backbone, preprocess: Any, origin: dict[str, Any], heads: dict[str, Tensor], recipe: dict[str, Any]
) -> None:
    from safetensors.torch import save_file

    backbone.export(target)
    preprocess.save(target)
    if heads:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in heads.items()}, target / "heads.safetensors")
    (target / "README.md").write_text(_card_text(backbone, origin), encoding="utf-8")
    card = {
        "version": VERSION,
        "modality": backbone.modality,
        "backbone": _described(backbone),
        "preprocess": _described(preprocess),
        "origin": origin,
        "recipe": recipe,
        "sha256": {str(path.relative_to(target)): sha256(path) for path in sorted(target.rglob("*")) if path.is_file()},
    }
    (target / "handoff.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _described(part: Any) -> dict[str, Any]:
    return {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", "kwargs": part.kwargs}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(existing: Path, fresh: Path) -> None:
    """Refuse to pass over a hand-off of the same step that holds other weights."""
    first, second = (json.loads((path / "handoff.json").read_text("utf-8"))["sha256"] for path in (existing, fresh))
    weights = [name for name in second if name.endswith(".safetensors") and first.get(name) != second[name]]
    if weights:
        raise HandoffError(
            f"{existing} was written before and holds other weights ({', '.join(weights)}): "
            "this resume did not repeat the run; use a new run_dir"
        )


def _point_last(directory: Path) -> None:
    link = directory.parent / f".last-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(directory.name)
    link.replace(directory.parent / "last")


def _card_text(backbone: Backbone, origin: dict[str, Any]) -> str:
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    facts = "\n".join(f"| {name} | {value} |" for name, value in origin.items() if value not in (None, "", {}))
    return f"""# {origin.get("objective", "a pretrained backbone")}: {type(backbone).__name__}, {parameters:,} parameters

| | |
|---|---|
{facts}

Finetune it: `python -m finetuning handoff=<this directory> task=NAME`

Load it without this framework:

```python
{backbone.usage()}
```

The licence of the weights follows from that of the data above; the code is Apache-2.0.
"""


# -- reading ------------------------------------------------------------------------------------------------------------------------


def read(reference: str, *, seed: int = 0) -> Handoff:
    """Read a hand-off: a directory, `random:REFERENCE` (that architecture with weights drawn from `seed`), `hf:NAME_OR_DIR`
    (a transformers checkpoint) or `torchvision:NAME`.

    Raises `HandoffError` for anything missing, altered, pickled, unknown or foreign.
    """
    if reference.startswith("random:"):
        return _randomised(reference.removeprefix("random:"), seed)
    if reference.startswith("hf:"):
        return _from_transformers(reference.removeprefix("hf:"))
    if reference.startswith("torchvision:"):
        return _from_torchvision(reference.removeprefix("torchvision:"))
    directory, card = _verified(Path(reference))
    backbone = _built(card["backbone"])
    try:
        backbone.load(directory)
    except (RuntimeError, KeyError, ValueError) as error:
        raise HandoffError(f"{directory}: the weights do not fit the backbone that handoff.json describes: {error}") from error
    return Handoff(backbone, _preprocess(card["preprocess"], directory), card, str(directory), sha256(directory / "handoff.json"))


def _verified(path: Path) -> tuple[Path, dict[str, Any]]:
    """Resolve links once, and check version, files and checksums before anything is built."""
    directory = path.resolve()
    if not (directory / "handoff.json").is_file():
        hint = " (it has checkpoints, not a hand-off: name its handoff/last)" if (directory / "handoff").exists() else ""
        raise HandoffError(
            f"handoff={path}: no handoff.json there{hint}. Give a directory written by pretraining (run_dir/handoff/last), "
            "hf:NAME_OR_DIR, torchvision:NAME or random:DIR"
        )
    try:
        card = json.loads((directory / "handoff.json").read_text("utf-8"))
        version, digests = card["version"], card["sha256"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise HandoffError(f"{directory}/handoff.json is not readable ({error}): write the hand-off again") from error
    if version != VERSION:
        raise HandoffError(f"{directory} has format version {version}, this release reads {VERSION}: use the release that wrote it")
    pickled = [file.name for file in directory.rglob("*") if file.suffix in PICKLED]
    if pickled:
        raise HandoffError(f"{directory} holds {', '.join(sorted(pickled))}, which may be pickled code: remove it, weights are safetensors")
    for name, digest in digests.items():
        if not (directory / name).is_file():
            raise HandoffError(f"{directory} lacks {name}: copy the whole directory again")
        if sha256(directory / name) != digest:
            raise HandoffError(f"{directory}/{name} was altered (its sha256 differs from handoff.json): copy it again from its origin")
    if "model.safetensors" not in digests:
        raise HandoffError(f"{directory}/handoff.json does not list model.safetensors: write the hand-off again")
    return directory, card


def _class(described: dict[str, Any]) -> type:
    target = described["_target_"]
    if not target.startswith(ALLOWED):
        raise HandoffError(
            f"the hand-off asks for {target!r}, which is no backbone or preprocessing of this package: refused, it may run foreign code"
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise HandoffError(f"the hand-off asks for {target!r}, which this release does not have: use the release that wrote it") from error
    if not isinstance(found, type) or not found.__module__.startswith(ALLOWED):
        raise HandoffError(f"the hand-off asks for {target!r}, which is not a class of this package: refused")
    return found


def _built(described: dict[str, Any]) -> Backbone:
    kind = _class(described)
    if not issubclass(kind, Backbone):
        raise HandoffError(f"the hand-off names {kind.__qualname__} as its backbone, which is none: write it again")
    return kind(**described["kwargs"])


def _preprocess(described: dict[str, Any], directory: Path) -> Any:
    return _class(described).load(directory, **described["kwargs"])  # type: ignore[attr-defined]


def _randomised(reference: str, seed: int) -> Handoff:
    """Build the same architecture with fresh weights: what the pretrained ones must beat."""
    if reference.startswith(("hf:", "torchvision:")):
        known = read(reference)
        described, preprocess, card, path = _described(known.backbone), known.preprocess, known.card, known.path
    else:
        directory, card = _verified(Path(reference))
        described, preprocess, path = card["backbone"], _preprocess(card["preprocess"], directory), str(directory)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = _built(described)
    origin = {"objective": "random", "seed": seed, "steps": 0, "like": card["origin"].get("objective")}
    return Handoff(backbone, preprocess, {**card, "origin": origin}, path, sha256(Path(path) / "handoff.json") if path else "")


def _from_transformers(name: str) -> Handoff:
    from pretraining.backbones.huggingface import TransformersBackbone, architecture_of
    from pretraining.preprocess.text import TextPreprocess

    try:
        architecture = architecture_of(name)
        backbone = TransformersBackbone(config=None, init_from=name, architecture=architecture)
        preprocess = TextPreprocess.load(name)
    except (OSError, ValueError) as error:
        raise HandoffError(f"handoff=hf:{name} cannot be read: {error}. Give a directory that transformers wrote, or a hub name") from error
    return Handoff(backbone, preprocess, _foreign_card(backbone, preprocess, f"hf:{name}"), "", "")


def _from_torchvision(name: str) -> Handoff:
    from pretraining.backbones.torchvision import TorchvisionBackbone
    from pretraining.preprocess.image import ImagePreprocess

    try:
        backbone = TorchvisionBackbone(name=name, weights="DEFAULT")
    except (OSError, ValueError) as error:
        raise HandoffError(f"handoff=torchvision:{name} cannot be read: {error}") from error
    preprocess = ImagePreprocess.imagenet()
    return Handoff(backbone, preprocess, _foreign_card(backbone, preprocess, f"torchvision:{name}"), "", "")


def _foreign_card(backbone: Backbone, preprocess: Any, source: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "modality": backbone.modality,
        "backbone": _described(backbone),
        "preprocess": _described(preprocess),
        "origin": {"objective": source},
        "recipe": {},
        "sha256": {},
    }
