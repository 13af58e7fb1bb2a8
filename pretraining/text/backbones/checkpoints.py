"""Checkpoints of transformers as networks for text, with their tokenizers."""

from __future__ import annotations

from typing import Any

from pretraining.backbones.transformers_loading import PAIRS, Architecture, family_of, read_pair
from pretraining.modality import Tower
from pretraining.text.backbones.siglip_text import SiglipText
from pretraining.text.backbones.transformers_model import CAUSAL, TransformersBackbone
from pretraining.text.tokenizer import TextPreprocess


def read_checkpoint(name: str) -> Tower:
    """Read a checkpoint with its tokenizer: a directory, or a name of the hub; of CLIP and SigLIP the text network."""
    if family_of(name) in PAIRS:
        return _of_pair(name)
    backbone = TransformersBackbone(config=None, init_from=name, architecture=architecture_of(name))
    return Tower(backbone, TextPreprocess.load(name))


def _of_pair(name: str) -> Tower:
    """Take the text network of a CLIP or SigLIP checkpoint."""
    model, preprocess = read_pair(name).text_model, TextPreprocess.load(name)
    config = model.config.to_diff_dict() | {"model_type": model.config.model_type}
    backbone: Any
    if config["model_type"] in CAUSAL:
        backbone = TransformersBackbone(config=config, pooling="last")
    else:
        backbone = SiglipText(config=config, pad_id=preprocess.pad_id or 0)
    backbone.model.load_state_dict(model.state_dict())
    return Tower(backbone, preprocess)


def architecture_of(name: str) -> Architecture:
    """Tell which architecture a checkpoint has, from its config: what its language-model head is, else an encoder."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    written = " ".join(config.architectures or [])
    if config.is_encoder_decoder:
        return "seq2seq"
    return "causal" if "CausalLM" in written or "LMHead" in written else "encoder"
