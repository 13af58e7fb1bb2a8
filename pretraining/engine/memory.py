"""Memory of the process: freed blocks are kept for the next tensors."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks of any size for reuse; other C libraries are left alone.

    By default glibc returns blocks of 32 MiB and more at once. A feature map of that size is then new memory in each
    step, which the kernel clears page by page: about a seventh of a step of SimCLR.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
