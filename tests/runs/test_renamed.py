"""What earlier releases called it still works, and says what it is called now."""

import importlib

import pytest
from omegaconf import OmegaConf

from pretraining.cli.compose import compose, up_to_date
from pretraining.errors import RunError
from pretraining.runs.directory import refuse_other_config
from pretraining.runs.renamed import KEYS, MODULES, current, current_overrides


def test_an_override_by_an_old_name_sets_the_new_key_and_says_so(capsys):
    assert compose(["trainer.recompute=true"]).trainer.activation_checkpointing is True
    assert "trainer.recompute is called trainer.activation_checkpointing now" in capsys.readouterr().err
    assert current_overrides(["~trainer.recompute", "+trainer.recompute=1", "trainer.recomputes=1"]) == [
        "~trainer.activation_checkpointing",
        "+trainer.activation_checkpointing=1",
        "trainer.recomputes=1",
    ]
    with pytest.raises(RunError, match="recomputes"):
        compose(["trainer.recomputes=true"])


def test_a_run_of_before_can_be_resumed_under_its_new_names(tmp_path):
    now = compose(["objective=masked_language"])
    before = OmegaConf.to_container(now)
    before["trainer"]["recompute"] = before["trainer"].pop("activation_checkpointing")
    before["trainer"]["_target_"] = "pretraining.trainer.TrainerSettings"
    refuse_other_config(OmegaConf.create(before), now, tmp_path)
    assert up_to_date(OmegaConf.create(before)) == now
    before["trainer"]["recompute"] = True
    with pytest.raises(RunError, match=r"trainer.activation_checkpointing: True before, False now"):
        refuse_other_config(OmegaConf.create(before), now, tmp_path)


def test_every_new_name_is_one_that_exists():
    assert MODULES and KEYS
    for new in MODULES.values():
        module, _, name = new.rpartition(".")
        assert not name[0].isupper() or hasattr(importlib.import_module(module), name), new
        assert name[0].isupper() or importlib.util.find_spec(new), new


def test_what_was_never_renamed_stays():
    tree = {"_target_": "pretraining.engine.trainer.TrainerSettings", "nested": [{"hidden_share": 1}], "recompute": 2}
    assert current(tree) == tree


def test_what_a_run_is_called_does_not_make_it_another_one(tmp_path):
    before, now = ({"name": name, "seed": seed} for name, seed in (("TextClassification-Full", 1), ("Other-Full", 1)))
    refuse_other_config(OmegaConf.create(before), OmegaConf.create({**now, "trust": []}), tmp_path)
    with pytest.raises(RunError, match="seed: 1 before, 2 now"):
        refuse_other_config(OmegaConf.create(before), OmegaConf.create({**now, "seed": 2}), tmp_path)
