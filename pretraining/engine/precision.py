"""Which floating-point format a run computes in."""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
from pathlib import Path
from typing import Literal

import torch

from pretraining.cache import lock
from pretraining.distributed.environment import SHARED_PRECISION

Precision = Literal["auto", "fp32", "bf16", "fp64"]


def choose_precision(wanted: Precision, accelerator: Literal["cpu", "cuda"], *, convolves: bool) -> Precision:
    """Turn `auto` into bf16 on GPUs that have it and CPUs that multiply its matrices 1.5 times as fast, else into fp32.

    Convolutions that were not checked stay in fp32 on CPUs: some weight gradients are uninitialised memory there (torch
    2.15, strided 3x3 convolutions of 1x1 maps).
    """
    if wanted != "auto":
        return wanted
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if convolves:
        return "fp32"
    return _of_this_cpu()


@functools.cache
def _of_this_cpu() -> Precision:
    """Measure once per process, or once for all that share a file: runs that are compared compute alike."""
    shared = os.environ.get(SHARED_PRECISION)
    if shared is None:
        return _measured()
    with lock(Path(f"{shared}-{platform.node()}")) as file:
        file.seek(0)
        known: Precision = file.read() or _measured()  # type: ignore[assignment]
        if file.tell() == 0:
            file.write(known)
    return known


def _measured() -> Precision:
    seconds = {dtype: _matmul_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    chosen: Precision = "bf16" if ratio >= 1.5 else "fp32"
    found = f"bf16 matrix products run {ratio:.1f} x as fast as fp32 here, so {chosen}"
    print(f"trainer.precision=auto: {found}", file=sys.stderr)
    return chosen


def _matmul_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(2):
            left @ right
        best = min(best, time.perf_counter() - started)
    return best
