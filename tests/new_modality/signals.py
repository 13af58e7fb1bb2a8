"""A modality of one file: short signals in one dimension, sine waves of a few frequencies in noise.

Shapes: B signals, T samples of each, L = T / 4 positions, D width.
"""

from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from finetuning.data.base import LabelledData
from finetuning.data.splits import Examples as Labelled
from finetuning.inputs.base import EncodedSplit, Inputs, Unlabelled
from finetuning.inputs.base import Features as Classical
from pretraining.backbones.base import Backbone, Features
from pretraining.engine.batch import Term
from pretraining.modality import Modality, Preprocess, Row
from pretraining.objectives.base import Batch, Loss, Objective
from pretraining.random import uniform

SAMPLES, STRIDE, NAMES = 32, 4, ["slow", "middle", "fast"]


class Signals(Modality):
    """What the core asks of signals."""

    name, unit, probes = "signal", "samples", "online"

    def source(self, data, split, preprocess, collate, *, seed):
        return SignalSource(*made(split))

    def backbone_arguments(self, preprocess):
        return {}

    def average_row(self, objective, source, collate, preprocess):
        return Row(units=float(SAMPLES))

    def facts(self, train, validation, collate, preprocess):
        return {"validation/variance": float(((validation.signals - preprocess.mean) / preprocess.std).var())}

    def clean_inputs(self, batch, preprocess):
        return {"signals": batch["targets"]}

    def show(self, collate, batch, count, path):
        return [
            f"signal      {[round(value, 1) for value in row.tolist()]}" for row in batch["inputs"]["signals"][:count]
        ]


SIGNAL = Signals()


def made(split):
    """Make a split: float32 [N, T] and the number of each one's frequency."""
    random = np.random.default_rng(("train", "validation", "test").index(split))
    labels = np.arange(360 if split == "train" else 120) % len(NAMES)
    phase, time = random.uniform(0, 2 * np.pi, (len(labels), 1)), np.arange(SAMPLES) / SAMPLES
    waves = np.sin(2 * np.pi * (labels[:, None] + 2) * time + phase)
    return (waves + 0.3 * random.normal(size=waves.shape)).astype(np.float32), labels


class Examples(NamedTuple):
    signals: np.ndarray
    labels: np.ndarray


class SignalSource:
    class_names, class_count = tuple(NAMES), len(NAMES)

    def __init__(self, signals, labels):
        self.signals, self.labels = signals, labels

    def count(self, epoch):
        return len(self.signals)

    def read(self, epoch, rows):
        return Examples(self.signals[rows], self.labels[rows])


class SignalData:
    modality = SIGNAL

    def __init__(self, *, batch_size: int, eval_batch_size: int, workers: int):
        self.batch_size, self.eval_batch_size, self.workers = batch_size, eval_batch_size, workers


class Standardise(Preprocess):
    modality = SIGNAL

    def __init__(self, *, mean: float = 0.0, std: float = 1.0):
        self.mean, self.std = mean, std

    @property
    def kwargs(self):
        return {"mean": self.mean, "std": self.std}

    def fit(self, data):
        signals, _ = made("train")
        return Standardise(mean=float(signals.mean()), std=float(signals.std()))

    def save(self, directory):
        """The kwargs say it all."""

    @classmethod
    def load(cls, directory, **kwargs):
        return cls(**kwargs)

    def __call__(self, signals):
        return (torch.as_tensor(np.asarray(signals)) - self.mean) / self.std


class Convolutions(Backbone):
    modality = SIGNAL

    def __init__(self, *, width: int):
        super().__init__()
        self.kwargs, self.dim = {"width": width}, width
        first, second = (nn.Conv1d(size, width, 5, stride=2, padding=2) for size in (1, width))
        self.model = nn.Sequential(first, nn.GELU(), second, nn.GELU())

    def forward(self, signals):
        cells = self.model(signals[:, None].to(self.model[0].weight.dtype)).transpose(1, 2)  # [B, L, D]
        return Features(cells, cells.mean(1), grid=(cells.shape[1],))

    def blocks(self):
        return [self.model[0], self.model[2]]

    def export(self, directory):
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()},
            directory / "model.safetensors",
        )

    def load(self, directory):
        self.model.load_state_dict(load_file(directory / "model.safetensors"), strict=True)

    def usage(self):
        return 'from safetensors.torch import load_file\n\nweights = load_file("DIR/model.safetensors")'


class HideSpan:
    """The collate: hides a quarter of each signal, at a place drawn by its key."""

    def __init__(self, *, preprocess):
        self.preprocess = preprocess

    def __call__(self, examples, keys) -> Batch:
        targets = self.preprocess(examples.signals)
        start = torch.as_tensor(uniform(keys, "span", 1)) * SAMPLES * 3 / 4  # [B, 1]
        hidden = (torch.arange(SAMPLES) >= start) & (torch.arange(SAMPLES) < start + SAMPLES / 4)
        inputs = {"signals": targets.masked_fill(hidden, 0.0)}
        labels = torch.from_numpy(examples.labels)
        return {"inputs": inputs, "targets": targets, "hidden": hidden, "labels": labels, "units": targets.numel()}


class FillIn(Objective):
    """Mean squared error of the hidden samples."""

    modality = SIGNAL

    def __init__(self, *, backbone, optimizer, weight: float):
        super().__init__(backbone=backbone, optimizer=optimizer)
        self.head, self.weight = nn.Linear(2 * backbone.dim, STRIDE), weight

    def loss(self, batch: Batch) -> Loss:
        features = self.backbone(**batch["inputs"])
        whole = features.pooled[:, None].expand_as(features.positions)
        filled = self.head(torch.cat([features.positions, whole], -1)).flatten(1)  # [B, T]
        errors = (filled - batch["targets"]).square().masked_fill(~batch["hidden"], 0.0)
        return Loss({"fill_in": Term(errors.sum(), batch["hidden"].sum(), self.weight)})

    def counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"fill_in": batch["hidden"].sum()}


# -- downstream --------------------------------------------------------------------------------------------------------


class LabelledSignals(LabelledData):
    """Which frequency is it?"""

    modality = SIGNAL

    def found(self):
        parts = {name: made(name) for name in ("train", "validation", "test")}
        return {name: Labelled.of(signal=x, label=y.tolist()) for name, (x, y) in parts.items()}, NAMES


class EncodedSignals(EncodedSplit):
    def stack(self, rows):
        signals = self.examples.columns["signal"]
        return {"inputs": {"signals": torch.from_numpy(np.stack([signals[row] for row in self.examples.rows[rows]]))}}


class SignalInputs(Inputs):
    modality, columns = SIGNAL, ("signal",)

    def encode(self, examples, targets, preprocess, backbone):
        return EncodedSignals(examples, targets)

    def on_device(self, inputs, preprocess):
        return {"signals": preprocess(inputs["signals"])}

    def classical(self, train):
        return Classical("spectrum", lambda examples: np.abs(np.fft.rfft(np.stack(examples.column("signal")))))

    def read(self, path, named, preprocess):
        for number, signal in enumerate(np.load(path)):
            yield Unlabelled({"id": number}, {"signal": signal})
