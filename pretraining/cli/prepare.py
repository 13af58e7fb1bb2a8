"""`python -m pretraining.data.prepare`: train the tokenizer and write the shards ahead of training."""

from __future__ import annotations

import json
import sys
from typing import Any

from pretraining.cli.configuration import as_run_errors, compose, exit_cleanly, instantiate
from pretraining.errors import RunError


def prepare_all(arguments: list[str]) -> list[dict[str, Any]]:
    """Prepare the splits of a configuration; returns facts about each corpus."""
    config = compose(arguments, root="prepare")
    with as_run_errors():
        data = instantiate(config.data)
        if not hasattr(data, "prepare"):
            kind = f"data={type(data).__name__} is {data.modality}"
            raise RunError(f"{kind}, of which nothing is prepared ahead of training: start the run")
        preprocess = instantiate(config.preprocess).fit(data)
        return [facts for split in config.splits for facts in data.prepare(split, preprocess)]


def cli() -> None:
    """Run the command line: a line of JSON per corpus."""
    with exit_cleanly():
        for facts in prepare_all(sys.argv[1:]):
            print(json.dumps(facts))
