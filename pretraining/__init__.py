"""Self-supervised pretraining: objectives on swappable backbones, with data, randomness and resumption that are exact.

`fit` pretrains a `recipe` or parts that are built by hand, which are the classes below: objectives and their collates,
backbones, data, preprocessing, optimizers. All are imported when first used: `import pretraining` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "pretraining.audio.backbones.speech_encoder": "SpeechEncoder",
    "pretraining.audio.collate": "StackWaves Waves",
    "pretraining.audio.data.espeak": "Espeak",
    "pretraining.audio.data.files": "AudioFolder",
    "pretraining.audio.data.hub": "HubAudio",
    "pretraining.audio.data.joined": "JoinedClips",
    "pretraining.audio.data.letters": "SpokenLetters",
    "pretraining.audio.layer_units": "LayerUnits",
    "pretraining.audio.preprocess": "AudioPreprocess",
    "pretraining.audio.units": "KMeansUnits RandomUnits",
    "pretraining.backbones.base": "Backbone Features",
    "pretraining.callbacks.online_probe": "ProbeSettings",
    "pretraining.callbacks.quality": "QualitySettings",
    "pretraining.embedding.loading": "load",
    "pretraining.engine.batch": "Loss Term",
    "pretraining.engine.trainer": "TrainerSettings",
    "pretraining.errors": "RunError",
    "pretraining.image.augment": "Blur Crop Jitter Output Views",
    "pretraining.image.backbones.fixed_positions": "FixedPositions",
    "pretraining.image.backbones.timm_model": "TimmBackbone",
    "pretraining.image.backbones.torchvision_model": "TorchvisionBackbone",
    "pretraining.image.backbones.transformers_vision": "TransformersVision",
    "pretraining.image.collate": "AugmentedImages LabelledImages StackImages",
    "pretraining.image.data.builtin": "Cifar10 Digits",
    "pretraining.image.data.decode": "Decoding",
    "pretraining.image.data.files": "HubImages ImageFolder",
    "pretraining.image.data.scene_images": "SceneImages",
    "pretraining.image.data.scenes": "DigitScenes",
    "pretraining.image.preprocess": "ImagePreprocess",
    "pretraining.modality": "Modality Preprocess",
    "pretraining.objectives.audio.data2vec_audio": "Data2VecAudio",
    "pretraining.objectives.audio.frames": "MaskFrames",
    "pretraining.objectives.audio.masked_units": "MaskedUnits",
    "pretraining.objectives.audio.quantiser": "ProductQuantiser Temperature",
    "pretraining.objectives.audio.wav2vec2": "Wav2Vec2",
    "pretraining.objectives.base": "Objective",
    "pretraining.objectives.coupled": "CoupledObjective",
    "pretraining.objectives.heads": "Projector",
    "pretraining.objectives.image.barlow_twins": "BarlowTwins",
    "pretraining.objectives.image.byol": "BYOL",
    "pretraining.objectives.image.denoising": "DenoisingImages",
    "pretraining.objectives.image.dino": "DINO",
    "pretraining.objectives.image.i_jepa": "IJEPA",
    "pretraining.objectives.image.ibot": "IBOT",
    "pretraining.objectives.image.masked_autoencoder": "MaskedAutoencoder PatchDecoder",
    "pretraining.objectives.image.moco_v2": "MoCoV2",
    "pretraining.objectives.image.moco_v3": "MoCoV3",
    "pretraining.objectives.image.patch_predictor": "Blocks PatchPredictor",
    "pretraining.objectives.image.simclr": "SimCLR",
    "pretraining.objectives.image.simsiam": "SimSiam",
    "pretraining.objectives.image.supervised": "SupervisedImages",
    "pretraining.objectives.image.swav": "SwAV",
    "pretraining.objectives.image.vicreg": "VICReg",
    "pretraining.objectives.losses.distillation": "Distillation MaskedDistillation",
    "pretraining.objectives.losses.sinkhorn": "Codes",
    "pretraining.objectives.memory": "QueueContrast",
    "pretraining.objectives.pairs.clip": "Clip",
    "pretraining.objectives.pairs.siglip": "SigLip",
    "pretraining.objectives.text.bert": "Bert MaskPairs",
    "pretraining.objectives.text.causal_language": "CausalLanguage NextTokens",
    "pretraining.objectives.text.corruption": "Bart SpanCorruption",
    "pretraining.objectives.text.denoising": "DenoiseText Denoising",
    "pretraining.objectives.text.masked_language": "MaskTokens MaskedLanguage",
    "pretraining.objectives.text.next_sentence": "NextSentence PairSentences",
    "pretraining.objectives.text.noises": "DocumentRotation SentencePermutation TextInfilling TokenDeletion "
    "TokenInsertion TokenMasking TokenReplacement",
    "pretraining.objectives.text.supervised": "LabelledTexts SupervisedText",
    "pretraining.optim.lars": "LARS",
    "pretraining.optim.optimizers": "Adafactor AdamW Optimizer SGD",
    "pretraining.optim.schedules": "Schedule",
    "pretraining.pairs.collate": "PairCollate",
    "pretraining.pairs.data.files": "ImageTextFiles",
    "pretraining.pairs.data.hub": "HubImageText",
    "pretraining.pairs.data.scenes": "SceneCaptions",
    "pretraining.pairs.data.sound_files": "AudioTextFiles",
    "pretraining.pairs.data.sounds": "SpokenCaptions",
    "pretraining.pairs.dual_encoder": "DualEncoder",
    "pretraining.pairs.preprocess": "PairPreprocess",
    "pretraining.pairs.towers": "PreprocessOf backbone_of",
    "pretraining.runs.view": "show",
    "pretraining.scripting": "Recipe fit recipe recipes",
    "pretraining.text.backbones.transformers_model": "TransformersBackbone",
    "pretraining.text.corpus.prepare": "Preparation",
    "pretraining.text.corpus.sentences": "RuleSplitter",
    "pretraining.text.data.base": "TextFiles",
    "pretraining.text.data.hub": "HubText",
    "pretraining.text.data.labelled": "DocsTopicText LabelledTextFiles",
    "pretraining.text.data.mixture": "Mixture",
    "pretraining.text.data.stdlib_docs": "StdlibDocs",
    "pretraining.text.raw": "TokeniseTexts",
    "pretraining.text.tokenizer_recipes": "ByteBPE PretrainedTokenizer SentinelBPE Unigram WordPiece",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pretraining' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
