"""Damage to hand-offs and to what runs leave, that once ended in a traceback: one line that names the file."""

import json
import shutil

import pytest

from experiments import ls
from finetuning.saving import saved_facts
from pretraining import handoff
from pretraining.cache import read_object
from pretraining.errors import HandoffError, RunError
from pretraining.runs.checkpoint_files import newest_valid
from pretraining.runs.directory import read_config
from tests.fuzz import line_of

DEEP = b"[" * 100_000


# -- hand-offs and runs ------------------------------------------------------------------------------------------------

CARDS = [
    (("towers",), None), (("towers",), {}), (("towers", "text"), "x"), (("towers", "text", "directory"), 3),
    (("towers", "text", "backbone", "_target_"), ["a"]), (("towers", "text", "backbone", "kwargs"), []),
    (("towers", "text", "backbone", "kwargs", "config"), 7), (("origin",), None), (("sha256",), []),
    (("towers", "text", "backbone", "kwargs", "config", "num_attention_heads"), -1),
    (("towers", "text", "backbone", "kwargs", "config", "hidden_size"), 24),
    (("towers", "text", "backbone", "kwargs", "config", "model_type"), {}),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), CARDS)
def test_a_card_that_was_damaged_is_named(place, value, handoffs, tmp_path):
    copy = shutil.copytree(handoffs["text"], tmp_path / "copy")
    card = part = json.loads((copy / "handoff.json").read_text())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (copy / "handoff.json").write_text(json.dumps(card))
    with pytest.raises(HandoffError) as caught:
        handoff.read(str(copy))
    line_of(caught, copy)


def test_a_preparation_that_was_damaged_is_named(handoffs, tmp_path):
    copy = shutil.copytree(handoffs["image"], tmp_path / "copy")
    card = json.loads((copy / "handoff.json").read_text())
    card["towers"]["image"]["preprocess"]["kwargs"]["mean"][0] = None
    (copy / "handoff.json").write_text(json.dumps(card))
    with pytest.raises(HandoffError, match=r"preprocess\.mean") as caught:
        handoff.read(str(copy))
    line_of(caught, copy)


@pytest.mark.parametrize("content", [DEEP, b"\xff{}", b"[]", b""])
def test_a_card_that_is_no_json_is_named(content, handoffs, tmp_path):
    copy = shutil.copytree(handoffs["text"], tmp_path / "copy")
    (copy / "handoff.json").write_bytes(content)
    with pytest.raises(HandoffError, match="is not readable") as caught:
        handoff.read(str(copy))
    line_of(caught, copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_of_a_home_library_that_were_damaged_are_named(name, handoffs, tmp_path):
    from pretraining.text.modality import TEXT

    copy = shutil.copytree(handoffs["text"], tmp_path / "copy")
    for content in (b"[]", b"{", (copy / name).read_bytes()[: (copy / name).stat().st_size // 2]):
        (copy / name).write_bytes(content)
        with pytest.raises(HandoffError, match="cannot be read") as caught:
            handoff.read(f"hf:{copy}", modality=TEXT)
        line_of(caught, copy)


@pytest.mark.parametrize("content", [b"", b"a: [", b"\xff", b"[]", b"a: b: c", b"a: ${b}", b"!!python/object:os.x {}"])
def test_a_recorded_configuration_that_was_damaged_is_named(content, tmp_path):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(RunError, match="is damaged") as caught:
        read_config(tmp_path / "config.yaml")
    line_of(caught, tmp_path / "config.yaml")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", DEEP])
def test_numbers_that_were_damaged_are_named(content, tmp_path, capsys):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(RunError, match="is damaged") as caught:
        read_object(tmp_path / "metrics.json")
    line_of(caught, tmp_path / "metrics.json")
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    assert ls.exit_code("ls", lambda: ls.main([str(tmp_path)])) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"ls: {tmp_path / 'metrics.json'} is damaged")


@pytest.mark.parametrize("facts", [b"{}", b"[]", b'{"size": 1}', b"\xff"])
def test_a_checkpoint_whose_facts_were_damaged_is_passed_over(facts, tmp_path, capsys):
    (tmp_path / "step-0000001.ckpt").write_bytes(b"x")
    (tmp_path / "step-0000001.json").write_bytes(facts)
    assert newest_valid(tmp_path) is None and "is passed over" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{}", b'{"labels": null}', b'{"labels": {}, "neighbours": []}', b"{"])
def test_what_a_finished_run_says_of_its_model_is_checked(content, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "task.json").write_bytes(content)
    with pytest.raises(RunError, match="is damaged") as caught:
        saved_facts(tmp_path)
    line_of(caught, "task.json")
