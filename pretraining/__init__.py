"""Self-supervised pretraining: objectives on swappable backbones, with data, randomness and resumption that are exact.

The names below are imported when they are first used, so that `import pretraining` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdamW": "pretraining.optim",
    "SGD": "pretraining.optim",
    "ByteBPE": "pretraining.preprocess.tokenizer_recipes",
    "WordPiece": "pretraining.preprocess.tokenizer_recipes",
    "ImagePreprocess": "pretraining.preprocess.image",
    "StdlibDocs": "pretraining.data.builtin_text",
    "TextFiles": "pretraining.data.text",
    "MaskTokens": "pretraining.objectives.masked_language",
    "MaskedLanguage": "pretraining.objectives.masked_language",
    "SimCLR": "pretraining.objectives.simclr",
    "TorchvisionBackbone": "pretraining.backbones.torchvision",
    "TransformersBackbone": "pretraining.backbones.huggingface",
    "TrainerSettings": "pretraining.trainer",
    "fit": "pretraining.launch",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pretraining' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
