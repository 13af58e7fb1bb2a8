"""Errors that a command line prints as one message."""

from __future__ import annotations

import errno
import re
from pathlib import Path

NO_STATISTICS = "Expected more than 1 value per channel"  # in what torch raises of batch normalisation


class RunError(ValueError):
    """A mistake in what the user asked for: printed as one message, exit code 2."""


class HandoffError(RunError):
    """A hand-off that cannot be used, with what to do about it."""


class CheckpointError(OSError):
    """A checkpoint that could not be written; the ones before it are untouched."""


class NoSpaceError(OSError):
    """A full disk: the directory, and about how much was to be written into it."""

    def __init__(self, directory: Path, needed: int) -> None:
        super().__init__(errno.ENOSPC, f"no space left on {directory}: needs about {max(1, round(needed / 1e6))} MB")

    def __str__(self) -> str:
        return str(self.strerror)


class Preempted(SystemExit):
    """Raised on every rank once the checkpoint is on disk."""


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a number, with the step it happened in."""


def reason_of(error: BaseException) -> str:
    """Word what a library raised on one line, without the address of the object that it was given."""
    told = " ".join(re.sub(r" ?<[\w.]+ object at 0x\w+>", "", str(error)).split())
    return told[:300] or type(error).__name__


def out_of_memory(batch_size: int, ranks: int, accumulate: int, error: BaseException) -> RunError:
    """Explain an exhausted GPU: the micro-batch that did not fit, and the next way to cut a step."""
    micro, share = batch_size // (ranks * accumulate), batch_size // ranks
    finer = next((parts for parts in range(accumulate + 1, share + 1) if share % parts == 0), None)
    advice = f"try trainer.accumulate={finer}" if finer else "lower data.batch_size or take a smaller backbone"
    detail = str(error).split("\n")[0]
    told = f"out of memory with micro-batches of {micro} examples"
    return RunError(f"{told}: {advice} (the result stays the same). {detail}")


def too_few_for_statistics(batch_size: int, ranks: int, accumulate: int) -> RunError:
    """Explain why batch normalisation refuses a micro-batch."""
    micro = batch_size // (ranks * accumulate)
    told = f"batch normalisation gets a single value per channel from micro-batches of {micro}"
    return RunError(f"{told}: raise data.batch_size" + (" or lower trainer.accumulate" if accumulate > 1 else ""))
