"""conf/ is the whole truth: its keys are the constructors' parameters, its values their defaults; all files compose."""

import dataclasses
import inspect
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from pretraining.cli.configuration import CONF, compose

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


def composed(overrides):
    """Compose without insisting on values that only the user knows."""
    with hydra.initialize_config_dir(str(CONF), version_base=None):
        return hydra.compose("pretrain", overrides=overrides)


@pytest.mark.parametrize("name", files("trainer"))
def test_a_trainer_file_sets_every_setting(name):
    from pretraining.engine.trainer import TrainerSettings

    config = composed([f"trainer={name}"]).trainer
    assert {key for key in config if key != "_target_"} == {field.name for field in dataclasses.fields(TrainerSettings)}


def test_defaults_of_the_trainer_are_the_yaml_s_where_they_are_neutral():
    from pretraining.engine.trainer import TrainerSettings

    defaults, config = TrainerSettings(), composed(["trainer=cpu"]).trainer
    for name in (
        "accelerator",
        "strategy",
        "devices",
        "num_nodes",
        "precision",
        "max_steps",
        "accumulate",
        "keep_last",
        "on_nonfinite",
        "timeout",
    ):
        assert config[name] == getattr(defaults, name), name


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
