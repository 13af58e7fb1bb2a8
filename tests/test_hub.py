"""Hand-offs go to the Hub and come back, over HTTP on loopback."""

import json
import re
import sys

import pytest
import torch
import yaml

from pretraining import export as command
from pretraining import handoff
from pretraining.errors import HandoffError
from pretraining.handoff.card import Told, card_of
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from tests.hub_stub import running

ORIGIN = {"objective": "SimCLR", "backbone": "resnet", "data": "digits", "seed": 3, "steps": 20}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def last(tmp_path):
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=4, stem="cifar")
    towers = IMAGE.towers(backbone, ImagePreprocess.imagenet())
    heads = {"projector.weight": torch.randn(2, 3)}
    handoff.write(tmp_path / "handoff" / "step-20", towers=towers, origin=ORIGIN, heads=heads)
    return tmp_path / "handoff" / "last"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["export", *words])
    command.cli()


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_a_hand_off_comes_back_as_it_was_pushed(hub, last, monkeypatch, capsys):
    run(monkeypatch, f"handoff={last}", "push=us/digits", "license=mit", "datasets=mnist,us/more")
    assert capsys.readouterr().out.startswith("http://127.0.0.1")
    files = hub.repositories["us/digits"]
    assert set(files) == {path.name for path in last.iterdir()} and hub.private["us/digits"] is True
    assert any("lfs/objects/batch" in path for path in hub.asked)
    told = header(files["README.md"].decode())
    assert (
        told["license"] == "mit" and told["library_name"] == "pretraining" and told["datasets"] == ["mnist", "us/more"]
    )
    assert told["tags"] == ["pretraining", "SimCLR", "resnet"] and told["pipeline_tag"] == "feature-extraction"
    assert "| seed | 3 |" in files["README.md"].decode()
    ours, theirs = handoff.read(str(last)), handoff.read("hf:us/digits", modality=IMAGE)
    state = theirs.backbone.state_dict()
    assert all(torch.equal(state[name], value) for name, value in ours.backbone.state_dict().items())
    assert theirs.card["origin"] == ours.card["origin"] and theirs.reference == "hf:us/digits"
    assert {**theirs.card["sha256"], "README.md": ""} == {**ours.card["sha256"], "README.md": ""}
    asked = len(hub.asked)
    assert handoff.read("random:hf:us/digits", modality=IMAGE).card["origin"]["objective"] == "random"
    assert len(hub.asked) - asked == 1  # which commit is the newest; the files are there
    run(monkeypatch, f"handoff={last}", "push=us/open", "private=false")
    assert (
        not hub.private["us/open"] and header(hub.repositories["us/open"]["README.md"].decode())["license"] == "other"
    )


def test_only_what_the_hand_off_names_is_fetched_and_nothing_from_elsewhere(hub, last, monkeypatch):
    run(monkeypatch, f"handoff={last}", "push=us/digits")
    files = hub.repositories["us/digits"]
    files["old.pkl"] = b"pickled"
    assert handoff.read("hf:us/digits", modality=IMAGE).backbone.dim == 32
    files["model.safetensors"] += b"x"
    with pytest.raises(HandoffError, match=r"model.safetensors was altered"):
        handoff.read("hf:us/digits", modality=IMAGE)
    card = json.loads(files["handoff.json"])
    card["sha256"]["../../outside"] = "0"
    files["handoff.json"] = json.dumps(card).encode()
    with pytest.raises(HandoffError, match=r"names \.\./\.\./outside, outside of the hand-off: refused"):
        handoff.read("hf:us/digits", modality=IMAGE)
    files["handoff.json"] = b"[]"
    with pytest.raises(HandoffError, match=r"hf:us/digits: its handoff.json is not readable .*push it again"):
        handoff.read("hf:us/digits", modality=IMAGE)
    del files["handoff.json"]
    with pytest.raises(HandoffError, match=r"hf:us/digits cannot be read: .*Give a name or directory that the library"):
        handoff.read("hf:us/digits", modality=IMAGE)
    hub.failing = 403
    with pytest.raises(HandoffError, match="hf:us/other cannot be read"):
        handoff.read("hf:us/other", modality=IMAGE)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["push=us/digits", "private=yes"], r"private=yes: choose true or false"),
        (["push=digits"], r"push=digits is no name of a repository: give push=ORG/NAME"),
        (["push=us/a b"], r"push=us/a b is no name of a repository: .*Give push=ORG/NAME"),
        (["push=us/digits", "output=x"], r"output= is for another form: give to=NAME, too"),
        ([], r"nothing to do: give to=NAME and output=DIR, or push=ORG/NAME"),
        (["to=transformers"], r"to=transformers: give output=DIR, or push=ORG/NAME"),
    ],
)
def test_what_cannot_be_pushed_is_one_line_before_anything_is_read(hub, words, why, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "handoff=nothing", *words)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(why, said), said
    assert not hub.asked


def test_a_missing_or_wrong_token_and_a_hub_out_of_order_are_one_line(hub, last, monkeypatch, capsys):
    def refused(*words):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, f"handoff={last}", "push=us/digits", *words)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("error: push=us/digits")
        return said

    hub.failing = 503
    assert "HfHubHTTPError" in refused() and not hub.repositories
    hub.failing = None
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "401" in refused() and not hub.repositories
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "Look at the token's rights and the network, and try again" in refused()
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a token of the Hub that may write: set HF_TOKEN, or run `hf auth login`" in refused()


def test_a_card_has_what_was_measured_with_its_intervals(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    results = {"test/accuracy": 0.75, "test/accuracy_low": 0.7, "test/accuracy_high": 0.8, "test/loss": 0.5, "steps": 9}
    told = Told(origin=ORIGIN, results=results, task="docs_topic")
    text = card_of(tmp_path, "us/topics", told)
    (model,) = header(text)["model-index"]
    assert model["name"] == "us/topics" and header(text)["pipeline_tag"] == "text-classification"
    (result,) = model["results"]
    assert result["dataset"]["name"] == "docs_topic" and result["task"]["type"] == "text-classification"
    assert [(each["type"], each["value"]) for each in result["metrics"]] == [("accuracy", 0.75), ("loss", 0.5)]
    assert "0.7 to 0.8" in result["metrics"][0]["name"]
    assert "| accuracy | 0.75 | 0.7 to 0.8 |" in text and "| loss | 0.5 |  |" in text
    assert 'transformers.BertForSequenceClassification.from_pretrained("DIR")' in text
