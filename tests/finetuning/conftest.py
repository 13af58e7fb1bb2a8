"""Made-up data on which a tiny network can learn, and runs in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from finetuning.launch import compose, main
from pretraining import handoff
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece

WORDS = [
    f"{a}{b}"
    for a in ("ba", "ke", "lo", "mi", "nu", "pa", "re", "so", "ti", "vu")
    for b in ("da", "fe", "go", "hi", "ju", "ka", "le", "mo", "ni", "po")
]
QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
Finetune = Callable[..., Path]


def sentence(generator: np.random.Generator, kind: int, length: int = 10) -> str:
    """Draw words of which most belong to one of four kinds."""
    own, any_ = generator.choice(WORDS[25 * kind : 25 * kind + 25], length), generator.choice(WORDS, length)
    return " ".join(np.where(generator.random(length) < 0.7, own, any_))


def texts(count: int, seed: int, kinds: int = 3) -> dict[str, list]:
    generator = np.random.default_rng(seed)
    labels = [place % kinds for place in range(count)]
    return {
        "text": [sentence(generator, kind) for kind in labels],
        "label": [("sport", "trade", "weather", "art")[kind] for kind in labels],
    }


def write(path: Path, columns: dict[str, list]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="session")
def text_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hand-off of a tiny BERT with batch-free norms, never trained."""
    directory = tmp_path_factory.mktemp("handoff") / "step-0000001"
    preprocess = TextPreprocess(
        tokenizer=WordPiece(vocab_size=300, lowercase=True, sample_bytes=1).train(iter(WORDS * 3))
    )
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    backbone = TransformersBackbone(config=config, vocab_size=preprocess.vocab_size, pad_id=preprocess.pad_id)
    return handoff.write(directory, towers=TEXT.towers(backbone, preprocess), origin={"objective": "none"}, heads={})


@pytest.fixture(scope="session")
def image_handoff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a hand-off of a tiny ResNet with batch normalisation, never trained."""
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=1)
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.3], std=[0.35])
    directory = tmp_path_factory.mktemp("images") / "step-0000001"
    return handoff.write(directory, towers=IMAGE.towers(backbone, preprocess), origin={"objective": "none"}, heads={})


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory of three splits: texts of three classes."""
    directory = tmp_path_factory.mktemp("topics")
    for seed, (split, count) in enumerate((("train", 120), ("validation", 45), ("test", 60))):
        write(directory / f"{split}.parquet", texts(count, seed))
    return directory


@pytest.fixture
def finetune(tmp_path: Path) -> Finetune:
    """Run `python -m finetuning` with overrides, in this process."""

    def run(*overrides: str, name: str = "run") -> Path:
        return main(compose([*QUIET, f"run_dir={tmp_path / name}", *overrides]))

    return run
