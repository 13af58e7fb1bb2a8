"""Freed memory is used again where the C library can be told so, in the processes that ask for it."""

import platform
import subprocess
import sys

import pytest

from pretraining.engine import memory

FAULTS = """
import resource, sys
from pretraining.engine.memory import keep_freed_memory
if sys.argv[1] == "keeps":
    keep_freed_memory()
import torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(40):
    if number == 30:  # blocks of one size soon fit into each other's places, not from the first
        before = faults()
    torch.ones(2**24)  # 64 MiB
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is a setting of glibc")
def test_freed_memory_is_used_again():
    pages = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keeps", "not")
    }
    assert pages["keeps"] < 0.1 * pages["not"], pages


def test_other_c_libraries_are_left_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: asked.append(name) or object())
    memory.keep_freed_memory()
    assert asked == [None]
