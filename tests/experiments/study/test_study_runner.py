import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.study.graph import expand
from experiments.study.runner import Here, Journal, Processes, lock_study, run_study
from experiments.study.spec import StudyError
from tests.experiments import fabricated


@pytest.fixture
def study(tmp_path):
    return expand(fabricated.spec(finetuning_seeds=[1, 2]), directory=tmp_path, resolve=fabricated.resolve)


def carry_out(study, *, workers=1, retry_failed=False):
    watch = fabricated.Silent()
    executor = (
        Here(study.directory, fabricated.run) if workers == 1 else Processes(study.directory, fabricated.run, workers)
    )
    try:
        return run_study(study, executor=executor, watch=watch, retry_failed=retry_failed), watch
    finally:
        executor.close()


def calls(study):
    path = study.directory / "calls.txt"
    return path.read_text().split() if path.exists() else []


def sabotage(study, **acts):
    (study.directory / "sabotage.json").write_text(json.dumps(acts))


def test_everything_runs_once_and_then_never_again(study):
    status, _ = carry_out(study)
    assert set(status.values()) == {"done"}
    assert calls(study) == [node.name for node in study.nodes]
    status, watch = carry_out(study)
    assert set(status.values()) == {"done"}
    assert len(calls(study)) == len(study.nodes)
    assert watch.seen == []


def test_a_failed_run_is_written_down_and_the_rest_goes_on(study):
    broken = study.nodes[4]
    sabotage(study, **{broken.name: "raise"})
    status, _ = carry_out(study)
    assert [name for name, state in status.items() if state != "done"] == [broken.name]
    state = Journal(study.directory).read(broken)
    assert state["error"] == "RuntimeError: out of <luck>"
    assert "Traceback" in (study.directory / "logs" / f"{broken.name}.txt").read_text()


def test_what_needs_a_failed_run_is_skipped(study):
    sabotage(study, **{study.nodes[0].name: "raise"})
    status, _ = carry_out(study)
    children = [node for node in study.nodes if node.needs == study.nodes[0].name]
    assert children
    assert {status[node.name] for node in children} == {"skipped"}
    assert list(status.values()).count("done") == len(study.nodes) - 1 - len(children)


def test_failed_runs_are_left_alone_until_asked_for(study):
    sabotage(study, **{study.nodes[0].name: "raise"})
    carry_out(study)
    (study.directory / "sabotage.json").unlink()
    before = len(calls(study))
    status, _ = carry_out(study)
    assert status[study.nodes[0].name] == "failed"
    assert len(calls(study)) == before
    status, _ = carry_out(study, retry_failed=True)
    assert set(status.values()) == {"done"}


def test_an_interrupted_study_goes_on_where_it_was(study):
    sabotage(study, **{study.nodes[5].name: "interrupt"})
    with pytest.raises(KeyboardInterrupt):
        carry_out(study)
    assert Journal(study.directory).read(study.nodes[5])["status"] == "running"
    left_behind = study.run_dir(study.nodes[5])
    left_behind.mkdir(parents=True)
    (left_behind / "half.txt").write_text("half")
    (study.directory / "sabotage.json").unlink()
    status, _ = carry_out(study)
    assert set(status.values()) == {"done"}
    assert len(calls(study)) == len(study.nodes) + 1
    assert not (left_behind / "half.txt").exists()


def test_a_run_whose_numbers_are_gone_is_not_done(study):
    carry_out(study)
    (study.run_dir(study.nodes[3]) / "metrics.json").unlink()
    carry_out(study)
    assert calls(study)[-1] == study.nodes[3].name


def test_adding_a_seed_runs_just_that(study):
    carry_out(study)
    more = expand(fabricated.spec(finetuning_seeds=[1, 2, 3]), directory=study.directory, resolve=fabricated.resolve)
    before = len(calls(study))
    carry_out(more)
    assert len(calls(study)) - before == 2 * 2 * 2
    assert all("s1003" in name for name in calls(study)[before:])


def test_what_a_run_prints_goes_to_its_log_also_from_below_python(study, capfd):
    carry_out(study)
    assert "speaks" not in capfd.readouterr().out
    log = (study.directory / "logs" / f"{study.nodes[0].name}.txt").read_text()
    assert "the run speaks" in log
    assert "its child speaks" in log


def test_two_processes_share_the_runs_and_one_that_dies_takes_only_its_own(study):
    victim = study.nodes[6]
    sabotage(study, **{victim.name: "die"})
    status, _ = carry_out(study, workers=2)
    assert [name for name, state in status.items() if state != "done"] == [victim.name]
    assert "died" in Journal(study.directory).read(victim)["error"]
    assert sorted(calls(study)) == sorted(node.name for node in study.nodes)


def test_a_second_runner_of_the_same_study_is_refused(tmp_path):
    with lock_study(tmp_path), pytest.raises(StudyError, match="another process runs the study"), lock_study(tmp_path):
        pass
    with lock_study(tmp_path):
        pass


STUDY_OF_TWO_PROCESSES = """
import sys
from pathlib import Path
from tests.experiments import fabricated
from test_study_runner import carry_out
from experiments.study.graph import expand
if __name__ == "__main__":
    spec = fabricated.spec(finetuning_seeds=[1, 2])
    carry_out(expand(spec, directory=Path(sys.argv[1]), resolve=fabricated.resolve), workers=2)
"""


def test_a_study_killed_outright_takes_its_processes_along_and_goes_on_later(study):
    sleeper = study.nodes[2]
    sabotage(study, **{sleeper.name: "sleep"})
    script = study.directory / "main.py"
    script.write_text(STUDY_OF_TWO_PROCESSES)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])])
    parent = subprocess.Popen(
        [sys.executable, str(script), str(study.directory)], env=os.environ | {"PYTHONPATH": paths}
    )
    deadline = time.time() + 60
    while Journal(study.directory).read(sleeper).get("status") != "running" and time.time() < deadline:
        time.sleep(0.1)
    child = Journal(study.directory).read(sleeper)["pid"]
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and time.time() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    (study.directory / "sabotage.json").unlink()
    status, _ = carry_out(study)
    assert set(status.values()) == {"done"}
