"""Transformers' CLIP and SigLIP as hand-offs of pairs: what stands beside their two networks, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pretraining.backbones.transformers_loading import PAIRS, family_of, quieten, read_pair
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ROUNDED
from pretraining.modality import Modality, Tower
from pretraining.text.modality import TEXT
from pretraining.text.transformers_form import save_tokenizer

SIDES: dict[str, tuple[Modality, str]] = {"image": (IMAGE, "visual_projection"), "text": (TEXT, "text_projection")}


def holds_pair(name: str) -> bool:
    """Tell whether a checkpoint of transformers has both networks."""
    return family_of(name) in PAIRS


def heads_of(name: str) -> dict[str, Tensor]:
    """Name what stands beside both networks as objectives do. SigLIP's vectors are in the space already."""
    model = read_pair(name)
    parts = {name: part for name, part in model.named_parameters(recurse=False)}
    heads = {name: part.detach().reshape(1) for name, part in parts.items()}
    for side, (_, projection) in SIDES.items():
        layer = getattr(model, projection, None)
        width = model.config.text_config.projection_size if layer is None else 0
        heads[f"projections.{side}.weight"] = torch.eye(width) if layer is None else layer.weight.detach()
    return heads


@torch.no_grad()
def as_transformers(towers: dict[str, Tower], heads: dict[str, Tensor]) -> Any:
    """Build transformers' model of a hand-off: CLIPModel, or VisionTextDualEncoderModel of other networks of theirs.

    What neither can be is refused, and so is a model that would give other vectors.
    """
    import transformers

    if set(towers) != set(SIDES):
        raise HandoffError(f"the hand-off holds {', '.join(towers)}: give one of pairs of image and text")
    parts: dict[str, Any] = {side: getattr(tower.backbone, "model", None) for side, tower in towers.items()}
    foreign = [side for side, part in parts.items() if not isinstance(part, transformers.PreTrainedModel)]
    if foreign:
        what = f"the {foreign[0]} network is no model of transformers, and CLIPModel has only such"
        raise HandoffError(f"{what}: load the hand-off's two folders one by one, as its README.md says")
    if any(f"projections.{side}.bias" in heads for side in SIDES):
        raise HandoffError("its projections have a bias (objective=siglip), which CLIPModel has not: give one of clip")
    image, text = (parts[side] for side in SIDES)
    width = len(heads["projections.image.weight"])
    model: Any
    if isinstance(image, transformers.CLIPVisionModel) and isinstance(text, transformers.CLIPTextModel):
        both: dict[str, Any] = {"vision_config": image.config.to_dict(), "text_config": text.config.to_dict()}
        model = transformers.CLIPModel(transformers.CLIPConfig(**both, projection_dim=width))
        model.vision_model.load_state_dict(image.state_dict())
        model.text_model.load_state_dict(text.state_dict())
    else:
        kind = transformers.VisionTextDualEncoderConfig
        config = kind.from_vision_text_configs(image.config, text.config, projection_dim=width)
        model = transformers.VisionTextDualEncoderModel(config=config, vision_model=image, text_model=text)
    for side, (_, projection) in SIDES.items():
        getattr(model, projection).weight.copy_(heads[f"projections.{side}.weight"])
    model.logit_scale.copy_(heads["logit_scale"][0])
    _compare(model.eval(), towers)
    return model


def _compare(model: Any, towers: dict[str, Tower]) -> None:
    """Refuse a model that makes other vectors than the networks do: of noise, and of two texts of unequal length."""
    image, text = (towers[side] for side in SIDES)
    pixels = torch.randn(2, image.preprocess.channels, image.preprocess.size, image.preprocess.size)
    first, last = ([] if token is None else [token] for token in (text.preprocess.bos_id, text.preprocess.eos_id))
    plain = text.preprocess.ordinary_ids.tolist()
    rows = [[*first, *(plain * 3)[:3], *last], [*first, *plain[-1:], *last, 0, 0]]
    ids, real = torch.tensor(rows), torch.ones(2, len(rows[0]), dtype=torch.int64)
    real[1, -2:] = 0
    ids[1, -2:] = text.preprocess.pad_id or 0
    ours = {
        "image": image.backbone.eval()(images=pixels).pooled,
        "text": text.backbone.eval()(input_ids=ids, document_ids=real).pooled,
    }
    theirs = {
        "image": model.vision_model(pixel_values=pixels).pooler_output,
        "text": model.text_model(input_ids=ids, attention_mask=real).pooler_output,
    }
    for side, expected in ours.items():
        if theirs[side] is None or not torch.allclose(theirs[side], expected, atol=1e-4):
            what = f"{type(model).__name__} makes its {side} vector in another way than this network"
            cure = "pretrain with backbone.towers.text.pooling=pooler, or load the two folders one by one"
            raise HandoffError(f"{what} (pooling={towers[side].backbone.kwargs.get('pooling')}): {cure}")


def write_transformers(given: Handoff, directory: Path) -> None:
    """Write a hand-off of image and text as one model of transformers, with its tokenizer and preparation of images.

    CLIPModel where both networks are CLIP's own (backbone@backbone.towers.image=clip_vision_scenes
    backbone@backbone.towers.text=clip_captions), VisionTextDualEncoderModel where both are other networks of
    transformers whose vectors are theirs; the rest is refused, and is loaded from the hand-off's two folders.
    """
    if "heads.safetensors" not in given.card["sha256"]:
        raise HandoffError(f"{given.path or given.reference} holds no projections: give one of objective=clip")
    towers = given.towers
    model = as_transformers(towers, load_file(Path(given.path) / "heads.safetensors"))
    quieten()
    model.save_pretrained(directory)
    save_tokenizer(towers["text"].preprocess, towers["text"].backbone, directory, plain=True)
    towers["image"].preprocess.save_for_transformers(directory)
    kind = type(model).__name__
    (directory / "README.md").write_text(USAGE.format(kind=kind) + ROUNDED, encoding="utf-8")


USAGE = """# {kind} of images and texts

```python
import torch
import transformers

model = transformers.{kind}.from_pretrained("DIR")
tokenizer = transformers.AutoTokenizer.from_pretrained("DIR")
images = transformers.AutoImageProcessor.from_pretrained("DIR")

read = tokenizer(["a small red seven"], padding=True, return_tensors="pt", return_token_type_ids=False)
texts = model.get_text_features(**read).pooler_output
pictures = model.get_image_features(**images([picture], return_tensors="pt")).pooler_output
cosines = torch.nn.functional.cosine_similarity(pictures[:, None], texts[None], dim=-1)
```
"""
