"""Hydra's sweep syntax says what varies: choices a,b,c, interval(low, high), int(interval(...)), tag(log, ...)."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from experiments.study.spec import StudyError


def split_sweep(overrides: Sequence[str], example: str) -> tuple[list[Override], list[str]]:
    """Tell the overrides that vary from those that stand; where none varies, the error gives an `example`."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise StudyError(str(error)) from error
    varied = [one for one in parsed if one.is_sweep_override()]
    if not varied:
        raise StudyError(f"nothing varies: give {example}")
    return varied, [str(one.input_line) for one in parsed if not one.is_sweep_override()]


def list_choices(swept: Override) -> list[Any]:
    """List the values of an override that has several."""
    return list(swept.sweep_iterator(transformer=lambda value: value))
