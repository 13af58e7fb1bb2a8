"""Two ranks that share the weights out (FSDP2) train what one process trains: layers left out, steps by duration."""

import pytest

from tests.audio.test_runs import overrides
from tests.distributed.test_fsdp import SHARDED
from tests.distributed.test_ranks import assert_same_numbers
from tests.runs import finish


@pytest.mark.slow
def test_layers_left_out_and_steps_by_duration_are_those_of_one_process(cache_dir, tmp_path):
    mine = [*overrides("masked_units", cache_dir), "data.batch_seconds=12", "backbone.layerdrop=0.4"]
    mine += ["trainer.precision=fp64", "trainer.max_steps=4", "trainer.log_every=1"]
    mine += [f"backbone.encoder.{name}_dropout=0" for name in ("hidden", "attention", "activation")]
    mine += ["backbone.encoder.feat_proj_dropout=0"]
    for name, strategy in {"one": [], "two": SHARDED}.items():
        assert finish([*strategy, *mine, f"run_dir={tmp_path / name}"]) == 0
    assert_same_numbers(tmp_path / "one", tmp_path / "two", 1e-9)
