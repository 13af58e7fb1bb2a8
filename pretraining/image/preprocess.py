"""What a backbone expects of its images: size, channels and scale. It travels in the hand-off.

Shapes: B images, C channels, H height, W width, S size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.image.modality import IMAGE
from pretraining.modality import Preprocess

FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers
ROUNDED = """
transformers rounds pixels to 8 bits once they are resized, which training does not. Where `crop` is below 1 it rounds
the square's side down.
"""
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey


@dataclass(kw_only=True, eq=False)
class ImagePreprocess(Preprocess):
    """Takes the centre square of each image, resizes it with antialiasing and normalises it.

    `crop` is the square's share of the shorter side; `mean` and `std` are per channel, of values in [0, 1]. Grey images
    are repeated for three channels, coloured ones become their luminance for one.
    """

    modality = IMAGE
    size: int = 224
    channels: int = 3
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop: float = 1.0

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"preprocess.channels={self.channels}: choose 1 (grey) or 3 (red, green, blue)")
        self.mean, self.std = list(self.mean), list(self.std)
        if not len(self.mean) == len(self.std) == self.channels:
            what = f"{len(self.mean)} and {len(self.std)} numbers for {self.channels} channel(s)"
            raise ValueError(f"preprocess.mean and preprocess.std have {what}: give one per channel")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"preprocess.interpolation={self.interpolation!r} is unknown: choose bilinear or bicubic")
        if not 0.0 < self.crop <= 1.0:
            raise ValueError(f"preprocess.crop={self.crop} must be a share of the shorter side, above 0 and at most 1")

    @property
    def kwargs(self) -> dict[str, Any]:
        """Plain constructor arguments."""
        return asdict(self)

    def describe(self) -> str:
        """Say how large an image is for the network."""
        return f"{self.channels} x {self.size} x {self.size} pixels"

    @classmethod
    def imagenet(cls) -> ImagePreprocess:
        """Make the preparation that torchvision's first ImageNet weights were trained with."""
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        return cls(size=224, channels=3, mean=mean, std=std, interpolation="bilinear", crop=224 / 256)

    @classmethod
    def of_transformers(cls, name: str) -> ImagePreprocess:
        """Take the preparation that a transformers checkpoint describes; of images that are not square, the centre."""
        from transformers import AutoImageProcessor

        given = AutoImageProcessor.from_pretrained(name)
        size = dict(given.size)
        sides = set(dict(given.crop_size).values() if getattr(given, "do_center_crop", False) else size.values())
        if len(sides) != 1 or given.resample not in FILTERS:
            what = f"{name} prepares images of {size} by filter {given.resample}"
            raise ValueError(f"{what}: only squares, bilinear and bicubic, are read")
        (side,), whole = sides, size.get("shortest_edge", size.get("height"))
        if "height" in size and side > whole:  # the square is cut first
            side, whole = whole, side
        scale = (given.image_mean, given.image_std) if given.do_normalize else ([0.0] * 3, [1.0] * 3)
        scaled: dict[str, Any] = {
            "mean": list(scale[0]),
            "std": list(scale[1]),
            "interpolation": FILTERS[given.resample],
        }
        return cls(size=side, channels=len(scaled["mean"]), crop=side / whole, **scaled)

    @classmethod
    def of_timm(cls, config: Mapping[str, Any], name: str) -> ImagePreprocess:
        """Take the preparation that timm describes for a model, as `resolve_model_data_config` has it."""
        channels, height, width = config["input_size"]
        how, cut = config["interpolation"], config.get("crop_mode", "center")
        if height != width or how not in FILTERS.values() or cut != "center":
            what = f"{name} prepares images of {height} x {width} by {how} and a crop of kind {cut}"
            raise ValueError(f"{what}: only squares from the centre, bilinear and bicubic, are read")
        scale: dict[str, Any] = {part: [float(value) for value in config[part]] for part in ("mean", "std")}
        return cls(size=height, channels=channels, interpolation=how, crop=config["crop_pct"], **scale)

    def for_timm(self) -> dict[str, Any]:
        """Describe the same preparation as timm does."""
        described = {"mean": self.mean, "std": self.std, "interpolation": self.interpolation, "crop_pct": self.crop}
        return {"input_size": [self.channels, self.size, self.size], "crop_mode": "center", **described}

    def save_for_transformers(self, directory: Path) -> None:
        """Write transformers' description of the same preparation: Perceiver's cut the square first, as we do.

        Pixels are rounded to 8 bits once they are resized, and the square's side is rounded down.
        """
        from transformers import PerceiverImageProcessor

        filters = {name: number for number, name in FILTERS.items()}
        whole: Any = self.size / self.crop  # of which `size` is the share that is cut
        PerceiverImageProcessor(
            size={"height": self.size, "width": self.size},
            crop_size=dict.fromkeys(("height", "width"), int(whole) if whole.is_integer() else whole),
            resample=filters[self.interpolation],
            image_mean=self.mean,
            image_std=self.std,
            do_convert_rgb=self.channels == 3,
        ).save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path | str, **kwargs: Any) -> ImagePreprocess:
        """Build what a hand-off describes; there are no files beside its kwargs."""
        return cls(**kwargs)

    def save(self, directory: Path) -> None:
        """Write nothing: the kwargs say it all."""

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images: uint8 [B, C, H, W] (or floats in [0, 1]) -> float32 [B, channels, S, S]."""
        height, width = images.shape[2:]
        side = max(1, round(min(height, width) * self.crop))
        top, left = (height - side) // 2, (width - side) // 2
        images = images[:, :, top : top + side, left : left + side]
        images = _shares(images)
        if side != self.size:
            images = F.interpolate(images, (self.size, self.size), mode=self.interpolation, antialias=True)
            images = images.clamp(0.0, 1.0)
        return self.normalise(self._with_channels(images))

    def uncropped(self, images: Tensor) -> Tensor:
        """Prepare images that have their size already: the same, without cropping or resizing."""
        return self.normalise(self._with_channels(_shares(images)))

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation, per channel."""
        mean, std = (torch.tensor(part, device=images.device)[:, None, None] for part in (self.mean, self.std))
        return (images - mean).div_(std)

    def _with_channels(self, images: Tensor) -> Tensor:
        given = images.shape[1]
        if given == self.channels:
            return images
        if given == 1:
            return images.expand(-1, self.channels, -1, -1)
        if given == 3:
            return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))[:, None]
        raise ValueError(f"images have {given} channels, but this preprocessing takes 1 or 3")


def _shares(images: Tensor) -> Tensor:
    """Turn levels of 8 bits into shares of the brightest."""
    return images.float().div_(255.0) if images.dtype == torch.uint8 else images.float()
