"""Hydra's sweep syntax says what varies: choices a,b,c, interval(low, high), int(interval(...)), tag(log, ...)."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from experiments.study.spec import StudyError
from pretraining.cli.mistakes import explain
from pretraining.kinds import is_list


def split_sweep(overrides: Sequence[str], example: str) -> tuple[list[Override], list[str]]:
    """Tell the overrides that vary from those that stand; where none varies, the error gives an `example`."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise StudyError(explain(error, overrides, ())) from error
    varied = [one for one in parsed if one.is_sweep_override()]
    if not varied:
        raise StudyError(f"nothing varies: give {example}")
    return varied, [str(one.input_line) for one in parsed if not one.is_sweep_override()]


def list_choices(swept: Override) -> list[Any]:
    """List the values of an override that has several."""
    return [_plain(value) for value in swept.sweep_iterator(transformer=lambda value: value)]


def _plain(value: Any) -> Any:
    if is_list(value):
        return [_plain(part) for part in value]
    return value.text if isinstance(value, QuotedString) else value
