"""What a command line sets up in its process before all else: a quick start, and memory that is used again.

Libraries import much for features that a run does not use. Lightning imports torchmetrics, which imports each optional package that it
finds: torchmetrics is told that they are not there, since nothing here uses a metric of it. Lightning and each torch optimizer import
torch's compiler, to ask whether something is compiled; transformers imports scipy for the losses of its object detectors. These take longer
to import than torch itself: the few names that are asked for get stand-ins, and the module is loaded as soon as anything else is asked of
it, or a stand-in is called.

Everything stays importable and whole, and only processes that the command lines of this package start do this: whoever imports the package
as a library sees nothing of it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.abc
import re
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LEFT_OUT = {
    "torchvision",
    "scipy",
    "matplotlib",
    "scienceplots",
    "transformers",
    "torchaudio",
    "librosa",
    "nltk",
}  # of torchmetrics


class _Lean(importlib.abc.Loader):
    """Executes torchmetrics while it can find no optional package."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the usual loader."""
        return self.whole.create_module(spec)  # type: ignore[no-any-return]

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


class Deferred(ModuleType):
    """A module that is executed when more is asked of it than its stand-ins; from then on it is an ordinary one."""

    def __getattr__(self, name: str) -> Any:
        """Answer for what the module does not have yet."""
        stand_ins = self.__spec__.loader.stand_ins  # type: ignore[union-attr]
        if name in stand_ins:
            return stand_ins[name]
        if name != "__path__":  # which each import asks for
            load(self)
        return ModuleType.__getattribute__(self, name)  # no super(): the class may have changed


_lock = threading.RLock()
_executing: set[str] = set()


def waits(module: ModuleType) -> bool:
    """Tell whether a deferred module has not been executed."""
    return type(module) is Deferred


def load(module: ModuleType) -> ModuleType:
    """Execute a deferred module, and its package before it, once; other threads wait for it."""
    with _lock:
        name = module.__name__
        package = sys.modules.get(name.rpartition(".")[0])
        if package is not None and waits(package):
            load(package)
        if waits(module) and name not in _executing:
            _executing.add(name)
            deferring: Any = module.__spec__.loader  # type: ignore[union-attr]
            try:
                deferring.whole.exec_module(module)
            finally:
                _executing.remove(name)
            module.__loader__ = module.__spec__.loader = deferring.whole  # type: ignore[union-attr]
            module.__class__ = ModuleType  # type: ignore[assignment]
            for decorator, function in deferring.later:
                getattr(module, decorator)(function)
    return module


def _functions(*names: str) -> Callable[[Any], dict[str, Any]]:
    """Stand in for functions, by ones that load their module when they are called."""

    def stand_ins(module: Any) -> dict[str, Any]:
        return {
            name: lambda *given, _name=name, **named: getattr(load(module), _name)(*given, **named) for name in names
        }

    return stand_ins


def _compiler(module: Any) -> dict[str, Any]:
    """Stand in for what is asked of torch's compiler in processes that compile nothing, and answer as it would."""

    class Instances(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return not waits(module) and isinstance(instance, module.OptimizedModule)

    class OptimizedModule(metaclass=Instances):
        """What `torch.compile` makes of a module."""

    def graph_break(*given: Any, **named: Any) -> None:
        if not waits(module):
            module.graph_break(*given, **named)

    def disable(function: Any = None, *options: Any, **named_options: Any) -> Any:
        if function is None:
            return lambda later: disable(later, *options, **named_options)

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            return (function if waits(module) else module.disable(function, *options, **named_options))(*given, **named)

        return call

    return {each.__name__: each for each in (OptimizedModule, graph_break, disable)} | {
        name: _mark(module, name) for name in _MARKS
    }


_MARKS = (
    "allow_in_graph",
    "assume_constant_result",
)  # decorators that tell the compiler of a function, and give it back as it is


def _mark(module: Any, name: str) -> Callable[[Any], Any]:
    """Stand in for a decorator, by one that decorates once the module is loaded."""

    def mark(function: Any) -> Any:
        module.__spec__.loader.later.append((name, function))
        return function

    return mark


DEFERRED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "torch._dynamo": _compiler,
    "torch._dynamo.utils": _functions("is_compile_supported"),
    "torch._dynamo._trace_wrapped_higher_order_op": _functions("TransformGetItemToIndex"),
    "scipy.optimize": _functions("linear_sum_assignment"),
}


class _Deferring(importlib.abc.Loader):
    """Makes a deferred module."""

    def __init__(self, whole: Any) -> None:
        self.whole = whole
        self.stand_ins: dict[str, Any] = {}
        self.later: list[tuple[str, Any]] = []  # decorators of the module, by name, and what they are to decorate

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to the usual loader."""
        return self.whole.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Leave that to whoever uses the module."""
        self.stand_ins = DEFERRED[module.__name__](module)
        module.__class__ = Deferred


class _Imported(importlib.abc.Loader):
    """Gives a module that its package has imported in the meantime, in place of a second one."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Give the module."""
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""
        vars(module)["__spec__"] = self.spec


class Finder(importlib.abc.MetaPathFinder):
    """Finds torchmetrics and the deferred modules where they are, to be loaded in another way; and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Answer for these alone; execute a deferred package before one of its parts is imported, as that part expects."""
        package = sys.modules.get(name.rpartition(".")[0])
        if name not in DEFERRED and package is not None and waits(package):
            load(package)
            if name in sys.modules:
                module = sys.modules[name]
                again = ModuleSpec(name, _Imported(module))
                vars(module)["__spec__"] = again  # so, since modules of settings refuse unknown attributes
                return again
        if name != "torchmetrics" and name not in DEFERRED:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Lean(spec.loader) if name == "torchmetrics" else _Deferring(spec.loader)
        return spec


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep freed blocks for the next tensors, whatever their size; other C libraries are left alone.

    By default it gives blocks of 32 MiB and more back at once. A feature map of that size is then new memory in each step, which the
    kernel clears, page by page: about a seventh of a step of SimCLR.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def install() -> None:
    """See to it that what is imported from now on is imported in these ways, and that freed memory is kept."""
    keep_freed_memory()
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
