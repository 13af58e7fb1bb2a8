"""Settings drawn at random end in success or in one clear line, and a refused run leaves no directory."""

import functools
import random

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretraining.cli.compose import compose
from pretraining.errors import RunError
from pretraining.launch import main
from pretraining.settings import ranged
from tests.runs import text_overrides, write_corpus

VALUES = ["-1", "0", "0.5", "1", "2", "2.5", "1e9", "null", "true", "abc", "''", "[1,2]", "[]", "[a]", "{a: 1}", ".nan"]
VALUES += [".inf", "-.inf", "1,2", "'1'", "[null]", "[0.9", "a b(", "${seed}", "${nothing}", "???"]
IMAGES = ["objective=simclr", "data=digits", "trainer.precision=fp32", "data.batch_size=16"]
TASKS = [
    "text_classification",
    "tagging",
    "generation",
    "question_answering",
    "image_classification",
    "text_regression",
]
MODES = ["full", "frozen", "linear_probe", "knn", "partial", "gradual_unfreezing", "lora"]
DRAWS, DRY_RUNS = 300, 12


def drawn(generator, texts):
    """Draw a command: its root, what makes it whole, and one or two settings that may be wrong."""
    root = generator.choice(["pretrain", "pretrain", "finetune"])
    if root == "pretrain":
        common = generator.choice([texts, IMAGES])
    else:
        common = ["handoff=x", f"task={generator.choice(TASKS)}", "data.path=x", f"mode={generator.choice(MODES)}"]
    keys = generator.sample(settings_of(root, tuple(common)), generator.choice([1, 1, 2]))
    if generator.random() < 0.1:
        keys = [misspelt(generator, key) for key in keys]
    return root, common, [f"{key}={generator.choice(VALUES)}" for key in keys]


@functools.cache
def settings_of(root, common):
    config = OmegaConf.to_container(compose(common, root))
    return [key for key, _, _ in ranged(config)]


def misspelt(generator, key):
    place = generator.randrange(len(key))
    return key[:place] + generator.choice(["", "x", key[place] * 2]) + key[place + 1 :]


def refusal(work):
    """Carry `work` out; returns its refusal, which is one line, or None. Anything else is raised."""
    try:
        work()
    except (RunError, OmegaConfBaseException) as error:  # the latter for a group that was taken away
        error = str(error) if isinstance(error, RunError) else str(error).splitlines()[0]
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600, str(error)
        return str(error)
    return None


@pytest.mark.slow
def test_settings_drawn_at_random_end_in_success_or_one_line(tmp_path, cache_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = text_overrides(write_corpus(tmp_path), cache_dir)
    generator, refused, tried = random.Random(1), 0, 0
    for _ in range(DRAWS):
        root, common, given = drawn(generator, texts)
        overrides = [*common, *given]
        said = refusal(lambda overrides=overrides, root=root: compose(overrides, root))
        refused += said is not None
        if said is None and root == "pretrain" and tried < DRY_RUNS:
            tried += 1
            placed = [*overrides, "dry_run=true"]
            refusal(lambda placed=placed: main(compose(placed)))
    assert refused > DRAWS // 3 and tried == DRY_RUNS
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]
