"""A hand-off of wav2vec 2.0 as a folder of transformers, with the quantiser and both projections."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pretraining.audio.backbones.speech_encoder import SpeechEncoder
from pretraining.backbones.transformers_loading import quieten
from pretraining.errors import HandoffError
from pretraining.handoff import Handoff

TOLERANCE = 1e-4
PLACES = {  # our heads' parts, in Wav2Vec2ForPreTraining
    "quantiser.score": "quantizer.weight_proj",
    "quantiser.vectors": "quantizer.codevectors",
    "project_target": "project_q",
    "project_context": "project_hid",
}


def write_transformers(given: Handoff, directory: Path) -> None:
    """Write Wav2Vec2ForPreTraining and its preparation of recordings; transformers has no class for other heads."""
    backbone: Any = given.backbone
    known = getattr(given.objective, "library_heads", ())
    fits = isinstance(backbone, SpeechEncoder) and backbone.stem_kind == "waves"
    if not fits or not known or backbone.model.config.model_type != "wav2vec2":
        what = f"transformers has no class for the head of objective={given.card['origin'].get('objective')}"
        what += f" on {type(backbone).__name__}" if fits else f" on {type(backbone).__name__} with this stem"
        raise HandoffError(f"{what}: {_alone(given) if fits else 'take to=onnx'}")
    if "heads.safetensors" not in given.card["sha256"] or given.card["origin"].get("objective") == "random":
        raise HandoffError(f"{given.reference} holds no trained head: {_alone(given)}")
    model = with_heads(backbone.model, load_file(Path(given.path) / "heads.safetensors"))
    _compare(model, backbone.eval())
    quieten()
    model.save_pretrained(directory)
    given.preprocess.save(directory)


def _alone(given: Handoff) -> str:
    if given.directory is None:
        return "take to=onnx, which writes the encoder alone"
    return f"AutoModel.from_pretrained({str(given.directory)!r}) reads the encoder alone"


@torch.no_grad()
def with_heads(base: Any, heads: dict[str, Tensor]) -> Any:
    """Build Wav2Vec2ForPreTraining of an encoder and the heads of objective=wav2vec2."""
    import transformers

    config = copy.deepcopy(base.config)
    config.num_codevector_groups, config.num_codevectors_per_group, width = heads["quantiser.vectors"].shape
    config.codevector_dim = config.num_codevector_groups * width
    config.proj_codevector_dim = len(heads["project_target.weight"])
    model = transformers.Wav2Vec2ForPreTraining(config).eval()
    model.wav2vec2.load_state_dict(base.state_dict())
    places = dict(model.named_parameters())
    for name, weight in heads.items():
        part = next(part for part in PLACES if name.startswith(part))
        place = places[name.replace(part, PLACES[part])]
        place.copy_(weight.reshape(place.shape))
    return model


@torch.no_grad()
def _compare(model: Any, backbone: SpeechEncoder) -> None:
    """Refuse a model that makes other vectors of noise than the encoder, projected."""
    waves = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    ours = F.linear(backbone(waves=waves).positions, model.project_hid.weight, model.project_hid.bias)
    if not torch.allclose(model(input_values=waves).projected_states, ours, atol=TOLERANCE):
        raise HandoffError("Wav2Vec2ForPreTraining makes other vectors of this encoder's weights")
