"""Pairs stand on any two wings: signals in one dimension, a wing of tests/new_modality, and their captions."""

import functools

import numpy as np
import torch

from pretraining import handoff
from pretraining.data.loader import StepLoader, collated
from pretraining.engine.batch import StepSettings
from pretraining.engine.trainer import TrainerSettings, build_trainer
from pretraining.objectives.pairs.clip import Clip
from pretraining.optim.optimizers import AdamW
from pretraining.pairs.collate import PairCollate
from pretraining.pairs.data.base import PairData, PairExamples, table_of
from pretraining.pairs.dual_encoder import DualEncoder
from pretraining.pairs.modality import PAIRS
from pretraining.pairs.preprocess import PairPreprocess
from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.raw import RawTexts, TokeniseTexts
from pretraining.text.tokenizer_recipes import WordPiece
from tests.new_modality.signals import NAMES, SIGNAL, Convolutions, HideSpan, SignalSource, Standardise, made
from tests.pairs.small import BERT


class SignalCaptions(PairData):
    """What a data set of another kind brings: how its sides are read, and which captions belong to what."""

    def open(self, split):
        return CaptionedSignals(SignalSource(*made(split)))

    def fingerprint(self):
        return "signals"

    def texts(self, split):
        return (f"a {name} wave" for name in NAMES)


class CaptionedSignals:
    def __init__(self, signals):
        self.signals = signals

    def count(self, epoch):
        return self.signals.count(epoch)

    def read(self, epoch, rows):
        signals = self.signals.read(epoch, rows)
        texts = [f"a {NAMES[label]} wave" for label in signals.labels]
        sides = {"signal": signals, "text": RawTexts.of(texts)}
        return PairExamples(sides, rows, table_of([[text] for text in texts], 1))


def test_signals_and_captions_are_learnt_and_handed_over(tmp_path):
    data = SignalCaptions(batch_size=24, eval_batch_size=60, workers=0, cache_dir=tmp_path)
    words = WordPiece(vocab_size=120, lowercase=True, sample_bytes=1000)
    preprocess = PairPreprocess(sides={"signal": Standardise(), "text": words}).fit(data)
    assert preprocess.sides["signal"].std != 1.0  # each side has learnt from the data
    sides = {"signal": HideSpan, "text": functools.partial(TokeniseTexts, max_tokens=8)}
    collate = PairCollate(preprocess=preprocess, sides=sides)
    torch.manual_seed(0)
    bert = BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": 5}
    towers = {
        "signal": functools.partial(Convolutions, width=16),
        "text": functools.partial(TransformersBackbone, config=bert),
    }
    told = PAIRS.backbone_arguments(preprocess)
    assert told["arguments"]["text"]["vocab_size"] == preprocess.sides["text"].vocab_size > 30
    backbone = DualEncoder(towers=towers, **told)
    flat = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "weight_decay": 0.0}
    optimizer = AdamW(peak_lr=1e-2, betas=(0.9, 0.98), eps=1e-8, **flat)
    objective = Clip(backbone=backbone, optimizer=optimizer, width=8, scale=10.0, max_scale=100.0)
    objective.settings = StepSettings(seed=1, max_steps=100)
    loader = StepLoader(data.source("train"), collate, batch_size=24, max_steps=100, seed=1)
    build_trainer(TrainerSettings(max_steps=100, precision="fp32"), [], [], tmp_path).fit(objective, loader)
    rows = np.arange(60)
    keys = Keys(0, "validation", np.zeros_like(rows), rows)
    batch = collated(collate, data.source("validation").read(0, rows), keys)
    with torch.no_grad():
        found = objective.eval().loss(objective.finished(batch)).metrics
    assert found["signal_to_text"].total / 60 > 0.8  # of three captions
    place = handoff.write(
        tmp_path / "step-1", towers=PAIRS.towers(backbone, preprocess), origin={}, heads=objective.heads()
    )
    again = handoff.read(str(place), modality=SIGNAL, tower="signal")
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.backbone.parameters(), backbone.towers["signal"].parameters(), strict=True)
    )
