"""`python -m pretraining.pairs.export handoff=DIR output=DIR`: a hand-off of pairs as one model of transformers.

CLIPModel where both networks are CLIP's own (backbone@backbone.towers.image=clip_vision_scenes
backbone@backbone.towers.text=clip_captions), VisionTextDualEncoderModel where both are other networks of transformers
whose vectors are theirs; the rest is refused, and is loaded from the hand-off's two folders.
"""

from __future__ import annotations

from pretraining.pairs.commands import EXPORT

if __name__ == "__main__":  # before anything slow is imported
    EXPORT.answer(__doc__)

import sys
from pathlib import Path

from safetensors.torch import load_file

from pretraining import handoff
from pretraining.cache import share
from pretraining.cli.configuration import exit_cleanly
from pretraining.errors import HandoffError, RunError
from pretraining.handoff import Handoff
from pretraining.pairs.checkpoints import as_transformers, save
from pretraining.runs.directory import make_directory


def export(given: Handoff, directory: Path) -> Path:
    """Write the hand-off's networks and projections; returns the directory."""
    if directory.is_dir() and any(directory.iterdir()):
        raise RunError(f"output={directory} holds something already: give a new directory")
    if "heads.safetensors" not in given.card["sha256"]:
        raise HandoffError(f"{given.path or given.reference} holds no projections: give one of objective=clip")
    model = as_transformers(given.towers, load_file(Path(given.path) / "heads.safetensors"))
    save(model, given.towers, make_directory(directory, "output"))
    share(directory)
    return directory


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        words = EXPORT.read(sys.argv[1:])
        print(export(handoff.read(words["handoff"]), Path(words["output"])))


if __name__ == "__main__":
    cli()
