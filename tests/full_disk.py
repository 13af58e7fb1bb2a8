"""A disk that fills up: what this process opens for writing takes so many bytes, and not one more."""

import errno
import io
import os
import pathlib
from contextlib import contextmanager


class Disk:
    """Counts what is written to files whose names hold `part`, and is full after `room` bytes of it."""

    def __init__(self, room, part=""):
        self.room, self.part = room, part

    def take(self, size):
        if size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size


class _File(io.FileIO):
    disk = None

    def write(self, data):
        self.disk.take(memoryview(data).nbytes)
        return super().write(data)


@contextmanager
def full_disk(monkeypatch, room, part=""):
    """Let the disk be full inside the block after `room` bytes."""
    disk, whole = Disk(room, part), pathlib.Path.open

    def opened(path, mode="r", *arguments, **options):
        if not set(mode) & set("wax") or disk.part not in path.name:
            return whole(path, mode, *arguments, **options)
        file = _File(path, mode.replace("b", "").replace("t", ""))
        file.disk = disk
        binary = io.BufferedWriter(file)
        return (
            binary if "b" in mode else io.TextIOWrapper(binary, options.get("encoding"), newline=options.get("newline"))
        )

    def allocated(descriptor, offset, size):
        disk.take(size)

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "open", opened)
        patched.setattr(os, "posix_fallocate", allocated)
        yield disk
