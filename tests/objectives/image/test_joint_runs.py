"""Whole runs of each joint-embedding objective, from its yaml: cut and resumed they end alike, and are handed over."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pretraining import evaluate
from pretraining.cli.configuration import compose
from pretraining.launch import main
from tests.runs import assert_equal, assert_plain

OBJECTIVES = ("byol", "simsiam", "vicreg", "barlow_twins", "moco_v2", "moco_v3", "dino", "swav", "ibot", "i_jepa")
TEACHERS = {"dino", "ibot", "i_jepa"}  # handed over; other methods hand over the student
SMALL = {
    "moco_v2": ["objective.contrast.queue=40"],
    "swav": ["objective.codes.queue=48", "objective.codes.freeze_steps=1"],
    "dino": ["objective.distillation.freeze_steps=1", "objective.distillation.teacher_temperature.steps=6",
             "objective.distillation.teacher_temperature.last=0.07"],
}  # fmt: skip
SMALL["ibot"] = SMALL["dino"]


def run(name, path, cache_dir, *overrides):
    settings = ["trainer.max_steps=4", "trainer.checkpoint_every=2", "trainer.log_every=2", "trainer.val_every=2",
                "trainer.precision=fp32", "data.batch_size=16", "logger.wandb.mode=disabled", "logger.progress=false",
                f"data.cache_dir={cache_dir}", f"run_dir={path}", *SMALL.get(name, [])]  # fmt: skip
    if name not in ("dino", "ibot", "i_jepa"):
        settings.append("backbone.width=8")
    return main(compose([f"objective={name}", *settings, *overrides]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache_dir):
    made = {}

    def get(name):
        if name not in made:
            made[name] = run(name, tmp_path_factory.mktemp("runs") / name, cache_dir)
        return made[name]

    return get


def state(path, step):
    return torch.load(path / "checkpoints" / f"step-{step:07d}.ckpt", weights_only=True)["state_dict"]


FAST = ("byol", "swav")  # with a teacher, and with a queue


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES]
)
def test_a_run_that_was_cut_ends_as_one_that_was_not(name, runs, tmp_path, cache_dir):
    whole = runs(name)
    shutil.copytree(whole, tmp_path / "cut")
    for path in [*tmp_path.glob("cut/checkpoints/step-0000004.*"), tmp_path / "cut" / "metrics.json"]:
        path.unlink()
    shutil.rmtree(tmp_path / "cut" / "handoff")
    cut = run(name, tmp_path / "cut", cache_dir, "resume=auto")
    assert_equal(state(whole, 4), state(cut, 4), "state_dict")
    moved = {key for key, value in state(whole, 2).items() if not torch.equal(value, state(whole, 4)[key])}
    for part in ("teacher.backbone", "queue.rows", "centre.value", "temperature_now", "prototypes"):
        if any(key.startswith(part) for key in state(whole, 4)):
            assert any(key.startswith(part) for key in moved), part
    numbers = [json.loads((path / "metrics.json").read_text()) for path in (whole, cut)]
    same = [name for name in numbers[0] if name.startswith(("validation/", "probe/"))]
    assert "validation/spread" in same and all(numbers[0][name] == numbers[1][name] for name in same)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_card_says_which_network_was_handed_over_and_that_it_is(name, runs):
    path = runs(name) / "handoff" / "last"
    card, final = json.loads((path / "handoff.json").read_text()), state(runs(name), 4)
    part = "teacher.backbone" if name in TEACHERS else "backbone"
    taught = any(key.startswith("teacher.") for key in final)
    assert card["origin"].get("network") == ((part.split(".")[0].replace("backbone", "student")) if taught else None)
    assert not taught or f"| network | {card['origin']['network']} |" in (path / "README.md").read_text()
    written = load_file(path / "model.safetensors")
    assert written and all(torch.equal(value, final[f"{part}.model.{key}"]) for key, value in written.items())
    assert_plain(runs(name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_hand_off_has_the_loss_that_its_run_measured(name, runs, cache_dir):
    given = [f"handoff={runs(name)}/handoff/last", "data=digits", f"data.cache_dir={cache_dir}"]
    measured = evaluate.evaluate(compose(given, root="evaluate"))
    final = json.loads((runs(name) / "metrics.json").read_text())
    shared = [key for key in measured if key.startswith("validation/")]
    assert "validation/loss" in shared and "validation/spread" in shared
    for key in shared:
        assert measured[key] == pytest.approx(final[key], rel=1e-4), key


def test_the_other_network_is_handed_over_where_that_is_asked_for(tmp_path, cache_dir):
    path = run("byol", tmp_path / "run", cache_dir, "objective.export=teacher")
    written, final = load_file(path / "handoff" / "last" / "model.safetensors"), state(path, 4)
    assert all(torch.equal(value, final[f"teacher.backbone.model.{key}"]) for key, value in written.items())
    measured = evaluate.evaluate(
        compose([f"handoff={path}/handoff/last", "data=digits", f"data.cache_dir={cache_dir}"], root="evaluate")
    )
    assert measured["validation/loss"] == pytest.approx(
        json.loads((path / "metrics.json").read_text())["validation/loss"], rel=1e-4
    )


def test_a_run_that_collapses_says_so_at_its_end(tmp_path, cache_dir, capsys):
    """Embeddings start in one point, and a rate of next to nothing leaves them there."""
    flat = ["+objective.projector.init_std=1e-30", "optimizer.peak_lr=1e-12"]
    run("simsiam", tmp_path / "run", cache_dir, *flat, "objective.projector.output_norm=none")
    assert "this run has collapsed: spread " in capsys.readouterr().err
    run("simsiam", tmp_path / "other", cache_dir)
    assert "collapsed" not in capsys.readouterr().err
