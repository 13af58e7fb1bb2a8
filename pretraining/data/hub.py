"""Data sets that `datasets` loads: a name on the hub, a local directory, or a folder of `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from pretraining.errors import reason_of


class UnreadableError(FileNotFoundError, ValueError):
    """A data set that cannot be read."""


def split_names(name: str) -> list[str]:
    """List the splits of a data set."""
    path, configuration = _parts(name)
    with explained(name):
        if _is_saved(path):
            return list(_saved(path))
        return list(map(str, datasets.get_dataset_split_names(path, configuration)))


def records(name: str, split: str) -> Iterable[dict[str, Any]]:
    """Open a split as a stream of its rows."""
    path, configuration = _parts(name)
    with explained(name):
        if _is_saved(path):
            return _saved(path)[split]
        return datasets.load_dataset(path, configuration, split=split, streaming=True)


def load(name: str) -> dict[str, Any]:
    """Load all splits of a data set."""
    path, configuration = _parts(name)
    with explained(name):
        return _saved(path) if _is_saved(path) else dict(datasets.load_dataset(path, configuration))


def _parts(name: str) -> tuple[str, str | None]:
    """Part `name:configuration`, unless it is the name of a directory."""
    local = Path(name).expanduser()
    path, _, configuration = (str(local), "", "") if local.exists() else name.partition(":")
    path = str(Path(path).expanduser()) if Path(path).expanduser().exists() else path
    if configuration and _is_saved(path):
        raise UnreadableError(
            f"data.name={name} cannot be read: a folder of save_to_disk has no configurations, as name:configuration "
            "asks for; give the folder alone"
        )
    return path, configuration or None


def _is_saved(path: str) -> bool:
    return any((Path(path) / name).exists() for name in ("dataset_dict.json", "state.json"))


def _saved(path: str) -> dict[str, Any]:
    loaded = datasets.load_from_disk(path)
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what `datasets` raises about a source that it cannot read into one error that says what to change."""
    try:
        yield
    except Exception as error:  # the library's own, and what it meets in damaged descriptions: KeyError, TypeError, ...
        what = f"data.name={name} cannot be read ({reason_of(error)}): it cannot be loaded"
        raise UnreadableError(
            f"{what}; give a local directory, or the name of a data set of the hub, as name:configuration where it has "
            "several"
        ) from error
