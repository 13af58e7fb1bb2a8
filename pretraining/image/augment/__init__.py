"""Image augmentation, batched: uint8 in, every image with its own parameters, on the device where the images are."""

from pretraining.image.augment.settings import Blur, Crop, Jitter, Output
from pretraining.image.augment.views import Views

__all__ = ["Blur", "Crop", "Jitter", "Output", "Views"]
