"""Small pairs of pictures and token rows, and the networks that read them: in any precision, in no time.

Image k shows noise; its captions are `CAPTIONS[k]`, some of which belong to several images.
"""

import functools

import numpy as np
import torch

from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.pairs.dual_encoder import DualEncoder
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.one_step import plain_sgd

SIZE, WORDS, BATCH = 8, 20, 8
CAPTIONS = [["3 4", "5"], ["5"], ["6 7 8"], ["9 4"], ["6 7 8"], ["10", "11", "12"], ["13"], ["14 15 5"]]
FALSE = {0: ["4 3", "5 5"], 2: ["8 7 6"], 5: ["9 4", "6"], 7: ["5 15 14"]}  # of an image; one of 5's is true of 3
READ = [0, 0, 0, 0, 0, 2, 0, 0]  # which of its captions is read with each image
KNOWN = sorted({text for own in (*CAPTIONS, *FALSE.values()) for text in own})
VIT = {"image_size": SIZE, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 12, "mlp_dim": 16}
BERT = {
    **{"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": WORDS},
    **{"intermediate_size": 32, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "max_position_embeddings": 16,
}


def dual_encoder(**changes) -> DualEncoder:
    torch.manual_seed(0)
    towers = {
        "image": functools.partial(TorchvisionBackbone, name="vision_transformer", options=VIT),
        "text": functools.partial(TransformersBackbone, config=BERT),
    }
    return DualEncoder(towers=towers, **changes)


def objective(kind, **changes):
    backbone = dual_encoder()
    torch.manual_seed(1)
    settings = {"width": 10, "scale": 3.0, "max_scale": 100.0} | changes
    return kind(backbone=backbone, optimizer=plain_sgd(), **settings)


def numbers_of(texts, width) -> torch.Tensor:
    rows = [[*map(KNOWN.index, own), *[-1] * (width - len(own))] for own in texts]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), width)


def batch_of(rows, hard=False) -> dict:
    rows = list(rows)
    images = np.random.default_rng(0).normal(size=(BATCH, 3, SIZE, SIZE))[rows]
    texts = [CAPTIONS[row][READ[row]] for row in rows]
    false = [FALSE.get(row, []) if hard else [] for row in rows]
    read = [*texts, *(text for own in false for text in own)]
    ids = torch.zeros(len(read), 8, dtype=torch.int64)
    for row, text in enumerate(read):
        tokens = [1, *map(int, text.split()), 2]
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return {
        "inputs": {
            "image": {"images": torch.from_numpy(images)},
            "text": {"input_ids": ids, "document_ids": (ids > 0).long()},
        },
        "example": torch.tensor(rows),
        "caption": numbers_of([[text] for text in texts], 1)[:, 0],
        "captions": numbers_of([CAPTIONS[row] for row in rows], 3),
        "false": numbers_of(false, 2),
    }


def split(parts, rows=range(BATCH), hard=False) -> list[dict]:
    rows = list(rows)
    size = len(rows) // parts
    return [batch_of(rows[start : start + size], hard) for start in range(0, len(rows), size)]
