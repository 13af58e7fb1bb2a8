"""Which checkpoint files are whole, and what is in them."""

from __future__ import annotations

import pickle
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

from pretraining.cache import read_object, sha256
from pretraining.errors import RunError

MARKER = "PREEMPTED"  # in the run directory: what a batch script looks for, since launchers garble exit codes

PARTS = {"global_step": int, "state_dict": dict, "optimizer_states": list, "loops": dict, "meter": dict}
PARTS |= {"measured": dict, "average": object, "skipped": object}
FACTS = {"sha256", "size", "step", "metric"}
UNREADABLE = (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError, zlib.error)


def read_checkpoint(path: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read a checkpoint under any name, never unpickling code; its tensors stay in the file until they are used.

    Raises `RunError` for a damaged file (a single bit of a tensor is found if asked to `verify`), and for one that no
    run of ours wrote.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if verify and (part := archive.testzip()) is not None:
                raise ValueError(f"the checksum of {part} does not match")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        reason = str(error).split("\n")[0].rstrip(".")[:100]
        cure = "give a whole checkpoint, or auto for the newest that is"
        raise RunError(f"resume={path} is damaged or no checkpoint ({reason}): {cure}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in PARTS.items()):
        cure = "give one that a run wrote into its checkpoints/, or start from weights with backbone.init_from="
        raise RunError(f"resume={path} is no checkpoint of a run of ours: {cure}")
    return content


def facts_of(path: Path) -> dict[str, Any] | None:
    """Read what the json beside a checkpoint says, or None where there is no whole one."""
    try:
        facts = read_object(path.with_suffix(".json"))
    except (OSError, RunError):
        return None
    return facts if facts.keys() >= FACTS else None


def newest_valid(directory: Path) -> Path | None:
    """Find the newest checkpoint that is whole, saying which ones are passed over and why."""
    for path in sorted(directory.glob("step-*.ckpt"), reverse=True):
        facts = facts_of(path)
        if facts is None:
            reason = "it was never finished"
        elif path.stat().st_size != facts["size"]:
            reason = f"it has {path.stat().st_size} bytes of {facts['size']}"
        elif sha256(path) != facts["sha256"]:
            reason = "its checksum does not match"
        else:
            return path
        print(f"checkpoint {path.name} is passed over: {reason}", file=sys.stderr)
    return None
