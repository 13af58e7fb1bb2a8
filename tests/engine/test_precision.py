"""trainer.precision=auto is measured once: per process, and once for all that share a study."""

import functools

import pytest

from experiments.launch import run_beside_others
from pretraining.engine import precision
from tests.ranks import in_ranks


@pytest.fixture
def measured(monkeypatch):
    """Count the measurements, of a CPU that is found to be faster in bf16."""
    count = []
    monkeypatch.setattr(
        precision, "_matmul_seconds", lambda dtype: count.append(dtype) or (2.0, 1.0)[len(count) % 2 == 0]
    )
    monkeypatch.setattr(precision, "_of_this_cpu", functools.cache(precision._of_this_cpu.__wrapped__))
    return count


def test_a_process_measures_once_and_says_it_once(measured, capsys):
    chosen = [precision.choose_precision("auto", "cpu", convolves=False) for _ in range(3)]
    assert chosen == ["bf16"] * 3 and len(measured) == 2, "one product in each format"
    assert capsys.readouterr().err.count("trainer.precision=auto") == 1
    assert precision.choose_precision("auto", "cpu", convolves=True) == "fp32"
    assert precision.choose_precision("fp32", "cpu", convolves=False) == "fp32" and len(measured) == 2


def chosen_in(rank, world, study):
    found = []
    run = lambda *_: found.append(precision.choose_precision("auto", "cpu", convolves=False))  # noqa: E731
    run_beside_others(run, study, "pretraining", [])
    return found


def test_processes_of_a_study_take_what_one_of_them_found(tmp_path):
    both = in_ranks(chosen_in, 2, tmp_path)
    (kept,) = tmp_path.glob("precision-*")
    assert both == [[kept.read_text()]] * 2
    kept.write_text("fp32")
    assert in_ranks(chosen_in, 2, tmp_path) == [["fp32"]] * 2, "not anew"
