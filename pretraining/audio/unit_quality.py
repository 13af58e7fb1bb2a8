"""How good units are: what `python -m pretraining.audio.units` says of them.

Shapes: T frames of a split, K units.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from pretraining.audio.data.base import AudioData
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.audio.units import UnitRecipe
from pretraining.cli.configuration import as_run_errors, class_name, compose, exit_cleanly, instantiate
from pretraining.errors import RunError


def make_units(arguments: list[str]) -> dict[str, Any]:
    """Make the units of a configuration, as training would on first use, and judge them."""
    config = compose(arguments, root="units")
    with as_run_errors():
        data, recipe = instantiate(config.data), instantiate(config.preprocess)
        if not isinstance(data, AudioData) or not isinstance(recipe, UnitRecipe):
            what = f"got data={class_name(config.data)} and preprocess={class_name(config.preprocess)}"
            told = "give recordings, and preprocess=speech_units, random_speech_units or layer_units"
            raise RunError(f"{what}: {told}")
        return judge(data, recipe, config.split)


def judge(data: AudioData, recipe: UnitRecipe, split: str) -> dict[str, Any]:
    """Measure units on a split.

    `used` of them occur, about as unevenly as `perplexity` equally frequent ones would. `inertia` is the mean squared
    distance of a frame to its unit's code. `purity`, where the data know what sounds when: the share of frames whose
    sound is the most frequent one of their unit (Hsu et al. 2021, section V-C), beside that of the commonest sound.
    """
    made = recipe.fit(data)
    plain, book = AudioPreprocess(**made.kwargs), made.codebook
    assert book is not None
    source, (window, hop) = data.source(split, plain), book.grid(made.sample_rate)
    heard, named, away, sounds = data.sounds(split, source), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for row in range(source.count(0)):
        (samples,) = source.read(0, np.array([row])).each()
        units, squares = book.nearest(recipe.features(samples, plain))
        named.append(units)
        away.append(squares)
        if heard is not None:
            sounds.append(heard[source.starts[row] + np.arange(len(units)) * hop + window // 2])
    units = np.concatenate(named)
    shares = np.bincount(units, minlength=len(book.codes)) / len(units)
    shares = shares[shares > 0]
    facts = {
        "units": len(book.codes),
        "used": len(shares),
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "inertia": float(np.concatenate(away).mean()),
        "frames": len(units),
    }
    return facts | (purity(units, np.concatenate(sounds)) if heard is not None else {})


def purity(units: np.ndarray, sounds: np.ndarray) -> dict[str, float]:
    """Compute which share of frames [T] has the most frequent sound of its unit, and which the most frequent one."""
    _, kinds = np.unique(sounds, return_inverse=True)
    together = np.zeros((units.max() + 1, kinds.max() + 1), np.int64)
    np.add.at(together, (units, kinds), 1)
    counts = {"purity": together.max(1).sum(), "commonest_sound": together.sum(0).max()}
    return {name: float(count / len(units)) for name, count in counts.items()}


def cli() -> None:
    """Run the command line: a line of JSON."""
    with exit_cleanly():
        print(json.dumps(make_units(sys.argv[1:])))
