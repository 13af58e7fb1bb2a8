"""A hand-off of images as a folder of transformers: ResNets, vision transformers, CLIP's and SigLIP's networks."""

from __future__ import annotations

from pathlib import Path

import torch

from pretraining.backbones.transformers_loading import quieten
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff

TOLERANCE = 1e-4
USAGE = """# {objective}, as {kind} of transformers

```python
import transformers

model = transformers.{kind}.from_pretrained("DIR")
images = transformers.AutoImageProcessor.from_pretrained("DIR")
outputs = model(**images([picture], return_tensors="pt"))
vector = {how}
```

The licence of the weights follows from that of the data that they were trained on.
"""


def write_transformers(given: Handoff, directory: Path) -> None:
    """Write network and preparation; one that transformers has no class for is refused."""
    backbone, preprocess = given.backbone, given.preprocess
    model = backbone.as_transformers()
    if model is None:
        what = f"transformers has no class for this {type(backbone).__name__} ({_described(backbone.kwargs)})"
        raise HandoffError(f"{what}: take to=onnx, or load it by the lines of its README.md")
    images = torch.randn(2, preprocess.channels, preprocess.size, preprocess.size)
    vit = type(model).__name__ == "ViTModel"
    if vit and preprocess.size != model.config.image_size:
        what = f"its positions are those of {model.config.image_size} pixels, and its images have {preprocess.size}"
        raise HandoffError(f"{what}: take to=onnx, which interpolates them")
    with torch.no_grad():
        outputs, ours = model(pixel_values=images), backbone.eval()(images=images).pooled
    tokens = outputs.last_hidden_state
    if not vit:
        how, theirs = "outputs.pooler_output.flatten(1)", outputs.pooler_output.flatten(1)
    elif backbone.kwargs["pooling"] == "mean":
        how, theirs = "outputs.last_hidden_state[:, 1:].mean(1)", tokens[:, 1:].mean(1)
    else:
        how, theirs = "outputs.last_hidden_state[:, 0]", tokens[:, 0]
    if not torch.allclose(theirs, ours, atol=TOLERANCE):
        raise HandoffError(f"{type(model).__name__} makes other vectors of this network's weights: take to=onnx")
    quieten()
    model.save_pretrained(directory)
    preprocess.save_for_transformers(directory)
    usage = USAGE.format(objective=given.card["origin"].get("objective"), kind=type(model).__name__, how=how)
    (directory / "README.md").write_text(usage, encoding="utf-8")


def _described(kwargs: dict[str, object]) -> str:
    return ", ".join(f"{name}={kwargs[name]}" for name in ("name", "stem", "layers") if kwargs.get(name) is not None)
