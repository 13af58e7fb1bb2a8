"""Settings drawn at random end in success or in one clear line, and a refused run leaves no directory."""

import functools
import random

import pytest
import yaml
from omegaconf import OmegaConf

from pretraining.cli.compose import compose
from pretraining.settings import ranged
from tests.fuzz import ends, wrong
from tests.fuzz.kinds import IMAGES, KNN, TEXTS, finetuning, pretraining, write_table

VALUES = ["-1", "0", "0.5", "1", "2", "2.5", "1e9", "null", "true", "abc", "''", "[1,2]", "[]", "[a]", "{a: 1}", ".nan"]
VALUES += [".inf", "-.inf", "1,2", "'1'", "[null]", "[0.9", "a b(", "${seed}", "${nothing}", "???"]
SMALL = ["0.5", "1", "2", "3", "null", "true", "false", "[1]", "[0.5,0.6]"]  # of which more are possible
WORDS = ["mean", "first", "linear", "cosine", "constant", "bf16", "fp32", "skip", "bilinear", "balanced", "last", "all"]
SLOW = ("num_layers", "workers", "hours", "compile", "size", "width", "d_ff", "profile", "max_bytes", "layers", "heads")
SLOW += ("devices", "num_nodes", "strategy")  # of which large values only take long, or other processes
FOREVER = ("run_dir", "data.cache_dir", "data.path", "trainer.max_steps", "epochs", "handoff")  # or are the trial's own
SETTINGS = 300


@functools.cache
def ranges_of(root, words):
    known = ranged(OmegaConf.to_container(compose(words, root)))
    return {key: kind for key, _, kind in known if key not in FOREVER and not key.startswith("budget.")}


def drawn(generator, root, words):
    """Draw one or two settings that may be wrong, or misspelt."""
    ranges = ranges_of(root, tuple(words))
    keys = generator.sample(sorted(ranges), generator.choice([1, 1, 2]))
    if generator.random() < 0.1:
        keys = [misspelt(generator, key) for key in keys]
    kinds = [ranges.get(key) if generator.random() < 0.5 else None for key in keys]
    return [f"{key}={generator.choice(values_of(key, kind))}" for key, kind in zip(keys, kinds, strict=True)]


def values_of(key, kind):
    """List values, or those that are of a kind, if there are such."""
    values = [value for value in VALUES if not (key.endswith(SLOW) and value in ("1e9", "2", "2.5"))] + SMALL
    if kind is None:
        return values
    return [value for value in SMALL + WORDS if kind.accepts(yaml.safe_load(value))] or values


def misspelt(generator, key):
    place = generator.randrange(len(key))
    return key[:place] + generator.choice(["", "x", key[place] * 2]) + key[place + 1 :]


@pytest.mark.slow
def test_settings_drawn_at_random_end_in_success_or_one_line(handoffs, tmp_path, cache_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_table(tmp_path, "csv")
    cache = [f"data.cache_dir={cache_dir}"]
    labelled = [*KNN, "task.inputs.max_tokens=16", f"data.path={table}", "trainer.max_steps=1"]
    roots = [
        pretraining([*TEXTS, *cache, f"data.path={table}"], 2),
        pretraining([*IMAGES, *cache, "data=digits"], 16),
        *(
            finetuning(
                "text_classification", handoffs["text"], [word for word in labelled if "mode" not in word] + mode
            )
            for mode in (["mode=full"], ["mode=lora"], ["mode=knn", "mode.k=3"], ["mode=linear_probe"])
        ),
    ]
    generator = random.Random(1)
    said = []
    for number in range(SETTINGS):
        root, words = roots[number % 2] if number % 3 else generator.choice(roots[2:])
        said.append(ends([*words, *drawn(generator, root, words)], root, tmp_path / "run"))
    assert not wrong(said)
    refused = [line for line in said if line is not None]
    assert SETTINGS // 3 < len(refused) < SETTINGS - SETTINGS // 10 and len(set(refused)) > 80
    assert [path.name for path in tmp_path.iterdir()] == [table.name]
