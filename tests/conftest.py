"""Settings of every test: one thread, no network, nothing outside of temporary directories."""

import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"

import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory):
    """A cache that the tests of a session share."""
    return tmp_path_factory.mktemp("cache")


def pytest_collection_finish():
    """What was imported stays: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let the interpreter end as it does."""
    gc.unfreeze()
