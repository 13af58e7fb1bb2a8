"""Self-supervised pretraining: objectives on swappable backbones, with data, randomness and resumption that are exact.

The names below are imported when they are first used, so that `import pretraining` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "AdamW": "pretraining.optim.optimizers",
    "SGD": "pretraining.optim.optimizers",
    "AudioPreprocess": "pretraining.audio.preprocess",
    "ByteBPE": "pretraining.text.tokenizer_recipes",
    "WordPiece": "pretraining.text.tokenizer_recipes",
    "KMeansUnits": "pretraining.audio.units",
    "SpeechEncoder": "pretraining.audio.backbones.speech_encoder",
    "SpokenLetters": "pretraining.audio.data.letters",
    "ImagePreprocess": "pretraining.image.preprocess",
    "StdlibDocs": "pretraining.text.data.stdlib_docs",
    "TextFiles": "pretraining.text.data.base",
    "MaskTokens": "pretraining.objectives.text.masked_language",
    "MaskFrames": "pretraining.objectives.audio.frames",
    "MaskedUnits": "pretraining.objectives.audio.masked_units",
    "MaskedLanguage": "pretraining.objectives.text.masked_language",
    "SimCLR": "pretraining.objectives.image.simclr",
    "Wav2Vec2": "pretraining.objectives.audio.wav2vec2",
    "TorchvisionBackbone": "pretraining.image.backbones.torchvision_model",
    "TransformersBackbone": "pretraining.text.backbones.transformers_model",
    "TrainerSettings": "pretraining.engine.trainer",
    "fit": "pretraining.launch",
    "load": "pretraining.embedding.loading",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pretraining' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
