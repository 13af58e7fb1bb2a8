"""A tiny speech encoder and batches of made-up waves."""

import numpy as np
import torch

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.audio.codebook import Codebook
from pretraining.audio.data.base import AudioExamples
from pretraining.audio.preprocess import AudioPreprocess
from pretraining.objectives.audio.data2vec_audio import Data2VecAudio
from pretraining.objectives.audio.frames import MaskFrames
from pretraining.objectives.audio.masked_units import MaskedUnits
from pretraining.objectives.audio.quantiser import ProductQuantiser, Temperature
from pretraining.objectives.audio.wav2vec2 import Wav2Vec2
from pretraining.random import Keys
from tests.one_step import plain_sgd

KERNELS, STRIDES = [10, 3, 2], [5, 2, 2]
ENCODER = {
    "model_type": "wav2vec2",
    "conv_dim": [8, 8, 12],
    "conv_kernel": KERNELS,
    "conv_stride": STRIDES,
    "conv_bias": True,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout"), 0.0),
}
LENGTHS = (900, 700, 1200, 840, 1000, 760, 1100, 660)  # samples: 31 to 59 frames


def encoder(stem="waves", **changes):
    torch.manual_seed(0)
    return SpeechEncoder(encoder=ENCODER | changes, stem=stem, sample_rate=8000)


def examples(lengths=LENGTHS):
    random = np.random.default_rng(0)
    rows = [random.integers(-3000, 3000, length).astype(np.int16) for length in lengths]
    return AudioExamples(np.concatenate(rows), np.array(lengths))


def collate(share=0.65, span=5, codebook=None):
    preprocess = AudioPreprocess(sample_rate=8000, normalise=True, codebook=codebook)
    return MaskFrames(preprocess=preprocess, kernels=KERNELS, strides=STRIDES, share=share, span=span)


def keys_of(rows, progress=0.3):
    rows = np.asarray(rows)
    return Keys(7, "train", np.zeros_like(rows), rows, progress)


def batch_of(rows, lengths=LENGTHS, **changes):
    """Collate the rows of these numbers."""
    whole = examples(lengths)
    each = whole.each()
    chosen = AudioExamples(np.concatenate([each[row] for row in rows]), whole.lengths[list(rows)])
    keys = keys_of(rows)
    return collate(**changes)(chosen, keys) | {"keys": keys.to("cpu")}


def codebook(units=6):
    """Six codes far apart in the first MFCC."""
    codes = np.zeros((units, 39))
    codes[:, 0] = np.linspace(-20, 20, units)
    return Codebook("mfcc", np.zeros(39), np.ones(39), codes)


def wav2vec2(**changes):
    torch.manual_seed(1)
    temperature = Temperature(start=2.0, end=0.5, share=0.7)
    quantiser = ProductQuantiser(groups=2, codes=5, width=8, dropout=0.0, temperature=temperature)
    settings = {"negatives": 9, "width": 6, "diversity_weight": 0.1, "penalty_weight": 10.0, "stem_gradient": 0.1}
    return Wav2Vec2(backbone=encoder(), optimizer=plain_sgd(), quantiser=quantiser, **(settings | changes))


def masked_units(**changes):
    torch.manual_seed(1)
    settings = {"units": 6, "width": 7, "penalty_weight": 10.0, "stem_gradient": 0.1} | changes
    return MaskedUnits(backbone=encoder(), optimizer=plain_sgd(), **settings)


def data2vec(**changes):
    torch.manual_seed(1)
    settings = {"top_layers": 2, "momentum": 0.99, "last_momentum": 0.999, "stem_gradient": 1.0} | changes
    return Data2VecAudio(backbone=encoder(), optimizer=plain_sgd(), **settings)
