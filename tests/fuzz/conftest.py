"""Hand-offs of tiny networks, never trained, one for each kind of data."""

import pytest
import torch

from pretraining import handoff
from pretraining.audio.modality import AUDIO
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece
from tests.objectives.audio.small_audio import encoder

LOG_MEL = {"conv_dim": [20, 12, 12], "conv_kernel": [200, 3, 3], "conv_stride": [80, 2, 2]}
CONFIG = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG |= {"intermediate_size": 16, "max_position_embeddings": 64}


@pytest.fixture(scope="session")
def handoffs(tmp_path_factory):
    """Write one of each, by name."""
    torch.manual_seed(0)
    recipe = WordPiece(vocab_size=100, lowercase=True, sample_bytes=1)
    texts = TextPreprocess(tokenizer=recipe.train(iter(["the quick brown fox jumps over a lazy dog"] * 9)))
    bert = TransformersBackbone(config=CONFIG, vocab_size=texts.vocab_size, pad_id=texts.pad_id)
    resnet = {"name": "resnet", "layers": [1, 1, 1, 1], "width": 4}
    numbers = {"channels": 3, "mean": [0.3] * 3, "std": [0.3] * 3}
    towers = {
        "text": TEXT.towers(bert, texts),
        "image": IMAGE.towers(TorchvisionBackbone(**resnet, stem="cifar"), ImagePreprocess(size=8, **numbers)),
        "scenes": IMAGE.towers(TorchvisionBackbone(**resnet, stem="small"), ImagePreprocess(size=48, **numbers)),
        "audio": AUDIO.towers(encoder("log_mel", **LOG_MEL), AudioPreprocess(sample_rate=8000, normalise=True)),
    }
    root = tmp_path_factory.mktemp("handoffs")
    return {
        name: handoff.write(root / name / "step-0000001", towers=tower, origin={"objective": "none"}, heads={})
        for name, tower in towers.items()
    }
