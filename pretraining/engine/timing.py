"""Where the time of a step goes: seconds per phase, by the host's clock on CPUs and by events of the device on GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch


class PhaseTimer:
    """Adds up the time of named phases. Measuring never makes the host wait; reading does, once per log interval."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._events: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def __call__(self, phase: str, device: torch.device) -> Iterator[None]:
        """Time the block."""
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - started
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()  # type: ignore[no-untyped-call]
        yield
        end.record()  # type: ignore[no-untyped-call]
        self._events.append((phase, begin, end))

    def read(self) -> dict[str, float]:
        """Sum up the seconds of each phase so far."""
        for phase, begin, end in self._events:
            end.synchronize()
            self._seconds[phase] = self._seconds.get(phase, 0.0) + begin.elapsed_time(end) / 1e3
        self._events = []
        return dict(self._seconds)
