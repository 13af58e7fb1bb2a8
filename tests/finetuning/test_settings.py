"""Settings that only fit together, or fit the hand-off, in a range: refused before a run has a directory."""

import os
import stat
from pathlib import Path

import pytest

from pretraining.errors import RunError
from tests.finetuning.conftest import Finetune, write

TOPICS = ["task=text_classification", "task.inputs.max_tokens=32"]


@pytest.fixture
def refused(finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path):
    def check(message: str, *overrides: str) -> None:
        data = [] if any(override.startswith("data.path=") for override in overrides) else [f"data.path={topics}"]
        with pytest.raises(RunError, match=message):
            finetune(*TOPICS, f"handoff={text_handoff}", *data, *overrides)
        assert not (tmp_path / "run").exists()

    return check


@pytest.mark.parametrize("tokens", [1, 2])
def test_lengths_that_special_tokens_fill_are_refused_not_cut(refused, tokens: int) -> None:
    key = "task.inputs.max_tokens"
    refused(f"got {key}={tokens}, which leaves no room for text beside 2 special tokens: raise it", f"{key}={tokens}")


def test_of_a_pair_there_are_more_special_tokens(refused, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", {"text": ["ba da"] * 9, "pair": ["ba"] * 9, "label": ["a", "b", "c"] * 3})
    given = [f"data.path={path}", "data.text_pair=pair", "task.inputs.max_tokens=3"]
    refused("task.inputs.max_tokens=3, which leaves no room for text beside 3 special tokens", *given)


@pytest.mark.parametrize("steps", [["trainer.max_steps=5"], ["epochs=0.5"]])
def test_a_head_that_takes_every_step_is_no_full_finetuning(refused, steps: list[str]) -> None:
    message = r"mode.head_steps=500 of \d+ steps, which leaves none for the backbone: lower it, or take mode=frozen"
    refused(message, "mode.head_steps=500", *steps)


def test_the_files_of_a_hand_off_have_the_usual_permissions(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    run = finetune(*TOPICS, f"handoff={text_handoff}", f"data.path={topics}", "mode=knn")
    usual = 0o666 & ~(umask := os.umask(0))
    os.umask(umask)
    for directory in (text_handoff, run / "model" / "last"):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*") if path.is_file()}
        assert "model.safetensors" in modes and set(modes.values()) == {usual}
