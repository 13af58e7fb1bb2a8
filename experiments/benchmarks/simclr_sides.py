"""The sides of `simclr_step`: this package, lightly's parts in the loop of its CIFAR-10 benchmark, and torchvision with PIL by hand.

All train a ResNet-18 with CIFAR stem and a projector of 512-512-128 by SGD on the same 32 x 32 pictures, held in memory, with the same
augmentations: random resized crop (bilinear), flip, colour jitter of strength 1/2, greyscale, no blur.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.augment import MEAN, STD, pictures
from experiments.benchmarks.turns import Turn

SIZE, COUNT, LOG_EVERY, ENDLESS, SEED = 32, 8192, 10, 10**6, 1
LEARNING = {"rate": 0.06, "momentum": 0.9, "weight_decay": 5e-4}


def _turn(connection: Connection, device: str, threads: int) -> Turn:
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    return Turn(connection, torch.cuda.synchronize if device == "cuda" else lambda: None)


def ours(connection: Connection, *, batch: int, precision: str, device: str, threads: int) -> None:
    """Train with this package as its command line does: loader, step, throughput and metrics.csv."""
    import pytorch_lightning as pl

    from pretraining.callbacks.throughput import Throughput
    from pretraining.data.loader import StepLoader
    from pretraining.engine.batch import StepSettings
    from pretraining.engine.memory import keep_freed_memory
    from pretraining.engine.precision import choose_precision
    from pretraining.engine.trainer import TrainerSettings, build_trainer, quieten
    from pretraining.image.collate import StackImages
    from pretraining.image.data.base import ImageSet, ImageSource
    from pretraining.image.preprocess import ImagePreprocess
    from pretraining.runs.csv_logger import CsvHistory

    keep_freed_memory()
    quieten()
    turn = _turn(connection, device, threads)
    module = our_objective()
    settings = TrainerSettings(accelerator=device, max_steps=ENDLESS, precision=precision, log_every=LOG_EVERY)  # type: ignore[arg-type]
    settings.precision = choose_precision(settings.precision, settings.accelerator, convolves=module.backbone.convolves)
    module.settings = StepSettings(SEED, ENDLESS)
    source = ImageSource(ImageSet(pictures(COUNT, SIZE).numpy(), None))
    collate = StackImages(preprocess=ImagePreprocess(size=SIZE, channels=3, mean=MEAN, std=STD))
    loader = StepLoader(source, collate, batch_size=batch, max_steps=ENDLESS, seed=SEED)

    class Pace(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            turn.tell({"precision": settings.precision, "channels_last": True})

        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            turn.step(batch.examples, losses.latest if trainer.global_step % LOG_EVERY == 0 else None)

    class Losses(CsvHistory):
        latest = float("nan")

        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            self.latest = metrics["train/loss"]
            super().log_metrics(metrics, step)

    with tempfile.TemporaryDirectory() as directory:
        losses = Losses(Path(directory) / "metrics.csv")
        waited: dict[str, Any] = {"wait_seconds": lambda: loader.wait_seconds, "unit": "images", "show": False}
        throughput = Throughput(every=LOG_EVERY, evaluated_every=0, step_flops=lambda step: 0.0, **waited)
        build_trainer(settings, [losses], [throughput, Pace()], Path(directory)).fit(module, loader)


def our_objective() -> Any:
    """Build this package's objective."""
    from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
    from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
    from pretraining.objectives.heads import Projector
    from pretraining.objectives.image.simclr import SimCLR
    from pretraining.optim.optimizers import SGD

    views = Views(
        count=2,
        crop=Crop(size=SIZE, interpolation="bilinear"),
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
        greyscale=0.2,
        blur=Blur(probability=0.0, kernel_size=3),
        solarise=0.0,
        output=Output(mean=tuple(MEAN), std=tuple(STD)),
    )
    schedule: dict[str, Any] = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0}
    rates: dict[str, Any] = {
        "peak_lr": LEARNING["rate"],
        "momentum": LEARNING["momentum"],
        "weight_decay": LEARNING["weight_decay"],
    }
    return SimCLR(
        backbone=TorchvisionBackbone(name="resnet18", stem="cifar"),
        optimizer=SGD(**rates, **schedule, nesterov=False, decay_vectors=True),
        views=views,
        projector=Projector(layers=2, hidden=512, output=128, output_norm="full"),
        temperature=0.5,
    )


class Pictures(torch.utils.data.Dataset[list[Tensor]]):
    """Two views of each picture, made one by one from PIL images, as a data loader's workers do."""

    def __init__(self, transform: Callable[[Any], list[Tensor]]) -> None:
        from torchvision.transforms.functional import to_pil_image

        self.images, self.transform = [to_pil_image(image) for image in pictures(COUNT, SIZE)], transform

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, place: int) -> list[Tensor]:
        return self.transform(self.images[place % COUNT])


def lightly(
    connection: Connection, *, batch: int, precision: str, channels_last: bool, device: str, threads: int, workers: int
) -> None:
    """Train with lightly's network, transform, head and loss, a forward pass for each view, as its benchmark does."""
    from lightly.loss import NTXentLoss
    from lightly.models import ResNetGenerator
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    turn = _turn(connection, device, threads)
    network = nn.Sequential(
        *list(ResNetGenerator("resnet-18").children())[:-1],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        SimCLRProjectionHead(512, 512, 128),
    )
    transform: Any = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    options: dict[str, Any] = {
        "precision": precision,
        "channels_last": channels_last,
        "device": device,
        "workers": workers,
        "batch": batch,
    }
    _loop(turn, network, NTXentLoss(), transform, **options)


def plain(
    connection: Connection, *, batch: int, precision: str, channels_last: bool, device: str, threads: int, workers: int
) -> None:
    """Train with torchvision's network and transforms and a loss of a few lines."""
    import torchvision
    from torchvision import transforms

    turn = _turn(connection, device, threads)
    network = torchvision.models.resnet18()
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()  # type: ignore[assignment]
    hidden, output = nn.Linear(512, 512, bias=False), nn.Linear(512, 128, bias=False)
    network.fc = nn.Sequential(hidden, nn.BatchNorm1d(512), nn.ReLU(), output, nn.BatchNorm1d(128))  # type: ignore[assignment]
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    options: dict[str, Any] = {
        "precision": precision,
        "channels_last": channels_last,
        "device": device,
        "workers": workers,
        "batch": batch,
    }
    _loop(turn, network, _cross_entropy, lambda image: [chain(image), chain(image)], **options)


def _cross_entropy(first: Tensor, second: Tensor) -> Tensor:
    views = nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = views @ views.T / 0.5
    logits.fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(logits, torch.arange(len(views), device=views.device).roll(len(first)))


def _loop(
    turn: Turn,
    network: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    transform: Callable[[Any], list[Tensor]],
    *,
    precision: str,
    channels_last: bool,
    device: str,
    workers: int,
    batch: int,
) -> None:
    """Be the loop of a tutorial: a data loader with workers, a forward pass for each view, SGD."""
    order = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=order)  # type: ignore[call-overload]
    rates = {"lr": LEARNING["rate"], "momentum": LEARNING["momentum"], "weight_decay": LEARNING["weight_decay"]}
    optimizer = torch.optim.SGD(network.parameters(), **rates)  # type: ignore[arg-type]
    shape: dict[str, Any] = {
        "shuffle": True,
        "drop_last": True,
        "pin_memory": device == "cuda",
        "persistent_workers": workers > 0,
    }
    loader = torch.utils.data.DataLoader(Pictures(transform), batch_size=batch, num_workers=workers, **shape)
    turn.tell({"precision": precision, "channels_last": channels_last, "workers": workers})
    for number, views in enumerate(loader, 1):
        first, second = (view.to(device, non_blocking=True, memory_format=order) for view in views)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            first, second = network(first), network(second)
        loss = criterion(first.float(), second.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        turn.step(batch, loss.item() if number % LOG_EVERY == 0 else None)
