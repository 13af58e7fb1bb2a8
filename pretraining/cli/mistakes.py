"""What Hydra refuses, said in a line: which override, what was meant, or how it is quoted. Imports no torch."""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
from collections.abc import Collection, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

ROOM = 500  # letters for the names that a message lists


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Name what is closest to `name`, as a question to end a message with; nothing where nothing is close."""
    parent, _, leaf = name.rpartition(".")
    same = [key for key in known if key.rpartition(".")[2] == leaf]
    beside = [key for key in known if parent and key.rpartition(".")[0] == parent]
    if not same and (near := _alike(leaf, beside)):
        return f"did you mean {' or '.join(near)}?"
    known = [key for key in known if not (beside and key == parent)]
    near = difflib.get_close_matches(name, same or known, 1, 0.0 if same else 0.7)
    if not near:
        near = _alike(leaf, known)
    return f"did you mean {' or '.join(near)}?" if near else ""


def _alike(leaf: str, keys: Sequence[str]) -> list[str]:
    """Find the keys whose last part is close to `leaf`, or has it as one of its words."""
    leaves = {key.rpartition(".")[2]: key for key in reversed(keys)}
    near = [leaves[found] for found in difflib.get_close_matches(leaf, list(leaves), 1, 0.75)]
    return near or [key for found, key in leaves.items() if leaf in found.split("_")][:3]


def keys_of(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """List every setting and group of a configuration."""
    for name in map(str, config):
        yield f"{prefix}{name}"
        given = not (OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name))
        if given and isinstance(config[name], DictConfig):
            yield from keys_of(config[name], f"{prefix}{name}.")


def explain(error: Exception, overrides: Sequence[str], known: Collection[str]) -> str:
    """Say in a line why Hydra refuses overrides; `known` are the settings and groups that there are."""
    unreadable = next((given for given in overrides if not _is_readable(given)), None)
    if unreadable is not None:
        return _quoting(unreadable, known)
    said = str(error)
    if getattr(error, "options", None) is not None and getattr(error, "missing_cfg_file", None):
        return _unknown_option(str(error.missing_cfg_file), error.options)  # type: ignore[attr-defined]
    given = next((given for given in overrides if f"'{_key(given)}'" in said or f"'{given}'" in said), "")
    key = _key(given)
    if "Ambiguous value" in said:
        value = given.partition("=")[2]
        forms = f"a list as {key}=[{value}], a text as {_in_quotes(key, value)}"
        return f"{given}: several values: add -m to run each of them, or write {forms}"
    if "Config group override" in said or isinstance(error, TypeError):  # the latter of a list of what is no name
        groups = [given for given in overrides if _key(given) in known and "." not in _key(given)]
        odd = [given for given in groups if not re.search(r"=(?!(null|true|false)$)[A-Za-z_]\w*$", given)]
        named = [given for given in odd if "=[" not in given]
        return f"{(named or odd or overrides)[0]}: give the name of one of its options, as --help lists them"
    if "An item is already at" in said:
        return f"{given}: {key} is a setting already: leave the + out"
    if said.startswith(("Could not override", "Could not delete")):
        inner = re.search(r"full_key: (\S+)", str(error.__cause__))  # of a group that is given with all in it
        key = inner[1] if inner and inner[1].startswith(f"{key}.") else key
        if key in known:
            return f"{given}: another override takes {key} away, or this command has none"
        guess = did_you_mean(key, known) or "--help lists the settings"
        return f"{given}: there is no setting {key}: {guess}"
    if lost := re.search(r"Interpolation key '([^']+)' not found", said):
        guess = did_you_mean(lost[1], [name for name in known if name != lost[1]])  # which this choice of parts lacks
        taker = re.search(r"full_key: (\S+)", said)
        cure = f"give {taker[1]} itself, or {lost[1]}" if taker and lost[1] in known else guess or "--help lists them"
        return f"${{{lost[1]}}}: there is no setting {lost[1]}: {cure}"
    if must := re.search(r"You must specify '(\w+)'", said):
        if mistyped := difflib.get_close_matches(must[1], [_key(given) for given in overrides], 1, 0.75):
            return f"{mistyped[0]}=: there is no setting {mistyped[0]}: did you mean {must[1]}?"
        options = re.findall(r"^\t(\w+)$", said, re.MULTILINE)
        return f"no value for {must[1]}: give {must[1]}=NAME, one of {_listed(options)}"
    return " ".join(said.split("\nConfig search path")[0].split("\nSet the environment")[0].split())


def _unknown_option(missing: str, options: Sequence[str]) -> str:
    group, _, name = missing.rpartition("/")
    if group == "hydra/launcher" and name.startswith("submitit"):
        return "hydra/launcher= for Slurm needs pip install 'pretraining[slurm]'"
    guess = did_you_mean(name, options)
    return f"{group}={name}: there is no such option: {guess or f'choose one of {_listed(options)}'}"


def _listed(options: Sequence[str]) -> str:
    """List options by name; of more than a line holds the first ones."""
    names = [option for option in options if not option.startswith("_")]
    ends = itertools.accumulate(len(name) + 2 for name in names)
    shown = names[: sum(end <= ROOM for end in ends)]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more, which --help lists" if left else "")


def _is_readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _quoting(override: str, known: Collection[str]) -> str:
    key, equals, value = override.partition("=")
    if override.startswith("-"):
        name = key.lstrip("-")
        guess = f"settings have no dashes: {name}=VALUE" if name in known else did_you_mean(key, ["--help"])
        return f"{override}: there is no such option: {guess or '--help lists what there is'}"
    if not equals:
        return f"{override}: give settings as name=value; --help lists them"
    if not re.fullmatch(r"[+~]*[\w.@/-]+", key):
        return f"{override}: {key!r} is no name of a setting: give name=value; --help lists them"
    advice = f"close brackets and quotes, or write a text in quotes: {_in_quotes(key, value)}"
    return f"{override}: cannot be read: {advice}"


def _in_quotes(key: str, value: str) -> str:
    """Write an override whose value is a text, whatever is in it, as a shell takes it."""
    inner = value.replace("'", "\\'")
    quoted = f"{key}='{inner}'"
    return shlex.quote(quoted) if set(quoted) & set('"$`\\') else f'"{quoted}"'
