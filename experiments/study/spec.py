"""What a study's yaml may say; anything else is refused before any work."""

import sys
from collections.abc import Callable, Mapping, Set
from typing import Any

from pretraining.errors import HandoffError, NoSpaceError, RunError
from pretraining.kinds import (
    COUNT,
    FLAG,
    FOLDER,
    GROUP,
    SEED,
    TEXT,
    Kind,
    choice,
    each,
    integer,
    is_list,
    number,
    optional,
    refusal,
)
from pretraining.settings import declared

NEVER_PRETRAINED, CLASSICAL, SUPERVISED = REFERENCES = ("never_pretrained", "classical", "supervised")
GROUPS = Kind(GROUP.wanted, lambda value: GROUP.accepts(value) and all(map(TEXT.accepts, value)))


class StudyError(ValueError):
    """A mistake in what was asked for; the command prints it as one line."""


def exit_code(command: str, work: Callable[[], int]) -> int:
    """Carry out a command's work; a mistake of its user is printed as one line and has the exit code 2."""
    try:
        return work()
    except (StudyError, RunError, HandoffError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except NoSpaceError as error:
        print(f"{command}: {error}: free space, then start it again", file=sys.stderr)
        return 3


def _different(kind: Kind) -> Kind:
    return Kind(
        f"{kind.wanted}, which all differ",
        lambda value: kind.accepts(value) and len(set(map(str, value))) == len(value),
    )


SEEDS = _different(each(SEED, least=1))
VALUES = _different(Kind("give a list of values", lambda value: is_list(value) and bool(value)))
BETWEEN = Kind(
    "give a list of values, or {low: …, high: …, log: true}",
    lambda value: (
        VALUES.accepts(value) or (GROUP.accepts(value) and {"low", "high"} <= {*value} <= {"low", "high", "log"})
    ),
)
STUDY = {
    "name": FOLDER,
    "question": TEXT,
    "pretrain": GROUPS,
    "finetune": GROUPS,
    "handoffs": optional(GROUPS),
    "pretraining_seeds": SEEDS,
    "finetuning_seeds": SEEDS,
    "references": _different(each(choice(*REFERENCES))),
    NEVER_PRETRAINED: FLAG,  # as studies asked for it that knew no other reference
    "budget": optional(GROUPS),
    "workers": COUNT,
    "tune": optional(GROUPS),
}
PRETRAIN = {"overrides": each(TEXT), "grid": optional(GROUPS)}
FINETUNE = {
    "arms": optional(each(TEXT)),
    "overrides": each(TEXT),
    "modes": _different(each(TEXT, least=1)),
    "fractions": optional(_different(each(number(above=0, high=1), least=1))),
    "shots": optional(_different(each(integer(1), least=1))),
    "metric": optional(TEXT),
}
BUDGET = {
    kind: declared("pretraining")[f"budget.{kind}"]
    for kind in ("steps", "examples", "units", "tokens", "flops", "hours")
}
TUNE = {
    "trials": COUNT,
    "space": Kind("give at least one setting with its values", lambda value: GROUPS.accepts(value) and bool(value)),
    "metric": optional(TEXT),
    "goal": optional(choice("minimize", "maximize")),
    "seed": SEED,
}


def completed(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Check a study, and name its references; what is misspelt, missing, empty or twofold is a `StudyError`."""
    check(spec)
    asked = {*spec["references"]}
    if NEVER_PRETRAINED in spec:
        asked = asked | {NEVER_PRETRAINED} if spec[NEVER_PRETRAINED] else asked - {NEVER_PRETRAINED}
    empty = {part: spec[part] or {} for part in ("budget", "handoffs")}
    return {**spec, **empty, "references": [name for name in REFERENCES if name in asked]}


def check(spec: Mapping[str, Any]) -> None:
    """Refuse what is misspelt, missing, empty or twofold, naming the key and the choices."""
    _check("study", spec, STUDY, required=STUDY.keys() - {NEVER_PRETRAINED, "tune"})
    ready, budget = spec.get("handoffs") or {}, spec.get("budget") or {}
    _check("study.budget", budget, BUDGET)
    if len(given := [kind for kind, value in budget.items() if value is not None]) > 1:
        raise StudyError(f"study.budget has {' and '.join(given)}: give one of them")
    _check("study.handoffs", ready, dict.fromkeys(ready, TEXT))
    if spec.get("tune"):
        _check("study.tune", spec["tune"], TUNE, required={"trials", "space"})
        _check("study.tune.space", spec["tune"]["space"], dict.fromkeys(spec["tune"]["space"], BETWEEN))
        for key, allowed in spec["tune"]["space"].items():
            if isinstance(allowed, Mapping):
                check_interval(f"study.tune.space.{key}={allowed}", allowed)
    for name, entry in spec["pretrain"].items():
        where = f"study.pretrain.{name}"
        _check(where, entry, PRETRAIN, required={"overrides"})
        grid = entry.get("grid") or {}
        _check(f"{where}.grid", grid, dict.fromkeys(grid, VALUES))
        if name in ready:
            raise StudyError(f"study.handoffs and study.pretrain both have {name!r}: give one of them another name")
    for name, entry in spec["finetune"].items():
        _check(f"study.finetune.{name}", entry, FINETUNE, required={"overrides", "modes"})
        if entry.get("fractions") and entry.get("shots"):
            raise StudyError(f"study.finetune.{name} has both fractions and shots: give one of them")
        for arm in entry.get("arms") or []:
            if arm not in spec["pretrain"] and arm not in ready:
                known = sorted({*spec["pretrain"], *ready})
                raise StudyError(f"study.finetune.{name}.arms names {arm!r}; the study has {known}")
    if not spec["pretrain"] and not ready:
        raise StudyError("study.pretrain and study.handoffs are both empty: there is nothing to compare")


def check_interval(given: str, interval: Mapping[str, Any]) -> None:
    """Refuse what no setting can be drawn from: {low, high, log}."""
    low, high, finite = interval["low"], interval["high"], number()
    if not (finite.accepts(low) and finite.accepts(high) and low <= high):
        raise StudyError(f"{given}: from {low} to {high} is no interval: give two numbers, the smaller one first")
    if interval.get("log") and low <= 0:
        raise StudyError(f"{given}: a logarithm needs bounds above 0")


def _check(where: str, entry: Any, kinds: Mapping[str, Kind], required: Set[str] = frozenset()) -> None:
    """Refuse an entry with a key that `kinds` does not have, without one that is `required`, or with a wrong value."""
    if not GROUP.accepts(entry):
        raise StudyError(refusal(where, entry, GROUP))
    if unknown := [key for key in entry if key not in kinds]:
        raise StudyError(f"{where} has the unknown key {unknown[0]!r}; it takes {sorted(kinds)}")
    if missing := required - set(entry):
        raise StudyError(f"{where} lacks the key {sorted(missing)[0]!r}; it takes {sorted(kinds)}")
    for name, value in entry.items():
        if not kinds[name].accepts(value):
            raise StudyError(refusal(f"{where}.{name}", value, kinds[name]))
