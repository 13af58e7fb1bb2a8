"""`python -m pretraining.new` writes code that works as it stands: its own test passes, the printed commands run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretraining import new
from pretraining.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "WANDB_MODE": "disabled",
}


def run(command, place):
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, env=SETTINGS, shell=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", new.KINDS)
def test_what_is_begun_passes_its_own_test_and_its_commands_run(kind, tmp_path):
    said = run(f"python -m pretraining.new {kind} mine directory=lab", tmp_path)
    enter, *runs, test = (line.strip() for line in said.partition("\nrun\n")[2].splitlines())
    assert enter == "cd lab" and test == "python -m pytest mine"
    run(test, tmp_path / "lab")
    for command in runs:
        run(f"{command} trainer.max_steps=2 logger.wandb.mode=disabled", tmp_path / "lab")
    assert len(list((tmp_path / "lab" / "runs").glob("*/metrics.json"))) == len(runs)


def test_each_kind_is_written_by_its_name_and_its_command_is_understood(tmp_path, monkeypatch):
    from pretraining.cli.compose import compose

    monkeypatch.chdir(tmp_path)
    for kind, root in (("objective", "pretrain"), ("task", "finetune"), ("modality", "pretrain")):
        package = new.write(kind, f"own_{kind}", Path("."))
        text = "".join(path.read_text() for path in package.rglob("*") if path.is_file())
        assert "{{" not in text and f"class Own{kind.capitalize()}(" in text
        assert (package / "conf" / ("task" if kind == "task" else "objective") / f"own_{kind}.yaml").is_file()
        for path in package.rglob("*.py"):
            compile(path.read_text(), path, "exec")
        *_, last, test = new.commands(kind, f"own_{kind}", Path("."))
        assert f"=own_{kind} " in last and test == f"python -m pytest own_{kind}"
        search = f"hydra.searchpath=[file://own_{kind}/conf]"
        given = [search, f"{'task' if kind == 'task' else 'objective'}=own_{kind}"]
        config = compose([*given, *(["handoff=any"] if kind == "task" else [])], root)
        assert config["task" if kind == "task" else "objective"]._target_.startswith(f"own_{kind}.")


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("objective", "simclr", "objective=simclr is there already: .*my_simclr"),
        ("task", "digits", "task=digits is there already"),
        ("modality", "spoken_letters", "=spoken_letters is there already"),
        ("task", "numpy", "Python knows as another package: give another name, such as my_numpy"),
        ("task", "Ink-count", "lower-case letters, digits and _, such as my_task"),
        ("objective", "class", "lower-case letters"),
        ("objective", "", "lower-case letters"),
        ("objective", "taken", "is there already: give another name, or another directory="),
    ],
)
def test_names_that_cannot_be_are_refused_in_a_line(kind, name, said, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match=said) as refusal:
        new.write(kind, name, tmp_path)
    assert "\n" not in str(refusal.value) and [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_command_refuses_an_unknown_kind(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["new", "colour", "mine"])
    with pytest.raises(SystemExit) as ended:
        new.cli()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: got colour: give one of modality, objective, task, and a name for it\n"
