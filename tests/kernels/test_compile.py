"""C code runs in several threads at once, and a thread that finds no memory is an error."""

import ctypes
import threading

import pytest
import torch

from pretraining.kernels import compile as native


class Job(ctypes.Structure):
    _fields_ = (("failed", ctypes.c_int64),)


@pytest.fixture(params=["torch's threads", "python's"])
def three_threads(request, monkeypatch):
    if request.param == "python's":
        monkeypatch.setattr(native, "_openmp", lambda: None)
    elif native._openmp() is None:
        pytest.skip("torch's OpenMP does not take GNU's calls; with others: the same test in python's threads")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (9, 3)])
def test_each_of_so_many_threads_calls_once(three_threads, most, expected):
    together, callers = threading.Barrier(expected), []

    @ctypes.CFUNCTYPE(None, ctypes.POINTER(Job))
    def routine(job):
        together.wait(30)  # breaks, and the count is too low, unless all are there at once
        callers.append(threading.get_ident())

    native.in_threads(routine, Job(), most=most)
    assert len(callers) == len(set(callers)) == expected


def test_a_thread_without_memory_is_an_error(three_threads):
    @ctypes.CFUNCTYPE(None, ctypes.POINTER(Job))
    def routine(job):
        job.contents.failed = 1

    with pytest.raises(MemoryError, match="no memory for the working space of a thread"):
        native.in_threads(routine, Job(), most=2)
