"""`python -m pretraining.embed handoff=DIR input=FILE output=emb.parquet`: what a network says of examples, as vectors.

handoff: a directory that pretraining wrote, hf:NAME, torchvision:NAME, or random:REFERENCE.
input: tables (.parquet, .csv, .tsv, .jsonl), text, a text per line (`-` is stdin), or a directory of images or
recordings; inputs.column= names the column, inputs.max_tokens= and inputs.max_seconds= say what is read of each.
output: .parquet (each example's id, file and text beside its `embedding`), .csv, or .npy (the vectors alone).

tower=image      one network of a hand-off of pairs, its own vectors; side=image: those in the space that both share
layer=last       all, a number (0: what the first layer reads) or [2,4]: side by side
pooling=first    how one vector is made of many, where the network has a choice (mean, first, last, pooler)
normalize=true   vectors of length 1
batch_size=64    examples that are computed together
precision=fp32   bf16, or auto: bf16 where this machine multiplies faster in it
neighbours=10    the columns `neighbours` and `cosines`: each example's nearest by cosine, found exactly
picture=map.png  the vectors in the plane, .png or .html, by method=pca or umap
seed=0           draws the weights of random:
trust=[mine]     packages of one's own whose classes a hand-off may ask for
"""

from __future__ import annotations

from pretraining.embedding.commands import EMBED

if __name__ == "__main__":  # before anything slow is imported
    EMBED.answer(__doc__)

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pretraining.cli.configuration import as_run_errors, exit_cleanly
from pretraining.data.unlabelled import input_path, output_path, some
from pretraining.embedding import picture, writing
from pretraining.embedding.loading import load
from pretraining.embedding.model import Embedder, JointEmbedder
from pretraining.embedding.settings import Source, Wanted
from pretraining.engine.memory import keep_freed_memory
from pretraining.errors import RunError

PARSED = ("layer", "normalize", "batch_size", "neighbours", "seed", "trust")


def read_words(words: Mapping[str, str]) -> dict[str, Any]:
    """Read the values of a command line: numbers, truth values and lists where settings are such."""
    given: dict[str, Any] = dict(words)
    for name, word in words.items():
        if name in PARSED or name.startswith("inputs."):
            with contextlib.suppress(yaml.YAMLError):  # no such thing, but a text
                given[name] = yaml.safe_load(word)
    return given


def loaded(given: Mapping[str, Any]) -> Embedder:
    """Read the network; several that share a space are an error."""
    inputs = {name.removeprefix("inputs."): value for name, value in given.items() if name.startswith("inputs.")}
    options = _of(Source, given)
    model = load(given["handoff"], **options, **inputs)
    if isinstance(model, JointEmbedder):
        what = f"handoff={given['handoff']} holds the networks {', '.join(model.towers)}"
        raise RunError(f"{what}: give side= for one's vectors in the space that they share, or tower= for its own")
    return model


def _of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in dataclasses.fields(kind) if field.name in given}


def embed(given: Mapping[str, Any]) -> dict[str, Any]:
    """Embed what a command line says; returns what was written."""
    wanted, comparison = Wanted(**_of(Wanted, given)), writing.Comparison(**_of(writing.Comparison, given))
    path = output_path(given["output"], writing.FORMATS, read=given["input"])
    named = comparison.picture
    drawn = None if named is None else output_path(named, picture.KINDS, "picture", read=given["input"])
    if path.suffix.lower() == ".npy" and comparison.neighbours is not None:
        what = f"got neighbours={comparison.neighbours} and output={path}"
        raise RunError(f"{what}, which holds vectors alone: give .parquet or .csv")
    model = loaded(given)
    with as_run_errors(), contextlib.ExitStack() as stack:
        examples = some(model.read(input_path(given["input"])), given["input"])
        pieces = writing.pieces_of(model.pieces(examples, wanted))
        if comparison.neighbours is not None or drawn is not None:
            spool = writing.Spool(pieces, stack.enter_context(tempfile.TemporaryFile(dir=path.parent)))
            pieces = _compared(spool, comparison, drawn)
        count = writing.write(pieces, path)
    return {"output": str(path), "examples": count, "width": model.width(wanted)}


def _compared(spool: writing.Spool, comparison: writing.Comparison, drawn: Path | None) -> Iterator[writing.Piece]:
    """Find neighbours and draw the picture of all vectors, then serve them again."""
    found = comparison.neighbours
    columns = {} if found is None else writing.neighbour_columns(spool, found)
    if drawn is not None:
        names = [str(name) for name in spool.names().to_pylist()]
        picture.draw(spool.vectors, names, comparison.method, drawn)
    return spool.pieces(columns)


def cli() -> None:
    """Run the command line."""
    keep_freed_memory()
    with exit_cleanly():
        told = embed(read_words(EMBED.read(sys.argv[1:])))
        print(f"{told['output']}: {told['examples']:,} vectors of {told['width']}")


if __name__ == "__main__":
    cli()
