"""A quick start: Lightning imports torchmetrics, which imports each optional package that it finds.

Nothing here uses a metric of torchmetrics, and torchvision, scipy, matplotlib and transformers take longer to import than torch itself.
They stay importable for whoever needs them; only torchmetrics is told that they are not there, and only in processes that the command
lines of this package start: whoever imports the package as a library has the whole of torchmetrics.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = {"torchvision", "scipy", "matplotlib", "scienceplots", "transformers", "torchaudio", "librosa", "nltk"}


class _Loader(importlib.abc.Loader):
    """Executes torchmetrics while it can find no optional package."""

    def __init__(self, whole: importlib.abc.Loader) -> None:
        self.whole = whole

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the usual loader."""
        return self.whole.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the package, which looks for others as it goes."""
        from lightning_utilities.core import imports

        check, available = imports.RequirementCache._check_available, imports.package_available

        def without(requirement: Any) -> None:
            if re.split(r"[<>=!~ ]", requirement.requirement or "")[0] in LEFT_OUT:
                requirement.available, requirement.message = False, "left out for a quick start"
            else:
                check(requirement)

        def known(name: str) -> bool:
            return name.split(".")[0] not in LEFT_OUT and available(name)

        imports.RequirementCache._check_available, imports.package_available = without, known  # type: ignore[method-assign, assignment]
        try:
            self.whole.exec_module(module)
        finally:
            imports.RequirementCache._check_available, imports.package_available = check, available  # type: ignore[method-assign]


class Finder(importlib.abc.MetaPathFinder):
    """Finds torchmetrics where it is, to be loaded by `_Loader`; and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer for torchmetrics alone."""
        if name != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[arg-type]
        return spec


def install() -> None:
    """See to it that torchmetrics is imported lean, if it is imported at all and was not before."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
