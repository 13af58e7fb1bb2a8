"""`pretraining.export`: the forms that modalities name, whole or not at all."""

import json
import sys

import pytest

from pretraining import export as command
from pretraining import handoff
from pretraining.errors import HandoffError, RunError
from pretraining.export import export
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess


def write_dim(given, directory, *, digits="1"):
    (directory / "dim.txt").write_text(f"{given.backbone.dim:0{digits}}")


def write_half(given, directory):
    (directory / "half.txt").write_text("half")
    raise RunError("there is no other half")


@pytest.fixture
def given(tmp_path, monkeypatch):
    forms = {"dim": f"{__name__}.write_dim", "half": f"{__name__}.write_half"}
    monkeypatch.setattr(type(IMAGE), "writers", forms)
    shape = {"name": "resnet", "layers": [1, 1, 1, 1], "width": 4, "stem": "cifar"}
    towers = IMAGE.towers(TorchvisionBackbone(**shape), ImagePreprocess.imagenet())
    return handoff.write(tmp_path / "handoff" / "step-1", towers=towers, origin={"objective": "SimCLR"}, heads={})


def test_a_form_is_what_the_modality_names(given, tmp_path):
    assert export(handoff.read(str(given)), "dim", tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"dim.txt", "README.md"}
    assert (tmp_path / "a" / "b" / "dim.txt").read_text() == "32"
    export(handoff.read(str(given)), "dim", tmp_path / "c", digits="5")
    assert (tmp_path / "c" / "dim.txt").read_text() == "00032"


def test_a_form_is_whole_or_absent(given, tmp_path):
    with pytest.raises(RunError, match="no other half"):
        export(handoff.read(str(given)), "half", tmp_path / "out" / "half")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    with pytest.raises(RunError, match=r"output=.*full holds something already: give a new directory"):
        export(handoff.read(str(given)), "dim", tmp_path / "full")
    assert (tmp_path / "full" / "mine").read_text() == "mine"


def test_an_unknown_form_or_option_is_refused_with_what_there_is(given, tmp_path):
    with pytest.raises(RunError, match=r"to=onx: a hand-off of image is written as dim, half"):
        export(handoff.read(str(given)), "onx", tmp_path / "a")
    with pytest.raises(RunError, match=r"int8= is not for to=dim: leave it out"):
        export(handoff.read(str(given)), "dim", tmp_path / "a", int8="true")


def test_what_several_networks_learnt_together_is_asked_of_their_objective(given):
    whole = handoff.read(str(given))
    whole.towers |= {"other": whole.tower}
    with pytest.raises(HandoffError, match=r"holds image, other: choose one with tower="):
        command.modality_of(whole)
    whole.card["recipe"] = {"objective": {"_target_": "pretraining.objectives.pairs.clip.Clip"}}
    assert str(command.modality_of(whole)) == "pairs"
    whole.card["recipe"] = {"objective": {"_target_": "subprocess.Popen"}}
    with pytest.raises(HandoffError, match=r"'subprocess.Popen', which is no objective of this package: refused"):
        command.modality_of(whole)


def test_the_command_prints_the_directory_and_ends_with_one_line_on_mistakes(given, tmp_path, monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["export", *words])
        command.cli()

    run(f"handoff={given}", "to=dim", f"output={tmp_path / 'out'}")
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    for words in (["to=onx", "output=x"], ["output=x"], ["to=dim", "outptu=x"]):
        with pytest.raises(SystemExit, match="2"):
            run(f"handoff={given}", *words)
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert json.loads((given / "handoff.json").read_text())["version"] == handoff.VERSION
