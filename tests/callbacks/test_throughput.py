"""What a run says of its speed: rates, utilisation, the phases of a step, memory; and a trace on request."""

import csv
import json
import time

import pytest
import torch

from pretraining.callbacks.throughput import PHASES
from pretraining.engine.timing import PhaseTimer
from tests.runs import finish, text_overrides, write_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache_dir):
    path = tmp_path_factory.mktemp("runs") / "run"
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    assert finish([*text_overrides(corpus, cache_dir), f"run_dir={path}", "profile=true"]) == 0
    return path


def test_every_logged_row_says_where_the_time_went(run):
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["throughput/forward_ms"]]
    assert len(rows) == 4
    for row in rows:
        phases = {name: float(row[f"throughput/{name}_ms"]) for name in PHASES}
        assert all(value >= 0 for value in phases.values())
        assert min(phases[name] for name in ("data", "forward", "backward", "optimizer")) > 0
        assert 0 < float(row["throughput/mfu"]) < 1 and 0 <= float(row["throughput/data_wait_share"]) < 1
        assert 0.05 < float(row["throughput/peak_memory_gb"]) < 100


def test_the_phases_of_a_run_fit_into_its_time(run):
    final = json.loads((run / "metrics.json").read_text())
    inside = sum(final[f"throughput/{name}_ms"] for name in PHASES) / 1e3 * final["steps"]
    assert 0 < inside < final["seconds"]
    assert final["throughput/data_ms"] / 1e3 * final["steps"] == pytest.approx(
        final["throughput/data_wait_share"] * final["seconds"], rel=0.05
    )


def test_a_profiled_run_leaves_a_trace_and_a_table(run):
    trace = json.loads((run / "profile" / "trace-rank-0.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert any("addmm" in str(name) for name in names)
    assert "Self CPU" in (run / "profile" / "operations-rank-0.txt").read_text()


def test_a_phase_is_as_long_as_what_it_holds():
    timer, device = PhaseTimer(), torch.device("cpu")
    for _ in range(2):
        with timer("sleep", device):
            time.sleep(0.02)
    with timer("nothing", device):
        pass
    first = timer.read()
    assert first["sleep"] >= 0.04 and first["nothing"] < 0.02
    with timer("sleep", device):
        time.sleep(0.02)
    assert timer.read()["sleep"] >= first["sleep"] + 0.02
