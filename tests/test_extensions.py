"""An installed package that names its options in an entry point is found by every command; its classes are trusted."""

import importlib
import os
import shutil
from pathlib import Path

import pytest

from pretraining.errors import RunError
from tests.forked import run_module

read = importlib.import_module("pretraining.handoff.read")  # the package has a function of that name
ROOT = Path(__file__).resolve().parents[1]


def install(place, value="shiny.conf"):
    """Lay a package out as pip would: tests/new_objective under another name, and the record of its entry point."""
    shutil.copytree(ROOT / "tests" / "new_objective", place / "shiny")
    yaml = place / "shiny" / "conf" / "objective" / "brightness.yaml"
    first, rest = yaml.read_text().replace("tests.new_objective", "shiny").split("\n", 1)
    yaml.write_text(f"{first}\n# How bright it is.\n{rest}")
    yaml.rename(yaml.with_name("shiny.yaml"))
    record = place / "shiny-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: shiny\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text(f"[pretraining.conf]\nshiny = {value}\n")
    return place


def run(place, *words):
    settings = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{place}"}
    return run_module(*words, cwd=place, env=settings)


def test_its_options_are_named_by_help_and_found(tmp_path):
    place = install(tmp_path)
    assert "shiny                 How bright it is." in run(place, "pretraining", "--help").stdout
    ended = run(place, "pretraining", "objective=shiny", "--cfg", "job")
    assert "_target_: shiny.brightness.Brightness" in ended.stdout, ended.stderr


def test_its_classes_are_trusted_in_hand_offs(monkeypatch):
    assert "shiny." not in read.trusted_packages(None)
    monkeypatch.setattr(read, "conf_folders", lambda: {"shiny": Path("shiny/conf")})
    assert "shiny." in read.trusted_packages(None)
    assert read.class_in(read.trusted_packages(None), "pathlib.Path") is None  # nobody else's


@pytest.mark.parametrize(("package", "root"), [("pretraining", "pretrain"), ("experiments", "study")])
def test_an_entry_point_that_names_no_folder_is_refused_in_a_line(tmp_path, package, root):
    ended = run(install(tmp_path, "shiny.settings"), package, "--help")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: the entry point shiny = 'shiny.settings' (pretraining.conf) is no folder of")
    assert ended.stderr.count("\n") == 1


def test_finetuning_and_studies_find_them_too(tmp_path, monkeypatch):
    from pretraining.cli.compose import compose

    for group, text in (
        ("task", "# @package _global_\ntask: {select: shine}\n"),
        ("study", "question: Does it shine?\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "shiny.yaml").write_text(text)
    monkeypatch.setattr("pretraining.cli.compose.conf_folders", lambda: {"shiny": tmp_path})
    assert compose(["handoff=any", "task=shiny"], "finetune").task.select == "shine"
    assert compose(["study=shiny"], "study").study.question == "Does it shine?"
    monkeypatch.setattr("pretraining.cli.compose.conf_folders", dict)
    with pytest.raises(RunError, match="task=shiny: there is no such option"):
        compose(["handoff=any", "task=shiny"], "finetune")
