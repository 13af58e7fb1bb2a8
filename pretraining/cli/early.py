"""What a command answers before anything slow is imported: `--help`, and mistakes in what was typed."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pretraining.cli.help import answer_help
from pretraining.distributed.environment import speaks
from pretraining.errors import RunError


@contextlib.contextmanager
def ending_on_mistakes() -> Iterator[None]:
    """Print a user's mistake as one message and end with exit code 2."""
    try:
        yield
    except RunError as error:
        if speaks():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def answer(root: str) -> None:
    """Print the help of the command that `conf/<root>.yaml` configures, or refuse its command line; else return."""
    with ending_on_mistakes():
        answer_help("", root=root)
        refuse_mistakes(root, sys.argv[1:])


def refuse_mistakes(root: str, arguments: Sequence[str]) -> None:
    """Refuse unknown options, keys and values, in each job of a sweep."""
    from hydra._internal.utils import get_args_parser

    from pretraining.cli.compose import compose
    from pretraining.cli.mistakes import did_you_mean

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign, assignment]
    given, unknown = parser.parse_known_args(list(arguments))
    options = [word for word in unknown if word.startswith("-")]
    if options and not options[0].partition("=")[0].lstrip("-").count("."):
        name = options[0].partition("=")[0]
        guess = did_you_mean(name, list(parser._option_string_actions)) or "--help lists what there is"
        raise RunError(f"{options[0]}: there is no such option: {guess}")
    elsewhere = given.config_dir or given.config_path or given.config_name or given.experimental_rerun
    if elsewhere or given.shell_completion or given.info or given.hydra_help:
        return
    for overrides in _jobs([*given.overrides, *options], given.multirun):
        compose(overrides, root, complete=not given.cfg)


def _jobs(overrides: Sequence[str], multirun: bool) -> Iterator[list[str]]:
    """List overrides of single jobs such that each value of a sweep is in one of them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException:
        parsed = []
    if not multirun or not any(one.is_sweep_override() for one in parsed):
        yield list(overrides)
        return
    columns = []
    for one in parsed:
        if one.is_choice_sweep() or one.is_range_sweep():
            key = str(one.input_line).partition("=")[0]
            columns.append([f"{key}={value}" for value in itertools.islice(one.sweep_string_iterator(), 20)])
        elif not one.is_sweep_override():
            columns.append([str(one.input_line)])
    for number in range(max(map(len, columns))):
        yield [column[min(number, len(column) - 1)] for column in columns]


def _refuse(message: str) -> None:
    raise RunError(f"{message}; --help lists what there is")


class Command(NamedTuple):
    """What a command without configuration takes, as key=value: these keys, and those that start with `rest`."""

    required: Sequence[str]
    optional: Sequence[str] = ()
    rest: str = ""

    def read(self, given: Sequence[str]) -> dict[str, str]:
        """Read a command line; an unknown or a missing key is an error."""
        from pretraining.cli.mistakes import did_you_mean

        values, keys = {}, [*self.required, *self.optional]
        for argument in given:
            name, equals, value = argument.partition("=")
            if not equals or not (name in keys or (self.rest and name.startswith(self.rest))):
                known = ", ".join(f"{key}=" for key in (*keys, *((f"{self.rest}*",) if self.rest else ())))
                guess = did_you_mean(name, [*keys, "--help"])
                raise RunError(f"got {argument!r}, but this command takes {known}{f': {guess}' if guess else ''}")
            values[name] = value
        missing = [name for name in self.required if name not in values]
        if missing:
            raise RunError(f"no value for {', '.join(missing)}: give {' '.join(f'{name}=...' for name in missing)}")
        return values

    def answer(self, text: str | None) -> None:
        """Print `text` as the help, or refuse the command line; else return."""
        answer_help(text or "")
        with ending_on_mistakes():
            self.read(sys.argv[1:])


def is_true(key: str, word: str) -> bool:
    """Read a value that is true or false."""
    if word not in ("true", "false"):
        raise RunError(f"{key}={word}: choose true or false")
    return word == "true"
