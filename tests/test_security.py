"""No code comes out of a file: what a run writes holds tensors and plain containers, whatever objective and callbacks
it had.
"""

import collections
import zipfile

import pytest
import torch

from tests.runs import assert_plain, finish, text_overrides, write_corpus

FEW = [
    "trainer.max_steps=4",
    "trainer.checkpoint_every=2",
    "trainer.val_every=2",
    "trainer.log_every=1",
    "ema=0.9",
    "seed=3",
]
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
IMAGES = ("simclr", "supervised", "denoising_image")
TEXTS = (
    "masked_language",
    "next_sentence",
    "bert",
    "spanbert",
)  # the others have smoke recipes, which are scanned where they run


@pytest.mark.parametrize("objective", IMAGES)
def test_a_checkpoint_of_images_is_plain(objective, tmp_path, cache_dir):
    small = [f"data.cache_dir={cache_dir}", "data.batch_size=16", "data.eval_batch_size=64"]
    assert finish([f"objective={objective}", "data=digits", *small, *FEW, *QUIET, f"run_dir={tmp_path / 'run'}"]) == 0
    assert_plain(tmp_path / "run")


@pytest.mark.parametrize("objective", TEXTS)
def test_a_checkpoint_of_text_is_plain(objective, tmp_path, cache_dir):
    given = text_overrides(write_corpus(tmp_path), cache_dir)
    text = [word for word in given if not word.startswith(("objective=", "trainer.", "logger."))]
    assert finish([f"objective={objective}", *text, *FEW, *QUIET, f"run_dir={tmp_path / 'run'}"]) == 0
    assert_plain(tmp_path / "run")


class Surprise:
    """What unpickling would build."""


def test_the_scan_finds_what_is_not_plain(tmp_path):
    for name, content in {"object": Surprise(), "counter": collections.Counter("aab")}.items():
        path = tmp_path / name / "checkpoints" / "step-0000001.ckpt"
        path.parent.mkdir(parents=True)
        torch.save({"weights": torch.zeros(2), "more": content}, path)
        assert zipfile.is_zipfile(path)
        with pytest.raises(AssertionError):
            assert_plain(tmp_path / name)
