"""`python -m pretraining.export handoff=DIR to=NAME output=DIR`: a hand-off in the form that another library reads.

`python -m pretraining.export handoff=DIR push=ORG/NAME`: the hand-off itself on the Hub, for handoff=hf:ORG/NAME.

to=transformers, timm, torchvision, ...: what is written of each kind of data, a wrong name lists. What the form has no
place for is refused. Optional: tower=NAME (one of several networks), trust=PACKAGE (whose classes the hand-off may ask
for, beside ours); push=ORG/NAME (what was written goes to the Hub, with a model card), private=false, license=NAME,
datasets=NAME,NAME (for the card).
"""

from __future__ import annotations

from pretraining.commands import EXPORT, OPTIONS

if __name__ == "__main__":  # before anything slow is imported
    EXPORT.answer(__doc__)

import inspect
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from pretraining import handoff
from pretraining.cli.configuration import as_run_errors, exit_cleanly
from pretraining.cli.early import is_true
from pretraining.errors import HandoffError, RunError
from pretraining.handoff import Handoff
from pretraining.handoff.card import Told, text_of
from pretraining.handoff.hub import check_push, push, told_in
from pretraining.modality import Modality, named
from pretraining.onnx_form import refuse_lacking
from pretraining.runs.directory import new_directory


def export(given: Handoff, to: str, directory: Path, **options: str) -> Path:
    """Write a hand-off as `to`, one of its modality's writers, with that form's `options`; returns the directory."""
    write = writer_of(given, to, options)
    with new_directory(directory, "output") as place:
        write(given, place, **options)
        (place / "README.md").write_text(text_of(place, Told(origin=given.card["origin"])), encoding="utf-8")
    return directory


def writer_of(given: Handoff, to: str, options: Collection[str] = ()) -> Callable[..., None]:
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


def carry_out(words: Mapping[str, str]) -> Iterator[str]:
    """Do what a command line asks for; tells the directory that was written, and the address that it was pushed to."""
    to, output, name = (words.get(key) for key in ("to", "output", "push"))
    if to is name is None:
        raise RunError("nothing to do: give to=NAME and output=DIR, or push=ORG/NAME")
    if to is None and (odd := [key for key in ("output", "tower", *OPTIONS) if key in words]):
        raise RunError(f"{odd[0]}= is for another form: give to=NAME, too")
    if to is not None and output is name is None:
        raise RunError(f"to={to}: give output=DIR, or push=ORG/NAME")
    private = is_true("private", words.get("private", "true"))
    if name is not None:
        check_push(name)
    if to == "onnx":
        refuse_lacking()  # before anything is read
    trust = words["trust"].split(",") if "trust" in words else []
    given = handoff.read(words["handoff"], tower=words.get("tower"), trust=trust)
    told = told_in(words, origin=given.card["origin"])
    with tempfile.TemporaryDirectory() as space:
        directory = Path(output or f"{space}/model")
        if to is None:
            if not given.path or words["handoff"].startswith("random:"):
                raise RunError(f"push={name}: handoff={words['handoff']} is no directory of a hand-off: add to=NAME")
            directory = Path(given.path)
        else:
            export(given, to, directory, **{option: words[option] for option in OPTIONS if option in words})
        if output is not None:
            yield str(directory)
        if name is not None:
            yield push(directory, name, told, private=private)


def cli() -> None:
    """Run the command line."""
    with exit_cleanly():
        words = EXPORT.read(sys.argv[1:])
        with as_run_errors():
            for line in carry_out(words):
                print(line)


if __name__ == "__main__":
    cli()
