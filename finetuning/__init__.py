"""Finetuning: from a hand-off to a downstream task's standard metrics.

`finetune` and `predict` are the commands, the classes are what their settings describe: tasks, modes, data, inputs. All
are imported when they are first used: `import finetuning` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_NAMES = {
    "finetuning.data.audio": "LabelledAudio LabelledEspeak LabelledJoinedClips LabelledSpokenLetters",
    "finetuning.data.base": "LabelledData",
    "finetuning.data.captions": "CaptionedFiles CaptionedScenes",
    "finetuning.data.digit_scenes": "LabelledScenes",
    "finetuning.data.docs_topic": "DocsTopic",
    "finetuning.data.image": "LabelledCifar10 LabelledDigits LabelledImageFiles",
    "finetuning.data.label_maps": "LabelledMaps",
    "finetuning.data.objects": "LabelledObjects",
    "finetuning.data.relevance": "ImagesByClass JudgedTexts",
    "finetuning.data.splits": "Split",
    "finetuning.data.text": "LabelledText Questions TaggedText TextPairs",
    "finetuning.inputs.audio": "AudioInputs SpanMasks SpokenSourceInputs",
    "finetuning.inputs.base": "Inputs",
    "finetuning.inputs.dense": "MapInputs ObjectInputs",
    "finetuning.inputs.image": "ImageInputs",
    "finetuning.inputs.text": "TextInputs",
    "finetuning.inputs.text_pairs": "TextPairInputs",
    "finetuning.inputs.windows": "WindowInputs",
    "finetuning.inputs.words": "WordInputs",
    "finetuning.modes": "AsIs Frozen Full GradualUnfreezing LinearProbe Lora Mode NearestNeighbours Partial",
    "finetuning.scripting": "Result finetune predict",
    "finetuning.task": "Task TaskParts",
    "finetuning.tasks.captions": "Compositional ImageTextRetrieval",
    "finetuning.tasks.classification": "Classification",
    "finetuning.tasks.ctc": "CtcDecoding",
    "finetuning.tasks.decoding": "TextDecoding",
    "finetuning.tasks.detection": "Detection",
    "finetuning.tasks.generation": "Generation",
    "finetuning.tasks.instance_segmentation": "InstanceSegmentation",
    "finetuning.tasks.multi_label": "MultiLabel",
    "finetuning.tasks.question_answering": "QuestionAnswering",
    "finetuning.tasks.regression": "Regression",
    "finetuning.tasks.retrieval": "Retrieval",
    "finetuning.tasks.semantic_segmentation": "SemanticSegmentation",
    "finetuning.tasks.speech_recognition": "SpeechRecognition",
    "finetuning.tasks.speech_translation": "SpeechTranslation",
    "finetuning.tasks.tagging": "Tagging",
    "finetuning.tasks.zero_shot": "ZeroShot",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finetuning' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """A package whose public names stay what they are when the command of such a name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):  # as the import of `finetuning.predict` sets it
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
