import json
import os
import re

import pytest
import yaml
from rich.console import Console

from experiments import launch, ls
from experiments.study.collect import load_study
from experiments.study.graph import expand
from experiments.study.spec import StudyError, exit_code
from pretraining.errors import RunError
from pretraining.runs import renamed
from tests.experiments import fabricated

COMMANDS = fabricated.COMMANDS


@pytest.fixture
def conf(tmp_path, monkeypatch):
    conf = fabricated.write_conf(tmp_path / "conf", launch.CONF, fabricated.spec(finetuning_seeds=[1, 2]))
    monkeypatch.setattr(launch, "CONF", conf)
    monkeypatch.chdir(tmp_path)
    return conf


def start(*overrides):
    return launch.main(["study=invented", *overrides], COMMANDS)


def test_a_study_ends_in_a_table_a_report_and_exit_code_zero(conf, tmp_path, capfd):
    assert start() == 0
    out = capfd.readouterr().out
    assert "studies/invented/report.html" in out
    assert "masked_language" in out
    assert "95 % interval" in out
    assert all(len(line) <= 110 for line in out.splitlines())
    assert (tmp_path / "studies" / "invented" / "report.html").exists()


def test_started_again_it_runs_nothing_and_reports_the_same(conf, tmp_path, capfd):
    start()
    calls = (tmp_path / "studies" / "invented" / "calls.txt").read_text()
    assert start() == 0
    assert (tmp_path / "studies" / "invented" / "calls.txt").read_text() == calls
    assert "18 of 18 runs are done already" in capfd.readouterr().out


def test_one_failed_run_gives_a_report_and_an_exit_code(conf, tmp_path, capfd):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / "sabotage.json").write_text(json.dumps({"digits-full-1-of-labels-simclr-s1002": "raise"}))
    assert start("study_dir=elsewhere") == 1
    out = capfd.readouterr().out
    assert "RuntimeError: out of <luck>" in out
    assert "1 of 18 runs failed" in out
    assert "out of &lt;luck&gt;" in (directory / "report.html").read_text()
    (directory / "sabotage.json").unlink()
    assert start("study_dir=elsewhere", "retry_failed=true") == 0


def test_a_metric_that_no_run_has_still_ends_in_a_report_that_says_so(conf, tmp_path, capfd):
    unknown = COMMANDS._replace(measured=lambda task: None)  # a task of one's own, which does not say
    told = launch.main(["study=invented", "+study.finetune.digits.metric=test/luck"], unknown)
    assert told == 1
    report = (tmp_path / "studies" / "invented" / "report.md").read_text()
    assert "digits, full, 1 % of labels: 4 runs have no test/luck; they have test/accuracy, " in report
    assert "test/luck" in capfd.readouterr().out


def test_an_interrupted_study_leaves_a_report(conf, tmp_path):
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / "sabotage.json").write_text(json.dumps({"digits-full-1-of-labels-simclr-s1002": "interrupt"}))
    with pytest.raises(KeyboardInterrupt):
        start("study_dir=elsewhere")
    assert "3 of 18 runs done" in (directory / "report.md").read_text()


def test_a_dry_run_says_runs_steps_and_time_and_leaves_nothing(conf, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    assert start("dry_run=true") == 0
    out = capfd.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "18 runs: 2 pretrainings, 16 finetunings; 0 are done already" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "masked_language 1 7 0:14" in lines  # seven steps of two seconds
    assert "docs_topic, full, 10 per class 4 40 at most 1:20" in lines  # forty, of as many examples
    assert "in all about 0:28 of pretraining and 21:20 of finetuning, by 1 at a time" in " ".join(lines)


def test_a_seed_can_be_added_on_the_command_line(conf, tmp_path):
    start()
    before = len((tmp_path / "studies" / "invented" / "calls.txt").read_text().split())
    assert start("study.finetuning_seeds=[1,2,3]") == 0
    after = len((tmp_path / "studies" / "invented" / "calls.txt").read_text().split())
    assert after - before == 8


def test_settings_for_every_run_come_after_its_own(conf, tmp_path):
    spec = launch.resolve_study(["study=invented", "overrides=['trainer=gpu']"])["study"]
    for node in expand(spec, directory=tmp_path, resolve=COMMANDS.resolve).nodes:
        own = "objective=" if node.cell is None else "task="
        assert node.overrides[0].startswith(own)
        assert "trainer=gpu" in node.overrides[1:]
    with pytest.raises(StudyError, match="overrides=trainer=gpu: give a list"):
        launch.main(["study=invented", "overrides='trainer=gpu'"], COMMANDS)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["study=no_such"], "no_such"),
        (["study=invented", "wrokers=2"], "wrokers"),
        (["study=invented", "workers=0"], "workers=0: give a whole number of at least 1"),
        (["study=invented", "retry_failed=maybe"], "retry_failed=maybe: give true or false"),
        (["study=invented", "dry_run=maybe"], "dry_run=maybe: give true or false"),
        (
            ["study=invented", "+study.finetune.digits.metric=test/luck"],
            "metric=test/luck is not among what .* test/accuracy",
        ),
    ],
)
def test_a_typo_is_one_error_before_any_run(conf, tmp_path, overrides, words):
    with pytest.raises(StudyError, match=words):
        launch.main(overrides, COMMANDS)
    assert not (tmp_path / "studies" / "invented" / "calls.txt").exists()


@pytest.mark.parametrize("place", ["/proc/study", "notes.txt", "notes.txt/below"])
def test_a_study_directory_that_cannot_be_made_is_one_line(conf, tmp_path, capfd, place):
    (tmp_path / "notes.txt").write_text("mine")
    assert exit_code("study", lambda: start(f"study_dir={place}")) == 2
    assert re.fullmatch(
        rf"study: study_dir={place} cannot be made or written to \(.*\): choose another study_dir\n",
        capfd.readouterr().err,
    )


def test_what_a_pretraining_is_refused_for_when_a_dry_run_times_it_is_one_line(conf, capfd):
    def refuse(overrides):
        raise RunError("data.batch_size=8 does not divide")

    refusing = COMMANDS._replace(time=refuse)
    assert exit_code("study", lambda: launch.main(["study=invented", "dry_run=true"], refusing)) == 2
    assert capfd.readouterr().err == "study: data.batch_size=8 does not divide\n"


def test_a_study_needs_a_question_what_to_pretrain_and_what_to_finetune(conf, tmp_path):
    least = {key: fabricated.SPEC[key] for key in ("question", "pretrain", "finetune")}
    (conf / "study" / "least.yaml").write_text(yaml.safe_dump(least))
    assert launch.main(["study=least"], COMMANDS) == 0
    study = load_study(tmp_path / "studies" / "least")
    assert study.name == "least" and len(study.nodes) == 2 + 2 * 2 * 2  # one seed of each, and the twins
    assert launch.main(["study=least", "study.name=other", "study.finetuning_seeds=[1,2]"], COMMANDS) == 0
    assert len(load_study(tmp_path / "studies" / "other").nodes) == 2 + 2 * 2 * 2 * 2


STUDIES = sorted(path.stem for path in (launch.CONF / "study").glob("*.yaml"))
FAST = ("first_look", "towers")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in STUDIES]
)
def test_every_study_shipped_expands_against_the_real_configuration(tmp_path, name):
    config = launch.resolve_study([f"study={name}"])
    study = expand(config["study"], directory=tmp_path, resolve=launch.resolve_config)
    assert study.name == name
    assert study.nodes


def test_a_key_of_before_is_resolved_under_its_name_of_now(capsys, monkeypatch):
    monkeypatch.setitem(renamed.KEYS, "trainer.most_steps", "trainer.max_steps")
    for place in ("here", "there"):
        config = launch.resolve_config("pretraining", ["trainer.most_steps=7", f"run_dir={place}"])
        assert config["trainer"]["max_steps"] == 7
    assert capsys.readouterr().err.count("trainer.most_steps is called trainer.max_steps now") == 1


def test_a_study_that_another_release_began_is_refused_with_what_to_do(conf, tmp_path):
    start("study.finetuning_seeds=[1]")
    study = tmp_path / "studies" / "invented"
    content = json.loads((study / "study.json").read_text())
    del content["format"]
    (study / "study.json").write_text(json.dumps(content))
    with pytest.raises(StudyError, match=r"holds a study of another release.*choose another study_dir="):
        start("study.finetuning_seeds=[1]")
    assert load_study(study).nodes  # which a report and ls still read


def test_ls_tells_how_a_study_stands(conf, tmp_path):
    start("study.finetuning_seeds=[1]")
    study = tmp_path / "studies" / "invented"
    node = json.loads((study / "study.json").read_text())["nodes"][-1]["name"]
    state = json.loads((study / "state" / f"{node}.json").read_text())
    (study / "state" / f"{node}.json").write_text(json.dumps(state | {"status": "running", "pid": os.getpid()}))
    console = Console(width=300, record=True)
    console.print(ls.study_table([study], {}))
    assert "docs_topic, frozen, 10 per class: never pretrained (masked_language), seed 1001" in console.export_text()
