"""conf/ is the whole truth: its keys are the constructors' parameters, its values their defaults; all files compose."""

import dataclasses
import functools
import inspect
import re
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from pretraining.cli.configuration import CONF, compose
from pretraining.optim.schedules import Schedule
from pretraining.runs.described import described as as_described

# What launch hands to a constructor itself: parts that were built before.
HANDED = {"preprocess", "backbone", "optimizer", "vocab_size", "pad_id", "in_channels"}
GROUPS = ("objective", "backbone", "data", "preprocess", "optimizer", "trainer")


def files(group):
    found = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))  # _ files are parts of others
    assert found, group
    return found


def described(node, where=""):
    """Walk a configuration's nodes that have a _target_."""
    if OmegaConf.is_dict(node):
        if "_target_" in node and "???" not in str(node._get_node("_target_")):
            yield where, node
        for key in node:
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                yield from described(node[key], f"{where}.{key}")
    elif OmegaConf.is_list(node):
        for number, value in enumerate(node):
            yield from described(value, f"{where}[{number}]")


CHOICES = [(group, name) for group in GROUPS for name in files(group)]


@functools.cache
def composed_once(overrides, root):
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose(root, overrides=list(overrides))


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=lambda part: part)
def test_keys_are_constructor_parameters_both_ways(group, name):
    config = composed([f"{group}={name}"])
    nodes = [*described(config[group], group), *(described(config.collate, "collate") if group == "objective" else [])]
    assert nodes
    for where, node in nodes:
        kind = hydra.utils.get_object(node._target_)
        parameters = {
            n: p
            for n, p in inspect.signature(kind).parameters.items()
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        keys = {key for key in node if key not in ("_target_", "_partial_")}
        assert keys <= set(parameters), f"{where}: {node._target_} has no {keys - set(parameters)}"
        required = {n for n, p in parameters.items() if p.default is p.empty} - HANDED
        assert required <= keys, f"{where}: {node._target_} needs {required - keys}"


def composed(overrides, root="pretrain"):
    """Compose without insisting on values that only the user knows."""
    return composed_once(tuple(overrides), root)


@pytest.mark.parametrize("name", files("trainer"))
def test_a_trainer_file_sets_every_setting(name):
    from pretraining.engine.trainer import TrainerSettings

    config = composed([f"trainer={name}"]).trainer
    assert {key for key in config if key != "_target_"} == {field.name for field in dataclasses.fields(TrainerSettings)}


# The options that say what a class is by default, where several describe it otherwise. A schedule has none.
BASE = {
    "AudioFolder": "data=audio_folder",
    "AudioInputs": "task=speech_recognition",
    "Blur": "augment=natural",
    "CaptionedScenes": "task=image_text_retrieval",
    "Classification": "task=text_classification",
    "Crop": "augment=natural",
    "Decoding": "data=image_folder",
    "Detection": "task=detection",
    "DigitScenes": "task=digit_scenes_detection",
    "FixedPositions": "backbone=vit_fixed_digits",
    "Generation": "task=generation",
    "HubText": "data=hub_text",
    "ImagesByClass": "task=image_retrieval",
    "InstanceSegmentation": "task=instance_segmentation",
    "Jitter": "augment=natural",
    "LabelledAudio": "task=speech_recognition",
    "LabelledImageFiles": "task=image_classification",
    "LabelledMaps": "task=semantic_segmentation",
    "LabelledObjects": "task=detection",
    "LabelledScenes": "task=digit_scenes_detection",
    "LabelledSpokenLetters": "task=spoken_letters",
    "LabelledText": "task=text_classification",
    "MapInputs": "task=semantic_segmentation",
    "MaskFrames": "objective=wav2vec2",
    "MaskTokens": "objective=masked_language",
    "MaskedLanguage": "objective=masked_language",
    "ObjectInputs": "task=detection",
    "Projector": "objective=simclr",
    "Regression": "task=text_regression",
    "Retrieval": "task=text_retrieval",
    "SemanticSegmentation": "task=semantic_segmentation",
    "SpeechEncoder": "backbone=wav2vec2_base",
    "SpeechRecognition": "task=speech_recognition",
    "Split": "task=text_classification",
    "TaggedText": "task=tagging",
    "Tagging": "task=tagging",
    "TextInputs": "task=text_classification",
    "TextPairInputs": "task=generation",
    "TextPairs": "task=generation",
    "TorchvisionBackbone": "backbone=resnet18",
    "TrainerSettings": "trainer=cpu",
    "TransformersBackbone": "backbone=bert_base",
    "TransformersVision": "backbone=clip_vision_scenes",
    "Views": "augment=natural",
    "ZeroShot": "task=zero_shot_keywords",
}
# What has no default: which network, what is read, how many classes, and what only the yaml of a task decides.
CHOSEN = {"name", "config", "encoder", "options", "towers", "sides", "noises", "corruption", "classes", "texts"}
CHOSEN |= {"inputs", "select"}


def settings_of(node):
    """Read the settings that a node gives as values, not as what another setting says; the cache's place is one."""
    written = {key: value for key, value in OmegaConf.to_container(node).items() if not key.startswith("_")}
    known = [key for key, value in written.items() if "${" not in str(value).replace("${oc.env", "") and value != "???"]
    return {key: OmegaConf.to_container(OmegaConf.masked_copy(node, [key]), resolve=True)[key] for key in known}


def default_of(parameter):
    """Read a default as yaml would have it; of a dataclass's factory what it makes."""
    value = parameter.default
    if isinstance(value, dataclasses.Field):
        value = value.default if value.default_factory is dataclasses.MISSING else value.default_factory()
    return as_written(value)


def as_written(value):
    if dataclasses.is_dataclass(value):
        return as_yaml(value)
    return [as_written(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_yaml(part):
    told = as_described(part)
    return {name: as_written(value) for name, value in told.items()}


def parameters_of(kind):
    """Name the parameters of a constructor; those of a dataclass are its fields, which know their factories."""
    if dataclasses.is_dataclass(kind):
        found = {field.name: field for field in dataclasses.fields(kind) if field.init}
        return {name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=found[name]) for name in found}
    return inspect.signature(kind.__init__).parameters


def lacks_default(parameter):
    value = parameter.default
    if isinstance(value, dataclasses.Field):
        return value.default is dataclasses.MISSING and value.default_factory is dataclasses.MISSING
    return value is inspect.Parameter.empty


def wrong_defaults(option, node):
    """Say where the default of a class is not what the option has, if that counts for the class."""
    kind = hydra.utils.get_object(node._target_)
    if not isinstance(kind, type) or kind is Schedule or BASE.get(kind.__name__, option) != option:
        return
    parameters, settings = parameters_of(kind), settings_of(node)
    for name in sorted(settings.keys() - CHOSEN):
        usual = "nothing" if lacks_default(parameters[name]) else default_of(parameters[name])
        if usual != (written := with_defaults(settings[name])):
            yield f"{kind.__name__}.{name} is {usual} by default, and {written} in {option}"


def stands_by_itself(group, name):
    """Tell an option that says what a class is from a preset of another one."""
    text = (CONF / group / f"{name}.yaml").read_text("utf-8")
    return "_target_: " in text or f"{group}={name}" in BASE.values()


PLACES = {"objective": ("objective", "collate"), "task": ("task", "data")}
DESCRIBED = [
    (group, name)
    for group in (*GROUPS, "probe", "augment", "task", "mode")
    for name in files(group)
    if stands_by_itself(group, name)
]


def test_options_that_count_for_a_class_exist():
    assert set(BASE.values()) <= {f"{group}={name}" for group, name in DESCRIBED} and len(DESCRIBED) > 90


@pytest.mark.parametrize(("group", "name"), DESCRIBED, ids=lambda part: part)
def test_defaults_of_constructors_are_the_values_of_conf(group, name):
    option = f"{group}={name}"
    given = {"augment": [f"+{option}"], "mode": ["task=digits", option]}.get(group, [option])
    config = composed(given, "finetune" if group in ("task", "mode") else "pretrain")
    nodes = [node for place in PLACES.get(group, (group,)) for _, node in described(config[place])]
    assert nodes and not [fault for node in nodes for fault in wrong_defaults(option, node)]


def with_defaults(value):
    """Fill a node in with the defaults of its class, as a part that it makes has them."""
    if not isinstance(value, dict) or "_target_" not in value:
        return value
    kind = hydra.utils.get_object(value["_target_"])
    usual = {name: default_of(each) for name, each in parameters_of(kind).items() if not lacks_default(each)}
    return usual | {name: with_defaults(part) for name, part in value.items()}


def test_an_objective_brings_what_it_needs():
    config = compose(["objective=simclr"])
    assert (
        config.data._target_.endswith("Digits")
        and "torchvision" in config.backbone._target_
        and "image" in config.preprocess._target_
    )
    chosen = compose(["objective=simclr", "backbone=resnet50"])
    assert chosen.backbone.name == "resnet50"


@pytest.mark.parametrize("name", files("experiment"))
def test_an_experiment_composes_and_opens_with_command_time_and_expectation(name):
    text = (Path(CONF) / "experiment" / f"{name}.yaml").read_text()
    for word in ("Command", "Time", "Expected"):
        assert f"# {word}" in text, f"{name} does not say its {word}"
    assert f"experiment={name}" in text
    composed([f"experiment={name}"])


def test_every_class_that_conf_names_is_imported_from_its_package_by_name():
    import finetuning
    import pretraining

    texts = [path.read_text("utf-8") for path in sorted(CONF.rglob("*.yaml"))]
    targets = {target for text in texts for target in re.findall(r"_target_: ([\w.]+)", text)}
    ours = [target for target in targets if target.startswith(("pretraining.", "finetuning."))]
    assert len(ours) > 150
    for target in ours:
        package, name = (finetuning if target.startswith("finetuning") else pretraining), target.rpartition(".")[2]
        assert name in package.__all__ and getattr(package, name) is hydra.utils.get_object(target), target
    for package in (pretraining, finetuning):
        assert all(hasattr(package, name) for name in package.__all__) and set(package.__all__) <= set(dir(package))
