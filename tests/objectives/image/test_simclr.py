"""SimCLR: the objective's parts; its loss is tested beside."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from pretraining import evaluate
from pretraining.cli.configuration import compose
from pretraining.data.loader import EvalLoader
from pretraining.engine.batch import StepSettings
from pretraining.errors import RunError
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.collate import StackImages
from pretraining.image.data.base import ImageExamples
from pretraining.image.preprocess import ImagePreprocess
from pretraining.launch import main
from pretraining.objectives.heads import Projector
from pretraining.objectives.image.simclr import SimCLR
from pretraining.optim.optimizers import AdamW
from pretraining.random import Keys

# -- the objective -----------------------------------------------------------------------------------------------------


def views(count=2, **changes) -> Views:
    settings = {
        "crop": Crop(size=8, area=(0.5, 1.0), flip=0.0),
        "jitter": Jitter(probability=0.5, hue=0.0, saturation=0.0),
        "greyscale": 0.0,
        "blur": Blur(probability=0.0, kernel_size=3),
        "solarise": 0.0,
        "output": Output(mean=[0.5], std=[0.25]),
    }
    return Views(count=count, **(settings | changes))


def objective(**changes) -> SimCLR:
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=1)
    optimizer = AdamW(
        peak_lr=1e-3,
        warmup_steps=0,
        schedule="constant",
        final_fraction=0.0,
        weight_decay=0.0,
        betas=[0.9, 0.999],
        eps=1e-8,
    )
    settings = {"views": views(), "projector": Projector(layers=2, output=16), "temperature": 0.5} | changes
    return SimCLR(backbone=backbone, optimizer=optimizer, **settings)


class HeldImages:
    """A source of images in memory."""

    def __init__(self, examples):
        self.examples = examples

    def count(self, epoch):
        return len(self.examples.images)

    def read(self, epoch, rows):
        return ImageExamples(self.examples.images[rows], self.examples.labels[rows])


def batch(count=6) -> dict:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    keys = Keys(1, "train", np.zeros(count, np.int64), np.arange(count))
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25])
    collated = StackImages(preprocess=preprocess)(ImageExamples(images, np.arange(count) % 3), keys)
    return collated | {"keys": keys.to("cpu")}


@pytest.mark.parametrize("count", [2, 3])
def test_the_objective_counts_its_anchors_before_and_after_the_forward_pass(count):
    model = objective(views=views(count))
    loss = model.loss(model.on_device(batch()))
    assert loss.terms["nt_xent"].count == model.counts(batch())["nt_xent"] == 6 * count
    mean = loss.terms["nt_xent"].total.item() / (6 * count)
    assert abs(mean - math.log(6 * count - 1)) < 2.0  # in the range that 1 / temperature allows
    loss.terms["nt_xent"].total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_representations_belong_to_their_images():
    model = objective().eval()
    prepared = model.on_device(batch())
    together = model.represent(prepared)
    for view in range(2):
        alone = model.projector(model.backbone(images=prepared["inputs"]["images"][6 * view : 6 * view + 6]).pooled)
        torch.testing.assert_close(together[:, view], F.normalize(alone, dim=-1), rtol=0, atol=1e-5)


def test_supervised_positives_need_labels_of_the_batch():
    model = objective(supervised=True)
    prepared = model.on_device(batch())
    plain = objective().loss(prepared).terms["nt_xent"].total
    assert not torch.isclose(model.loss(prepared).terms["nt_xent"].total, plain)


def test_one_view_or_no_temperature_is_refused():
    for changes in ({"views": views(1)}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="at least 2 views at a temperature above 0"):
            objective(**changes)


def test_images_with_other_channels_than_the_backbone_are_refused_with_what_to_set():
    preprocess = ImagePreprocess(size=8, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    with pytest.raises(ValueError, match=r"preprocess.channels=1"):
        StackImages(preprocess=preprocess)(ImageExamples(np.zeros((2, 1, 8, 8), np.uint8), None), None)


def test_a_picture_shows_originals_above_their_views(tmp_path):
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25])
    prepared = objective().on_device(batch())
    StackImages(preprocess=preprocess).draw(prepared, tmp_path / "views.png")
    picture = np.asarray(Image.open(tmp_path / "views.png").convert("L"))
    assert picture.shape == (3 * 66 + 2, 6 * 66 + 2)  # three rows of six, 64 pixels each and 2 between them
    assert np.array_equal(picture[2:66:8, 2:66:8], prepared["images"][0, 0].numpy())


# -- projectors of the published recipes -------------------------------------------------------------------------------


def kinds(projector: nn.Sequential) -> list[str]:
    return [type(part).__name__ for part in projector]


def test_googles_projector_has_three_layers_with_norms_after_each_and_no_last_shift():
    built = Projector(layers=3, output=128, output_norm="scale", init_std=0.01).build(512)
    assert kinds(built) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [tuple(part.weight.shape) for part in built if isinstance(part, nn.Linear)] == [
        (512, 512),
        (512, 512),
        (128, 512),
    ]
    assert all(part.bias is None for part in built if isinstance(part, nn.Linear))
    assert abs(built[0].weight.std().item() - 0.01) < 1e-4
    assert not built[7].bias.requires_grad and built[7].weight.requires_grad and built[4].bias.requires_grad


def test_solo_learns_and_lightlys_projectors_can_be_said():
    solo = Projector(layers=2, hidden=2048, output=256, hidden_norm="none", bias=True).build(512)
    assert kinds(solo) == ["Linear", "ReLU", "Linear"] and solo[0].bias is not None and solo[0].out_features == 2048
    lightly = Projector(layers=2, hidden=2048, output=128, output_norm="full").build(2048)
    assert kinds(lightly) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]


# -- evaluation at training's batch size -------------------------------------------------------------------------------

SMALL = [
    *("objective=simclr", "data=digits", "backbone=vit_digits", "trainer.precision=fp32", "optimizer.peak_lr=1e-9"),
    *("logger.wandb.mode=disabled", "logger.progress=false", "trainer.log_every=1"),
]


@pytest.mark.parametrize(("batch_size", "steps"), [(32, 8), (192, 3)])
def test_training_and_validation_losses_can_be_compared(batch_size, steps, tmp_path, cache_dir):
    """A network that does not learn: what differs is the number of images that each one is told from.

    Of the 179 of validation, 192 cannot be compared; they stand for that many.
    """
    small = [*SMALL, f"data.cache_dir={cache_dir}", f"data.batch_size={batch_size}", "data.eval_batch_size=9"]
    path = main(compose([*small, f"trainer.max_steps={steps}", f"run_dir={tmp_path / 'run'}"]))
    training = [float(row["train/loss"]) for row in csv.DictReader((path / "metrics.csv").open())]
    found = json.loads((path / "metrics.json").read_text())["validation/loss"]
    assert found == pytest.approx(sum(training) / len(training), abs=0.05)
    assert math.log(2 * batch_size - 1) - math.log(2 * 9 - 1) > 0.6, "what a loss over 9 images would lack"
    data = ["data=digits", f"data.cache_dir={cache_dir}", f"handoff={path / 'handoff' / 'last'}"]
    again = evaluate.evaluate(compose([*data, "data.batch_size=64"], root="evaluate"))
    assert again["validation/loss"] == pytest.approx(found, abs=1e-5), "a hand-off is evaluated as it was trained"


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_evaluation_in_pieces_is_that_of_the_whole_batch(pieces):
    model, images = objective(), np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    preprocess = ImagePreprocess(size=8, channels=1, mean=[0.5], std=[0.25])
    source = HeldImages(ImageExamples(images, np.arange(20) % 3))
    options = {"batch_size": 8, "full_batches": True}
    loader = EvalLoader(source, StackImages(preprocess=preprocess), **options, pieces=pieces)
    model.settings = StepSettings(batch_size=8)
    model.eval()
    with torch.no_grad():
        whole = EvalLoader(source, StackImages(preprocess=preprocess), **options)
        terms = [model.loss(model.on_device(batch)).terms["nt_xent"] for batch, _ in whole]
    expected = sum(float(term.total) for term in terms) / sum(int(term.count) for term in terms)
    assert model.evaluate(loader)["validation/loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("overrides", [[], ["dry_run=true"], ["trainer.accumulate=1", "objective.supervised=true"]])
def test_a_batch_of_one_has_nothing_to_be_told_from(overrides, tmp_path, cache_dir):
    """Its loss was 0.0, which looks like success."""
    one = [*SMALL, f"data.cache_dir={cache_dir}", "data.batch_size=1", f"run_dir={tmp_path / 'run'}", *overrides]
    with pytest.raises(RunError, match=r"data.batch_size=1: SimCLR compares the examples of a step: give at least 2"):
        main(compose(one))
    assert not (tmp_path / "run").exists()
