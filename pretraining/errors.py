"""Errors that a command line prints as one message."""

from __future__ import annotations


class RunError(ValueError):
    """A mistake in what the user asked for: printed as one message, exit code 2."""


class HandoffError(ValueError):
    """A hand-off that cannot be used, with what to do about it."""


class CheckpointError(OSError):
    """A checkpoint that could not be written; the ones before it are untouched."""


class Preempted(SystemExit):
    """Raised on every rank once the checkpoint is on disk."""


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a number, with the step it happened in."""
