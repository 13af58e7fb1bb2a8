"""`python -m pretraining.export handoff=DIR to=NAME output=DIR`: a hand-off in the form that another library reads.

to=transformers, timm, torchvision, ...: what is written of each kind of data, a wrong name lists. What the form has no
place for is refused. Optional: tower=NAME (one of several networks), trust=PACKAGE (whose classes the hand-off may ask
for, beside ours).
"""

from __future__ import annotations

from pretraining.commands import EXPORT, OPTIONS

if __name__ == "__main__":  # before anything slow is imported
    EXPORT.answer(__doc__)

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pretraining import handoff
from pretraining.cli.configuration import as_run_errors, exit_cleanly
from pretraining.errors import HandoffError, RunError
from pretraining.handoff import Handoff
from pretraining.modality import Modality, named
from pretraining.runs.directory import new_directory


def export(given: Handoff, to: str, directory: Path, **options: str) -> Path:
    """Write a hand-off as `to`, one of its modality's writers, with that form's `options`; returns the directory."""
    write = writer_of(given, to, options)
    with new_directory(directory, "output") as place:
        write(given, place, **options)
    return directory


def writer_of(given: Handoff, to: str, options: Sequence[str] = ()) -> Callable[..., None]:
    """Find what writes a hand-off as `to`; a form or an option that there is not is an error."""
    modality = modality_of(given)
    if to not in modality.writers:
        known = ", ".join(modality.writers) or "nothing: load it by the lines of its README.md"
        raise RunError(f"to={to}: a hand-off of {modality} is written as {known}")
    write = named(modality.writers[to])
    taken = [name for name, part in inspect.signature(write).parameters.items() if part.kind is part.KEYWORD_ONLY]
    if odd := [name for name in options if name not in taken]:
        raise RunError(f"{odd[0]}= is not for to={to}: leave it out")
    return write


def modality_of(given: Handoff) -> Modality:
    """Find the modality of all that a hand-off holds: of its only network, or of what several learnt together."""
    if len(given.towers) == 1:
        return given.backbone.modality
    if (objective := given.objective) is None:
        raise HandoffError(f"{given.path} holds {', '.join(given.towers)}: choose one with tower=")
    return objective.modality  # type: ignore[attr-defined]


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        words = EXPORT.read(sys.argv[1:])
        options = {name: words[name] for name in OPTIONS if name in words}
        trust = words["trust"].split(",") if "trust" in words else []
        given = handoff.read(words["handoff"], tower=words.get("tower"), trust=trust)
        with as_run_errors():
            print(export(given, words["to"], Path(words["output"]), **options))


if __name__ == "__main__":
    cli()
