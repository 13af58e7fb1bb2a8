"""Installed packages that bring options and classes of their own: no fork is needed, and no `hydra.searchpath`.

    [project.entry-points."pretraining.conf"]
    my_package = "my_package.conf"

in the pyproject.toml of `my_package` names a folder of it that is laid out as `conf/` here. Imports neither that
package nor anything slow.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from pretraining.errors import RunError

GROUP = "pretraining.conf"


@functools.cache
def conf_folders() -> Mapping[str, Path]:
    """Find the folder of options that each such package brings; a `RunError` where there is none."""
    found = {}
    for point in sorted(entry_points(group=GROUP)):
        package, *inner = point.value.split(".")
        spec = importlib.util.find_spec(package)
        places = [Path(place, *inner) for place in (spec and spec.submodule_search_locations) or ()]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            what = f"the entry point {point.name} = {point.value!r} ({GROUP}) is no folder of an installed package"
            raise RunError(
                f"{what}: name one, such as {package}.conf, pack its yaml files (package-data), or uninstall it"
            )
        found[package] = folder
    return found
