"""Which checkpoint files of a run are whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pretraining.cache import sha256

MARKER = "PREEMPTED"  # in the run directory: what a batch script looks for, since launchers garble exit codes


def facts_of(path: Path) -> dict[str, Any] | None:
    """Read what the json beside a checkpoint says, or None where there is no whole one."""
    try:
        return json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return None


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
