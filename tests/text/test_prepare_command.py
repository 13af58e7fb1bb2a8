"""`python -m pretraining.data.prepare` writes what training then finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretraining.cli.prepare import prepare_all
from pretraining.errors import RunError
from tests.runs import write_corpus


def arguments(tmp_path):
    paths = [f"data.path={write_corpus(tmp_path)}", f"data.cache_dir={tmp_path / 'cache'}"]
    return ["data=text_files", "preprocess=byte_bpe", "preprocess.vocab_size=300", "data.preparation.workers=1", *paths]


def test_the_command_prints_a_line_per_split_and_a_second_run_finds_everything(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [
        sys.executable,
        "-m",
        "pretraining.data.prepare",
        *arguments(tmp_path),
        "data.preparation.validation_share=0.2",
    ]
    root = Path(__file__).parents[2]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=root).stdout
    facts = [json.loads(line) for line in shown.splitlines()]
    assert [line["split"] for line in facts] == ["train", "validation"]
    assert facts[0]["documents"] + facts[1]["documents"] <= 120 and facts[0]["tokens"] > facts[1]["tokens"] > 0
    manifest = Path(facts[0]["directory"]) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert prepare_all([*arguments(tmp_path), "data.preparation.validation_share=0.2"]) == facts
    assert manifest.stat().st_mtime_ns == before


def test_images_are_refused():
    with pytest.raises(
        RunError, match="data=Digits is image, of which nothing is prepared ahead of training: start the run"
    ):
        prepare_all(["data=digits"])
