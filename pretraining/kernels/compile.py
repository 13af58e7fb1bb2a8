"""C code of this package, compiled for the machine that runs it, when it first asks, and kept.

The compiler is the machine's own ($CC, else cc). Where there is none, `library` says so once and gives None; torch's
operations then do the same, slower.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pretraining.cache import build_once, key

# Sums may be reordered, which vectors need. Not -ffast-math: it makes the whole process round tiny numbers to 0.
FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]


@functools.cache
def library(*sources: Path, otherwise: str) -> ctypes.CDLL | None:
    """Load the code of `sources`, headers among them, or compile it first: a second or two, once per kind of machine.

    `otherwise` says what happens without it.
    """
    cache = Path(os.environ.get("PRETRAINING_CACHE", "~/.cache/pretraining")).expanduser()
    compiler = os.environ.get("CC", "cc").split()
    file = f"{sources[0].stem}.so"
    try:
        version = _run([*compiler, "--version"])
        texts = [source.read_text("utf-8") for source in sources]
        parts = {"sources": texts, "flags": FLAGS, "compiler": [*compiler, version], "machine": _machine()}
        place = cache / "compiled" / key(parts)
        directory = build_once(place, lambda partial: _compile(compiler, sources, partial / file))
        return ctypes.CDLL(str(directory / file))
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{' '.join(compiler)} gave no library: {getattr(error, 'stderr', None) or error}"
        print(f"{otherwise}, slower than compiled code: {reason}", file=sys.stderr)
        return None


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _machine() -> list[str]:
    """Describe what code for this processor may use: home directories are shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    able = [line for line in lines if line.startswith(("flags", "Features"))]
    return [platform.system(), platform.machine(), *able[:1]]


def _compile(compiler: list[str], sources: tuple[Path, ...], target: Path) -> None:
    """Use the processor's own instructions where the compiler knows how to ask for them."""
    code = (str(source) for source in sources if source.suffix == ".c")
    common = [*compiler, *FLAGS, *code, "-o", str(target), "-lm"]
    try:
        _run([*common, "-march=native"])
    except subprocess.CalledProcessError:
        _run(common)


def fields(pointers: Sequence[str], numbers: Sequence[str]) -> list[tuple[str, Any]]:
    """List the fields of a structure: pointers, then integers of 64 bits."""
    return [(name, ctypes.c_void_p) for name in pointers] + [(name, ctypes.c_int64) for name in numbers]


def in_threads(routine: Any, job: Any, *, most: int) -> None:
    """Call the C function `routine(job)` in as many threads as torch uses, at most `most`; `job` is a structure.

    The threads are torch's own where its OpenMP is GNU's or takes its calls: others would wait for a core on which one
    of torch's still looks for work. Raises MemoryError where `job.failed` is then set, as our code does where it finds
    no memory.
    """
    threads, start = min(torch.get_num_threads(), most), _openmp()
    if threads > 1 and start is not None:
        start(ctypes.cast(routine, ctypes.c_void_p), ctypes.byref(job), ctypes.c_uint(threads), ctypes.c_uint(0))
    else:
        others = [threading.Thread(target=routine, args=(ctypes.byref(job),)) for _ in range(threads - 1)]
        for thread in others:
            thread.start()
        routine(ctypes.byref(job))
        for thread in others:
            thread.join()
    if job.failed:
        raise MemoryError("no memory for the working space of a thread")


def _openmp() -> Any:
    """Find what starts a parallel region in the OpenMP library that torch has loaded."""
    return getattr(ctypes.CDLL(None), "GOMP_parallel", None)
