"""`python -m pretraining.data.prepare` writes what training then finds."""

import json
from pathlib import Path

import pytest

from pretraining.cli.prepare import prepare_all
from pretraining.errors import RunError
from tests.forked import run_module
from tests.runs import write_corpus


def arguments(tmp_path):
    paths = [f"data.path={write_corpus(tmp_path)}", f"data.cache_dir={tmp_path / 'cache'}"]
    return ["data=text_files", "preprocess=byte_bpe", "preprocess.vocab_size=300", "data.preparation.workers=1", *paths]


def test_the_command_prints_a_line_per_split_and_a_second_run_finds_everything(tmp_path):
    given = [*arguments(tmp_path), "data.preparation.validation_share=0.2"]
    shown = run_module("pretraining.data.prepare", *given)
    facts = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [line["split"] for line in facts] == ["train", "validation"]
    assert facts[0]["documents"] + facts[1]["documents"] <= 120 and facts[0]["tokens"] > facts[1]["tokens"] > 0
    manifest = Path(facts[0]["directory"]) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert prepare_all(given) == facts
    assert manifest.stat().st_mtime_ns == before


def test_images_are_refused():
    with pytest.raises(
        RunError, match="data=Digits is image, of which nothing is prepared ahead of training: start the run"
    ):
        prepare_all(["data=digits"])
