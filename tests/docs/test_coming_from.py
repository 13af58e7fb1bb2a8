"""Whoever comes from another library finds commands and settings here that there are: each composes."""

import itertools
import re
import shlex

import pytest
from omegaconf import OmegaConf

from finetuning.launch import compose as compose_finetuning
from pretraining.cli.configuration import CONF, check_settings, compose
from pretraining.commands import EXPORT
from tests.docs.run_page import blocks
from tests.docs.test_blocks import ROOT

PAGE = (ROOT / "docs" / "coming_from.md").read_text("utf-8")
COMPOSE = {"pretraining": compose, "finetuning": compose_finetuning}
# What a setting that a table names by itself is a setting of.
PATH = ["preprocess.path=NAME"]
BASES = {
    "pretraining": [
        ["objective=masked_language", "data=text_files", "data.path=corpus.txt", "backbone=bert_base"],
        ["objective=masked_language", "data=text_files", "data.path=a", "preprocess=pretrained_tokenizer", *PATH],
        ["objective=simclr", "data=image_folder", "data.path=photos", "optimizer=lars"],
        ["objective=moco_v2"],
        ["objective=wav2vec2", "data=audio_folder", "data.path=sounds"],
    ],
    "finetuning": [["handoff=DIR", "task=digits", "mode=knn"]],
}
SETTING = r"[a-z_]+(?:\.[a-z_0-9]+)*"


def command_lines():
    """List our commands on the page, as (package, words)."""
    code = "\n".join(block.code for block in blocks(PAGE)).replace("\\\n", " ").splitlines()
    code += re.findall(r"`(python -m [^`]*)`", PAGE)
    found = [shlex.split(line, comments=True) for line in code if line.startswith("python -m ")]
    return [(words[2], words[3:]) for words in found]


def settings():
    """List what the columns of the tables that tell of ours name: words as on a command line, and names alone."""
    rows = [re.split(r"(?<!\\) ?\| ?", line)[2:-1] for line in PAGE.splitlines() if line.startswith("| ")]
    codes = [code for row in rows for cell in row for code in re.findall(r"`([^`]*)`", cell)]
    prose = re.findall(r"`(\w+=[^`]*)`", "\n".join(line for line in PAGE.splitlines() if not line.startswith("|")))
    return [code for code in [*codes, *prose] if not code.startswith("python -m ")]


def options(word):
    """List what `{a,b}_c` stands for."""
    parts = [part.split(",") if number % 2 else [part] for number, part in enumerate(re.split(r"\{([a-z].*?)\}", word))]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


@pytest.mark.parametrize(
    ("package", "words"), [pytest.param(*one, id=" ".join(one[1])[:60]) for one in command_lines()]
)
def test_a_command_composes(package, words):
    if package == "pretraining.export":
        EXPORT.read(words)
    elif "..." not in " ".join(words):
        check_settings(COMPOSE[package](words))


def test_commands_are_found():
    assert len(command_lines()) > 6 and {package for package, _ in command_lines()} > set(COMPOSE)


def test_settings_of_the_tables_are_settings_here():
    bases = [COMPOSE[package](words) for package, made in BASES.items() for words in made]
    checked = 0
    for word in itertools.chain.from_iterable(map(shlex.split, settings())):
        key, equals, value = word.partition("=")
        if not re.fullmatch(SETTING, key) or not (value or "." in key):
            continue
        checked += 1
        if (CONF / key).is_dir():
            assert all((CONF / key / f"{name}.yaml").is_file() for name in options(value)), word
            continue
        there = [base.copy() for base in bases if has(base, key)]
        assert there, word
        if equals and "..." not in value:
            OmegaConf.update(there[0], key, OmegaConf.create(f"value: {value}").value, merge=True)
            check_settings(there[0])
    assert checked > 40


def has(config, key):
    """Tell whether a configuration has a setting, which may be null."""
    path, _, name = key.rpartition(".")
    node = OmegaConf.select(config, path) if path else config
    return OmegaConf.is_dict(node) and name in node
