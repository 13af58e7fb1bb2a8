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
def test_what_is_begun_passes_its_own_tests_and_the_printed_commands_run(tmp_path):
    said = {kind: run(f"python -m pretraining.new {kind} my_{kind} directory=lab", tmp_path) for kind in new.KINDS}
    lines = {kind: [line.strip() for line in text.partition("\nrun\n")[2].splitlines()] for kind, text in said.items()}
    assert all(lines[kind][0] == "cd lab" and lines[kind][-1] == f"python -m pytest my_{kind}" for kind in new.KINDS)
    run(f"python -m pytest -p no:cacheprovider {' '.join(f'my_{kind}' for kind in new.KINDS)}", tmp_path / "lab")
    for command in lines["modality"][1:-1]:  # which pretrains and finetunes
        run(f"{command} trainer.max_steps=2 logger.wandb.mode=disabled", tmp_path / "lab")
    assert len(list((tmp_path / "lab" / "runs").glob("*/metrics.json"))) == 2


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
        ("objective", "größe", "lower-case letters"),
        ("objective", "null", "lower-case letters"),
        ("objective", "", "lower-case letters"),
        ("objective", "taken", "is there already: give another name, or another directory="),
    ],
)
def test_names_that_cannot_be_are_refused_in_a_line(kind, name, said, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match=said) as refusal:
        new.write(kind, name, tmp_path)
    assert "\n" not in str(refusal.value) and [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["colour", "mine"], "got colour: give one of modality, objective, task, and a name for it"),
        ([], "got nothing: give one of modality, objective, task, and a name for it"),
        (["task", "mine", "place=x"], "got 'place=x', but this command takes directory="),
        (["task", "mine", "directory=file"], "directory=file cannot be written to (Not a directory): give another"),
    ],
)
def test_the_command_refuses_what_it_cannot_do_in_a_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(sys, "argv", ["new", *words])
    with pytest.raises(SystemExit) as ended:
        new.cli()
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {said}\n"
