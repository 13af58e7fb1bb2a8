"""Command lines of the form key=value, for the commands that work on a finished run."""

from __future__ import annotations

from pretraining.errors import RunError


def arguments(
    given: list[str], required: tuple[str, ...], optional: dict[str, str | None], rest: str = ""
) -> dict[str, str]:
    """Read `given`; keys that start with `rest` are taken as they come, any other unknown or missing key is an error."""
    values: dict[str, str] = {name: value for name, value in optional.items() if value is not None}
    for argument in given:
        name, equals, value = argument.partition("=")
        if not equals or not (name in required or name in optional or (rest and name.startswith(rest))):
            known = ", ".join(f"{key}=" for key in (*required, *optional, *((f"{rest}*",) if rest else ())))
            raise RunError(f"got {argument!r}, but this command takes {known}")
        values[name] = value
    missing = [name for name in required if name not in values]
    if missing:
        raise RunError(f"no value for {', '.join(missing)}: give {' '.join(f'{name}=...' for name in missing)}")
    return values
