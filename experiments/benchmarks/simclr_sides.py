"""The sides of `simclr_step`: this package, lightly's parts in its benchmark's loop, and torchvision with PIL by hand.

All train a ResNet-18 with CIFAR stem and a projector of 512-512-128 by SGD on the same 32 x 32 pictures, held in
memory, with the same augmentations: random resized crop (bilinear), flip, colour jitter of strength 1/2, greyscale, no
blur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.benchmarks.augment import MEAN, STD, pictures
from experiments.benchmarks.turns import Turn

SIZE, COUNT, LOG_EVERY, ENDLESS, SEED = 32, 8192, 10, 10**6, 1
RATE = 0.06
LEARNING: dict[str, Any] = {"momentum": 0.9, "weight_decay": 5e-4}


class Setting(NamedTuple):
    """What a side trains with; `workers` and `channels_last` are the peers', `winograd` is the trainer's own."""

    batch: int
    device: str
    threads: int
    workers: int
    precision: str = "fp32"
    channels_last: bool = False
    rate: float = RATE
    seed: int = SEED
    winograd: bool = True


def ours(turn: Turn, setting: Setting) -> None:
    """Train with this package as its command line does."""
    from pretraining.objectives.heads import Projector
    from pretraining.objectives.image.simclr import SimCLR

    projector = Projector(layers=2, hidden=512, output=128, output_norm="full")
    train_ours(turn, setting, SimCLR, projector=projector, temperature=0.5)


def train_ours(
    turn: Turn, setting: Setting, objective: Any, area: tuple[float, float] = (0.08, 1.0), saturation: float = 0.4,
    solarise: float | list[float] = 0.0, **parts: Any
) -> None:  # fmt: skip
    """Train an objective of this package on two views of each picture; `parts` are what it takes beside the usual."""
    from experiments.benchmarks import our_loop
    from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
    from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
    from pretraining.image.collate import StackImages
    from pretraining.image.data.base import ImageSet, ImageSource
    from pretraining.image.preprocess import ImagePreprocess
    from pretraining.kernels import winograd
    from pretraining.optim.optimizers import SGD

    our_loop.prepare_process()
    crop, output = Crop(size=SIZE, area=area, interpolation="bilinear"), Output(mean=tuple(MEAN), std=tuple(STD))
    jitter, blur = (
        Jitter(brightness=0.4, contrast=0.4, saturation=saturation, hue=0.1),
        Blur(probability=0.0, kernel_size=3),
    )
    views = Views(count=2, crop=crop, jitter=jitter, greyscale=0.2, blur=blur, solarise=solarise, output=output)
    schedule: dict[str, Any] = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0}
    optimizer = SGD(peak_lr=setting.rate, **LEARNING, **schedule, nesterov=False, decay_vectors=True)
    backbone = TorchvisionBackbone(name="resnet18", stem="cifar")
    module = objective(backbone=backbone, optimizer=optimizer, views=views, **parts)
    source = ImageSource(ImageSet(pictures(COUNT, SIZE).numpy(), None))
    collate = StackImages(preprocess=ImagePreprocess(size=SIZE, channels=3, mean=MEAN, std=STD))
    options: dict[str, Any] = {"max_steps": ENDLESS, "winograd": setting.winograd}
    facts = {"channels_last": True, "winograd": setting.winograd and winograd.library() is not None}
    our_loop.train(turn, setting, module, source, collate, facts=facts, **options)


class Pictures(torch.utils.data.Dataset[list[Tensor]]):
    """Two views of each picture, made one by one from PIL images, as a data loader's workers do."""

    def __init__(self, transform: Callable[[Any], list[Tensor]]) -> None:
        from torchvision.transforms.functional import to_pil_image

        self.images, self.transform = [to_pil_image(image) for image in pictures(COUNT, SIZE)], transform

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, place: int) -> list[Tensor]:
        return self.transform(self.images[place % COUNT])


def lightly(turn: Turn, setting: Setting) -> None:
    """Train with lightly's network, transform, head and loss, a forward pass for each view, as its benchmark does."""
    from lightly.loss import NTXentLoss
    from lightly.models import ResNetGenerator
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    layers = list(ResNetGenerator("resnet-18").children())[:-1]
    head = SimCLRProjectionHead(512, 512, 128)
    network = EachView(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))
    transform: Any = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)
    train_peer(turn, network, NTXentLoss(), transform, setting)


class EachView(nn.Module):
    """A network that sees one view after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, views: list[Tensor]) -> list[Tensor]:
        """Compute what the network says of each. [V of [B, D]]"""
        return [self.network(view) for view in views]


def plain(turn: Turn, setting: Setting) -> None:
    """Train with torchvision's network and transforms and a loss of a few lines."""
    import torchvision
    from torchvision import transforms

    network: Any = torchvision.models.resnet18()
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    hidden, output = nn.Linear(512, 512, bias=False), nn.Linear(512, 128, bias=False)
    network.fc = nn.Sequential(hidden, nn.BatchNorm1d(512), nn.ReLU(), output, nn.BatchNorm1d(128))
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), jitter]
    steps += [transforms.RandomGrayscale(0.2), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    chain = transforms.Compose(steps)
    train_peer(turn, EachView(network), _cross_entropy, lambda image: [chain(image), chain(image)], setting)


def _cross_entropy(first: Tensor, second: Tensor) -> Tensor:
    views = nn.functional.normalize(torch.cat([first, second]), dim=1)
    logits = views @ views.T / 0.5
    logits.fill_diagonal_(-torch.inf)
    return nn.functional.cross_entropy(logits, torch.arange(len(views), device=views.device).roll(len(first)))


def train_peer(
    turn: Turn,
    network: nn.Module,
    criterion: Any,
    transform: Any,
    peer: Setting,
    after: Callable[[], None] | None = None,
) -> None:
    """Train as a tutorial does: a data loader with workers, SGD, and what is to be done `after` each step.

    `network` turns a list of views into what `criterion` takes, in single precision.
    """
    order = torch.channels_last if peer.channels_last else torch.contiguous_format
    network = network.to(peer.device, memory_format=order)  # type: ignore[call-overload]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=peer.rate, **LEARNING)
    shape: dict[str, Any] = {"shuffle": True, "drop_last": True, "persistent_workers": peer.workers > 0}
    shape |= {"num_workers": peer.workers, "pin_memory": peer.device == "cuda"}
    loader = torch.utils.data.DataLoader(Pictures(transform), batch_size=peer.batch, **shape)
    turn.tell({"precision": peer.precision, "channels_last": peer.channels_last, "workers": peer.workers})
    for number, views in enumerate(loader, 1):
        views = [view.to(peer.device, non_blocking=True, memory_format=order) for view in views]
        with torch.autocast(peer.device, dtype=torch.bfloat16, enabled=peer.precision == "bf16"):
            outputs = network(views)
        loss = criterion(*(output.float() for output in outputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after is not None:
            after()
        turn.step(peer.batch, loss.item() if number % LOG_EVERY == 0 else None)
