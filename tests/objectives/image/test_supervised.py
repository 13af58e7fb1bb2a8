"""Supervised pretraining on images: the closed form of its loss, splits and ranks, its hand-off, missing labels."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretraining import handoff
from pretraining.cli.configuration import compose
from pretraining.distributed.batchnorm import convert_batchnorm
from pretraining.errors import RunError
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import LabelledImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.launch import main
from pretraining.objectives.image.supervised import SupervisedImages
from pretraining.random import Keys
from tests.one_step import assert_same_gradient, gradient_of, plain_sgd
from tests.ranks import in_ranks

BATCH, SIZE, CLASSES = 8, 16, 5
MEAN, STD = [0.5] * 3, [0.25] * 3
PREPROCESS = ImagePreprocess(size=SIZE, channels=3, mean=MEAN, std=STD)


def views(count=1):
    blur, jitter, output = Blur(probability=0.0, kernel_size=3), Jitter(probability=0.5), Output(mean=MEAN, std=STD)
    return Views(
        count=count,
        crop=Crop(size=SIZE, area=(0.5, 1.0)),
        jitter=jitter,
        greyscale=0.2,
        blur=blur,
        solarise=0.0,
        output=output,
    )


def objective(count=1, norm=True, **changes):
    torch.manual_seed(0)
    options = {"image_size": SIZE, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    residual = {"name": "resnet", "layers": [1, 1, 1, 1], "width": 8, "stem": "cifar"}
    backbone = (
        TorchvisionBackbone(**residual) if norm else TorchvisionBackbone(name="vision_transformer", options=options)
    )
    return SupervisedImages(backbone=backbone, optimizer=plain_sgd(), classes=CLASSES, views=views(count), **changes)


def batch_of(rows, stream="train"):
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, SIZE, SIZE), dtype=np.uint8)
    rows = np.asarray(list(rows))
    keys = Keys(1, stream, np.zeros(len(rows), np.int64), rows)
    return LabelledImages(preprocess=PREPROCESS)(ImageExamples(images[rows], rows % CLASSES), keys) | {
        "keys": keys.to("cpu")
    }


def test_without_knowledge_it_costs_the_log_of_the_number_of_classes():
    model = objective()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    batch = model.on_device(batch_of(range(BATCH)))
    loss = model.loss(batch)
    assert loss.terms["cross_entropy"].total.item() / BATCH == pytest.approx(math.log(CLASSES))
    assert loss.metrics["accuracy"].total == (batch["labels"] == 0).sum() and loss.metrics["accuracy"].count == BATCH


def test_label_smoothing_mixes_the_target_with_all_classes():
    model = objective(label_smoothing=0.1).eval()
    batch = model.on_device(batch_of(range(BATCH)))
    shares = F.log_softmax(model.head(model.backbone(**batch["inputs"]).pooled), 1)
    wanted = -(0.9 * shares.gather(1, batch["labels"][:, None]).sum() + 0.1 * shares.mean(1).sum())
    assert model.loss(batch).terms["cross_entropy"].total.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_training_sees_random_views_and_validation_the_prepared_image():
    model = objective(count=3)
    train, validation = model.on_device(batch_of(range(BATCH))), model.on_device(batch_of(range(BATCH), "validation"))
    views, prepared = train["inputs"]["images"], validation["inputs"]["images"]
    assert len(views) == 3 * BATCH and not torch.equal(views[:BATCH], views[BATCH : 2 * BATCH])
    assert torch.equal(prepared, PREPROCESS(validation["images"]))
    for made, stream in ((train, "train"), (validation, "validation")):
        raw, count = batch_of(range(BATCH), stream), len(made["inputs"]["images"])
        assert model.loss(made).terms["cross_entropy"].count == model.counts(raw)["cross_entropy"] == count


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_does_not_depend_on_the_split(tmp_path, parts):
    whole = gradient_of(objective(norm=False), [batch_of(range(BATCH))], tmp_path)
    size = BATCH // parts
    split = [batch_of(range(start, start + size)) for start in range(0, BATCH, size)]
    assert_same_gradient(whole, gradient_of(objective(norm=False), split, tmp_path))


def rank_gradient(rank, world, directory, splits):
    return gradient_of(
        convert_batchnorm(objective()), [batch_of(rows) for rows in splits[rank]], directory, rank=rank, world=world
    )


def test_two_ranks_give_the_gradient_of_one_process(tmp_path):
    whole = gradient_of(objective(), [batch_of(range(BATCH))], tmp_path)
    for gradient in in_ranks(rank_gradient, 2, tmp_path, [[range(4)], [range(4, 8)]]):
        assert_same_gradient(whole, gradient, tolerance=1e-8)


QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32", "optimizer.warmup_steps=2"]


def test_a_run_learns_the_digits_and_hands_over_what_others_do(tmp_path):
    sizes = [
        "backbone.width=8",
        "trainer.max_steps=60",
        "trainer.val_every=60",
        "optimizer.peak_lr=5e-3",
        "data.batch_size=64",
    ]
    run = main(compose(["objective=supervised", *sizes, *QUIET, f"run_dir={tmp_path / 'run'}"]))
    final = json.loads((run / "metrics.json").read_text())
    assert final["validation/accuracy"] > 0.8 and final["probe/knn_accuracy"] > 0.8
    given = handoff.read(str(run / "handoff" / "last"))
    assert (
        given.card["origin"]["objective"] == "SupervisedImages" and given.card["recipe"]["objective"]["classes"] == 10
    )
    assert {path.name for path in (run / "pictures").iterdir()} == {"embeddings.png", "views.png"}


def test_images_without_labels_are_refused(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    data = [
        "data=image_folder",
        f"data.path={tmp_path / 'photos'}",
        f"data.cache_dir={tmp_path / 'cache'}",
        "data.batch_size=8",
    ]
    with pytest.raises(
        RunError, match="learns from labels, but the training data has none: put each class into a folder of its name"
    ):
        main(compose(["objective=supervised", *data, *QUIET, f"run_dir={tmp_path / 'run'}"]))
    with pytest.raises(
        RunError, match=r"objective.classes=3, but the training data has 10: set objective.classes=10 or null"
    ):
        main(compose(["objective=supervised", "objective.classes=3", *QUIET, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
