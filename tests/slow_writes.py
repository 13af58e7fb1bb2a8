"""Checkpoints that take long to write, so that a test can interrupt one. Imports nothing slow."""

import os
import time


def slow_checkpoints(seconds):
    """Make each checkpoint's write in this process last `seconds` longer, while its file is incomplete."""
    sync = os.fsync

    def slow(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".ckpt.writing"):
            time.sleep(seconds)
        sync(descriptor)

    os.fsync = slow
