"""What a study's yaml may say; anything else is refused before any work."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pretraining.kinds import GROUP, TEXT, Kind, each, integer, is_list, number, optional, refusal

RUN_KEYS = {"pretrain", "pretraining_seeds", "budget", "handoffs", "finetune", "finetuning_seeds", "never_pretrained"}
STUDY_KEYS = {"name", "question", "workers"} | RUN_KEYS
OPTIONAL_STUDY_KEYS = {"tune"}
TUNE_KEYS = {"trials", "space", "metric", "goal", "seed"}
PRETRAIN_KEYS = {"overrides", "grid"}
FINETUNE_KEYS = {"arms", "overrides", "modes", "fractions", "shots", "metric"}


SEEDS = each(integer(0, 2**32 - 1))
ANYTHING = Kind("give a value", lambda value: True)
KINDS = {
    "pretraining_seeds": SEEDS,
    "finetuning_seeds": SEEDS,
    "pretrain": GROUP,
    "finetune": GROUP,
    "handoffs": optional(GROUP),
    "budget": optional(GROUP),
    "overrides": each(TEXT),
    "grid": optional(GROUP),
    "arms": optional(each(TEXT)),
    "modes": each(TEXT, least=1),
    "fractions": optional(each(number(above=0, high=1), least=1)),
    "shots": optional(each(integer(1), least=1)),
    "metric": optional(TEXT),
}


class StudyError(ValueError):
    """A mistake in what was asked for; the command prints it as one line."""


def exit_code(command: str, work: Callable[[], int]) -> int:
    """Carry out a command's work; a mistake of its user is printed as one line and has the exit code 2."""
    try:
        return work()
    except StudyError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2


def check(spec: Mapping[str, Any]) -> None:
    """Refuse what is misspelt, missing or empty, naming the key and the choices."""
    _check_keys("study", spec, STUDY_KEYS | OPTIONAL_STUDY_KEYS, required=STUDY_KEYS)
    if spec.get("tune"):
        _check_tune(spec["tune"])
    ready = spec["handoffs"] or {}
    entries = {**spec["pretrain"], **ready}
    for name, weights in ready.items():
        if not TEXT.accepts(weights):
            raise StudyError(refusal(f"study.handoffs.{name}", weights, TEXT))
    for name, entry in spec["pretrain"].items():
        _check_keys(f"study.pretrain.{name}", entry, PRETRAIN_KEYS, required={"overrides"})
        for key, values in (entry.get("grid") or {}).items():
            if not is_list(values) or not values:
                raise StudyError(refusal(f"study.pretrain.{name}.grid.{key}", values, each(ANYTHING, least=1)))
    for name, entry in spec["finetune"].items():
        _check_keys(f"study.finetune.{name}", entry, FINETUNE_KEYS, required={"overrides", "modes"})
        if entry.get("fractions") and entry.get("shots"):
            raise StudyError(f"study.finetune.{name} has both fractions and shots: give one of them")
        for arm in entry.get("arms") or []:
            if arm not in entries:
                raise StudyError(f"study.finetune.{name}.arms names {arm!r}; the study has {sorted(entries)}")
    for key in ("pretraining_seeds", "finetuning_seeds"):
        if not spec[key] or len(set(spec[key])) != len(spec[key]):
            raise StudyError(f"study.{key} is {list(spec[key])}: give a list of different seeds, such as [1,2,3]")
    if not entries:
        raise StudyError("study.pretrain and study.handoffs are both empty: there is nothing to compare")


def _check_tune(tune: Mapping[str, Any]) -> None:
    _check_keys("study.tune", tune, TUNE_KEYS, required={"trials", "space"})
    given = f"study.tune has trials={tune['trials']} and space={tune['space']}"
    if not isinstance(tune["trials"], int) or tune["trials"] < 1 or not tune["space"]:
        raise StudyError(f"{given}: give at least one trial and one setting")
    if (goal := tune.get("goal") or "minimize") not in ("minimize", "maximize"):
        raise StudyError(f"study.tune.goal={goal}: choose minimize or maximize")
    for key, allowed in tune["space"].items():
        between = isinstance(allowed, Mapping) and {"low", "high"} <= set(allowed) <= {"low", "high", "log"}
        if not between and (isinstance(allowed, Mapping | str) or not isinstance(allowed, Sequence) or not allowed):
            choices = "give a list of values, or {low: …, high: …, log: true}"
            raise StudyError(f"study.tune.space.{key} is {allowed}: {choices}")


def _check_keys(where: str, entry: Mapping[str, Any], known: set[str], required: set[str]) -> None:
    if not GROUP.accepts(entry):
        raise StudyError(refusal(where, entry, GROUP))
    if unknown := set(entry) - known:
        raise StudyError(f"{where} has the unknown key {sorted(unknown)[0]!r}; it takes {sorted(known)}")
    if missing := required - set(entry):
        raise StudyError(f"{where} lacks the key {sorted(missing)[0]!r}; it takes {sorted(known)}")
    for name, kind in KINDS.items():
        if name in entry and not kind.accepts(entry[name]):
            raise StudyError(refusal(f"{where}.{name}", entry[name], kind))
