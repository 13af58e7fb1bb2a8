"""Small joint-embedding objectives, one builder each, on a network with batch statistics and on one without."""

import numpy as np
import torch

from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.barlow_twins import BarlowTwins
from pretraining.objectives.image.byol import BYOL
from pretraining.objectives.image.dino import DINO
from pretraining.objectives.image.i_jepa import IJEPA
from pretraining.objectives.image.ibot import IBOT
from pretraining.objectives.image.moco_v2 import MoCoV2
from pretraining.objectives.image.moco_v3 import MoCoV3
from pretraining.objectives.image.patch_predictor import Blocks, PatchPredictor
from pretraining.objectives.image.simclr import SimCLR
from pretraining.objectives.image.simsiam import SimSiam
from pretraining.objectives.image.swav import SwAV
from pretraining.objectives.image.vicreg import VICReg
from pretraining.objectives.losses.distillation import Distillation, MaskedDistillation
from pretraining.objectives.losses.sinkhorn import Codes
from pretraining.objectives.memory import QueueContrast
from pretraining.optim.schedules import Schedule
from pretraining.random import Keys
from tests.one_step import plain_sgd

BATCH, SIZE, PATCH, WIDTH, PROTOTYPES = 8, 16, 4, 12, 10
RISE = Schedule(first=0.5, last=0.9)


def views(count=2, size=SIZE, **changes):
    settings = {
        "crop": Crop(size=size, area=(0.3, 1.0), flip=0.5),
        "jitter": Jitter(probability=0.8, hue=0.1, saturation=0.4),
        "greyscale": 0.2,
        "blur": Blur(probability=0.5, kernel_size=3),
        "solarise": 0.0,
        "output": Output(mean=[0.5] * 3, std=[0.25] * 3),
    }
    return Views(count=count, **(settings | changes))


def backbone(kind, pooling="class"):
    if kind == "resnet":
        return TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar")
    if kind == "resnet18":
        return TorchvisionBackbone(name="resnet18", stem="cifar")
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    if kind == "vit_tiny":
        sizes = {"num_layers": 12, "num_heads": 3, "hidden_dim": 192, "mlp_dim": 768}
    shape = {"image_size": SIZE, "patch_size": PATCH, **sizes}
    return TorchvisionBackbone(name="vision_transformer", options=shape, pooling=pooling)


def head(kind, layers=2, **changes):
    norm = {"hidden_norm": "full"} if kind.startswith("resnet") else {"hidden_norm": "none", "bias": True}
    return Projector(**({"layers": layers, "hidden": 20, "output": WIDTH} | norm | changes))


def plain(kind):
    """Give the last norm of a head for a network with batch statistics."""
    return {"output_norm": "plain"} if kind.startswith("resnet") else {}


def distillation(kind=Distillation, **changes):
    sharp = Schedule(first=0.04, last=0.07, steps=3, shape="linear")
    given = {"prototypes": PROTOTYPES, "temperature": 0.1, "teacher_temperature": sharp, "centre_momentum": 0.9}
    return kind(**(given | changes))


def predicting(kind):
    return {"projector": head(kind), "predictor": head(kind), "momentum": RISE}


def local():
    return {"local_views": views(3, 8)}


CASES = {
    "simclr": (SimCLR, lambda kind: {"projector": head(kind), "temperature": 0.5}),
    "byol": (BYOL, predicting),
    "simsiam": (SimSiam, lambda kind: {"projector": head(kind, 3, **plain(kind)), "predictor": head(kind)}),
    "vicreg": (
        VICReg,
        lambda kind: {"projector": head(kind, 3), "invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    ),
    "barlow_twins": (BarlowTwins, lambda kind: {"projector": head(kind, 3), "redundancy": 0.0051}),
    "moco_v2": (
        MoCoV2,
        lambda kind: {
            "projector": head(kind, hidden_norm="none", bias=True),
            "contrast": QueueContrast(queue=20, temperature=0.2),
            "momentum": Schedule(first=0.5, last=0.5),
        },
    ),
    "moco_v2_symmetric": (
        MoCoV2,
        lambda kind: {
            "projector": head(kind, hidden_norm="none", bias=True),
            "contrast": QueueContrast(queue=20, temperature=0.2, symmetric=True),
            "momentum": Schedule(first=0.5, last=0.5),
        },
    ),
    "moco_v3": (MoCoV3, lambda kind: predicting(kind) | {"temperature": 0.2}),
    "dino": (
        DINO,
        lambda kind: {
            "projector": head(kind, 3, activation="gelu", hidden_norm="none", bias=True),
            "distillation": distillation(learn_lengths=True),
            "momentum": RISE,
            **local(),
        },
    ),
    "swav": (
        SwAV,
        lambda kind: {
            "projector": head(kind),
            "codes": Codes(prototypes=PROTOTYPES, temperature=0.1, epsilon=0.05, queue=8),
            **local(),
        },
    ),
    "ibot": (
        IBOT,
        lambda kind: {
            "projector": head(kind, 3, activation="gelu", hidden_norm="none", bias=True),
            "distillation": distillation(MaskedDistillation, mask_ratio=(0.2, 0.6), learn_lengths=True),
            "momentum": RISE,
            **local(),
        },
    ),
    "i_jepa": (
        IJEPA,
        lambda kind: {
            "backbone": backbone(kind, "mean"),
            "views": views(1),
            "blocks": Blocks(),
            "predictor": PatchPredictor(width=8, layers=2, heads=2),
            "momentum": Schedule(first=0.5, last=0.9, shape="linear"),
        },
    ),
}
PATCHES_ALONE = ("ibot", "i_jepa")  # they are for vision transformers
CELLS = [(name, kind) for name in CASES for kind in ("resnet", "vit") if kind == "vit" or name not in PATCHES_ALONE]


def built(name, kind="vit", **changes):
    torch.manual_seed(0)
    network = backbone(kind)
    family, arguments = CASES[name]
    given = arguments(kind) | changes
    return family(**({"backbone": network, "optimizer": plain_sgd(), "views": views()} | given))


def batch_of(rows, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    rows = np.asarray(list(rows))
    keys = Keys(1, "train", np.zeros(len(rows), np.int64), rows)
    preprocess = ImagePreprocess(size=SIZE, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    return StackImages(preprocess=preprocess)(ImageExamples(images[rows], None), keys) | {"keys": keys.to("cpu")}


def split(parts, seed=0):
    return [batch_of(range(BATCH)[start : start + BATCH // parts], seed) for start in range(0, BATCH, BATCH // parts)]


def prepared(module):
    module.double()
    return module.on_device(batch_of(range(BATCH)))


def loss_of(module, batch):
    loss = module.loss(batch)
    counted = module.counts(batch)
    assert set(counted) == set(loss.terms) and all(int(counted[n]) == int(t.count) for n, t in loss.terms.items())
    return {name: float(term.total / term.count) for name, term in loss.terms.items()}
