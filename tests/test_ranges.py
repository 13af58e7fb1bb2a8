"""Every setting that conf/ names has a range, and what a range says is what its class takes."""

import dataclasses
import importlib
import inspect
import types
import typing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pretraining.kinds import Kind, refusal
from pretraining.settings import OURS, declared, ranged

CONF = Path(__file__).resolve().parents[1] / "conf"


PLACES = ("data", "optimizer", "probe", "task", "trainer")  # of settings that all classes of a group have


def nodes(node):
    if isinstance(node, dict):
        yield node
        for part in node.values():
            yield from nodes(part)
    elif isinstance(node, list):
        for part in node:
            yield from nodes(part)


def parts():
    """List what conf/ names of our classes: the class, and its settings as written."""
    for path in sorted(CONF.rglob("*.yaml")):
        for node in nodes(OmegaConf.to_container(OmegaConf.load(path))):
            target = node.get("_target_", "")
            if target.startswith(OURS):
                yield target, {name: value for name, value in node.items() if is_setting(name, value)}


def is_setting(name, value):
    """Tell a setting from Hydra's own keys, from parts, and from what another setting says."""
    part = (
        "_target_" in value if isinstance(value, dict) else isinstance(value, str) and value.startswith("${oc.select")
    )
    return not (name.startswith("_") or name == "defaults" or part)


def test_every_setting_that_conf_names_has_a_range():
    lacking, seen = set(), 0
    for target, settings in parts():
        module, _, name = target.rpartition(".")
        kinds = declared(module)
        known = {setting for setting in settings if any(f"{group}.{setting}" in kinds for group in (name, *PLACES))}
        lacking |= {(target, setting) for setting in settings.keys() - known}
        seen += len(known)
    assert not lacking and seen > 500


def settings_in_code():
    """Pair each class in conf/ with the parameters of its constructor that are one of several words."""
    for target in sorted({target for target, _ in parts()}):
        module, _, name = target.rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if isinstance(kind, type):
            hints = typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else kind.__init__)
            for setting, hint in ((name, hints[name]) for name in inspect.signature(kind).parameters):
                words = words_of(hint)
                if words and setting != "return":
                    yield module, name, setting, words


def words_of(hint):
    """List the words of one setting; null may be another."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [word for part in typing.get_args(hint) for word in words_of(part)]
    return list(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else []


def test_words_are_those_that_the_class_takes():
    seen = 0
    for module, name, setting, words in settings_in_code():
        kinds = declared(module)
        kind = next((kinds[key] for key in (f"{group}.{setting}" for group in (name, *PLACES)) if key in kinds), None)
        assert kind is not None and all(map(kind.accepts, words)) and not kind.accepts("nonsense"), (name, setting)
        assert set(
            kind.wanted.removeprefix("choose ").removesuffix(", or null").replace(" or ", ", ").split(", ")
        ) == set(words)
        seen += 1
    assert seen > 20


@pytest.mark.parametrize(
    "package",
    sorted(
        path.parent.relative_to(CONF.parent).as_posix().replace("/", ".")
        for top in OURS
        for path in (CONF.parent / top).rglob("ranges.py")
    ),
)
def test_each_range_names_a_class_and_says_what_to_give(package):
    ranges = importlib.import_module(f"{package}.ranges").RANGES
    for group, kinds in ranges.items():
        for kind, names in kinds.items():
            assert isinstance(kind, Kind) and names.split()
            message = refusal("key", [["nonsense"]], kind)
            assert message.startswith("key=[[nonsense]]: ") and len(message.split(": ")[1]) > 8
        flat = [name for names in kinds.values() for name in names.split()]
        assert len(flat) == len(set(flat)), f"{package}: {group} says one setting twice"


def test_ranges_of_parts_wherever_they_stand_are_those_of_their_class():
    crop = {"_target_": "pretraining.image.augment.Crop", "size": 0}
    keys = [key for key, _, _ in ranged({"objective": {"_target_": "mine.Objective", "views": {"crop": crop}}})]
    assert keys == ["objective", "objective.views.crop.size"]
