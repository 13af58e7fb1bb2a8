"""Image hand-offs in the form of timm, torchvision and transformers: weights, what prepares images, and a README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretraining.backbones.transformers_loading import quieten
from pretraining.errors import RunError
from pretraining.handoff import Handoff
from pretraining.image.backbones.equivalents import as_timm, as_torchvision, as_transformers
from pretraining.image.backbones.transformers_vision import TransformersVision
from pretraining.image.preprocess import ROUNDED

CLASS, MEAN = "last_hidden_state[:, 0]", "last_hidden_state[:, 1:].mean(1)"


def write_timm(handoff: Handoff, directory: Path) -> None:
    """Write a directory that `timm.create_model("local-dir:...")` reads."""
    check_size(handoff)
    backbone = as_timm(handoff.backbone)
    if backbone.averages:  # a model that timm builds in several lines
        backbone.export(directory)
        _describe(handoff, directory, backbone.usage(), pictures=True)
        return
    from timm.models import save_for_hf

    save_for_hf(backbone.model, str(directory), safe_serialization=True, data_config=handoff.preprocess.for_timm())
    lines = 'import timm\n\nmodel = timm.create_model("local-dir:DIR", pretrained=True)'
    _describe(handoff, directory, f"{lines}\n# an image's features are model.eval()(images)")


def write_torchvision(handoff: Handoff, directory: Path) -> None:
    """Write a state dict of torchvision's model."""
    check_size(handoff)
    backbone = as_torchvision(handoff.backbone)
    backbone.export(directory)
    lines = f"{backbone.usage()}\n# an image's features are model.eval()(images).flatten(1)"
    _describe(handoff, directory, backbone.usage() if backbone.kwargs["pooling"] == "mean" else lines, pictures=True)


def write_transformers(handoff: Handoff, directory: Path) -> None:
    """Write what `from_pretrained` reads, an image processor included."""
    check_size(handoff)
    backbone: Any = handoff.backbone
    own = isinstance(backbone, TransformersVision)
    model = backbone.model if own else as_transformers(backbone)
    quieten()
    model.save_pretrained(directory)
    handoff.preprocess.save_for_transformers(directory)
    kind = type(model).__name__
    arguments, features = "", "pooler_output.flatten(1)"
    if kind == "ViTModel":
        arguments = ", add_pooling_layer=False"
        averaged = backbone.kwargs["pooling"] == "mean" or getattr(backbone.model, "global_pool", "token") == "avg"
        features = MEAN if averaged else CLASS
    lines = f'import transformers\n\nmodel = transformers.{kind}.from_pretrained("DIR"{arguments})'
    processor = 'processor = transformers.AutoImageProcessor.from_pretrained("DIR")'
    lines = f"{lines}\n{processor}\n# an image's features are model.eval()(images).{features}"
    _describe(handoff, directory, lines, remark=ROUNDED)


def check_size(handoff: Handoff) -> None:
    """Refuse a vision transformer whose images have another size than its positions, which only we interpolate."""
    patches, size = getattr(handoff.backbone, "patches", None), handoff.preprocess.size
    if patches is not None and patches[0] * patches[1] != size:
        what = f"its positions are those of {patches[0] * patches[1]} pixels, and its images have {size}"
        raise RunError(f"{what}: take to=onnx, which interpolates them")


def _describe(handoff: Handoff, directory: Path, lines: str, *, pictures: bool = False, remark: str = "") -> None:
    """Write README.md, and preprocess.json where the form has no file of its own for what prepares images."""
    prepared = handoff.preprocess.kwargs
    if pictures:
        (directory / "preprocess.json").write_text(json.dumps(prepared, indent=2) + "\n", encoding="utf-8")
    facts = "\n".join(f"| {name} | {value} |" for name, value in prepared.items())
    made = handoff.card["origin"].get("objective", "a pretrained backbone")
    text = f"""# {made}: {type(handoff.backbone).__name__}

```python
{lines}
```

`DIR` stands for this directory. Images are cut to the centre square of the share `crop` of their shorter side, resized
to `size` with antialiasing, scaled to [0, 1], and normalised by `mean` and `std`:{remark}

| | |
|---|---|
{facts}
"""
    (directory / "README.md").write_text(text, encoding="utf-8")
