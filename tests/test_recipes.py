"""Recipes: their numbers are the published ones, and their small twins run and reach the loss that they announce."""

import json
import re
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from pretraining.cli.configuration import CONF, compose
from pretraining.launch import main
from tests.runs import assert_plain

RECIPES = ("bert_base", "roberta_base", "bert_24h", "bart_base", "t5_small", "gpt2_small")

# (optimizer: class, peak rate, warm-up, schedule, decay, betas, eps), rows, tokens per row, steps, clipping, vocabulary
PUBLISHED = {
    "bert_base": (("AdamW", 1e-4, 10_000, "linear", 0.01, [0.9, 0.999], 1e-6), 256, 128, 900_000, 1.0, 30522),
    "roberta_base": (("AdamW", 6e-4, 24_000, "linear", 0.01, [0.9, 0.98], 1e-6), 8192, 512, 500_000, None, 50265),
    "bert_24h": (("AdamW", 1e-3, 1_380, "linear", 0.01, [0.9, 0.98], 1e-6), 4096, 128, None, None, 30522),
    "bart_base": (("AdamW", 4e-4, 10_000, "linear", 0.01, [0.9, 0.999], 1e-8), 8192, 512, 500_000, 0.1, 50265),
    "t5_small": (("Adafactor", 0.01, 0, "constant", 0.0, None, None), 128, 512, 2**19, None, 32128),
    "gpt2_small": (("AdamW", 6e-4, 2_000, "cosine", 0.1, [0.9, 0.95], 1e-8), 480, 1024, 600_000, 1.0, 50257),
}
SIZES = {  # of the backbone: layers and width
    "bert_base": (12, 768),
    "roberta_base": (12, 768),
    "bert_24h": (24, 1024),
    "bart_base": (6, 768),
    "t5_small": (6, 512),
    "gpt2_small": (12, 768),
}


def test_every_recipe_is_checked_here():
    assert set(RECIPES) == set(PUBLISHED) == set(SIZES)
    for name in RECIPES:
        assert (Path(CONF) / "experiment" / f"{name}.yaml").is_file() and (
            Path(CONF) / "experiment" / f"{name}_smoke.yaml"
        ).is_file()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_published_numbers(name):
    config = compose([f"experiment={name}"])
    (kind, rate, warmup, schedule, decay, betas, eps), rows, tokens, steps, clip, vocabulary = PUBLISHED[name]
    optimizer, data = config.optimizer, config.data
    assert optimizer._target_.endswith(f".{kind}") and (optimizer.peak_lr, optimizer.warmup_steps) == (rate, warmup)
    assert (optimizer.schedule, optimizer.weight_decay) == (schedule, decay)
    assert betas is None or (list(optimizer.betas), optimizer.eps) == (betas, eps)
    assert (data.batch_size, data.max_tokens, config.preprocess.vocab_size) == (rows, tokens, vocabulary)
    assert config.trainer.clip_norm == clip
    assert config.budget.hours == 24 if steps is None else config.trainer.max_steps == steps
    backbone = hydra.utils.instantiate(config.backbone.config)
    layers = next(
        backbone[key] for key in ("num_hidden_layers", "encoder_layers", "num_layers", "n_layer") if key in backbone
    )
    assert (layers, next(backbone[key] for key in ("hidden_size", "d_model", "n_embd") if key in backbone)) == SIZES[
        name
    ]


@pytest.mark.parametrize("name", ["bert_base", "roberta_base", "bert_24h"])
def test_masked_recipes_hide_15_percent_80_10_10(name):
    collate = compose([f"experiment={name}"]).collate
    assert (collate.fraction, collate.mask_share, collate.random_share, collate.unit) == (0.15, 0.8, 0.1, "token")


def test_bert_s_second_phase_goes_on_where_the_decay_of_the_first_ends():
    optimizer = compose(["experiment=bert_base"]).optimizer
    assert optimizer.peak_lr * optimizer.final_fraction == pytest.approx(1e-4 * (1 - 900_000 / 1_000_000))


@pytest.mark.parametrize("name", RECIPES)
def test_one_gpu_and_eight_take_the_same_step(name):
    text = (Path(CONF) / "experiment" / f"{name}.yaml").read_text()
    eight = re.search(r"add  (trainer=ddp trainer\.devices=8 trainer\.accumulate=\d+)", text)
    assert eight, "the command for 8 GPUs is missing"
    one, many = compose([f"experiment={name}"]), compose([f"experiment={name}", *eight[1].split()])
    assert one.data.batch_size == many.data.batch_size and many.trainer.strategy == "ddp"
    micro = [config.data.batch_size / config.trainer.devices / config.trainer.accumulate for config in (one, many)]
    assert all(size == int(size) for size in micro) and micro[1] <= micro[0]


@pytest.mark.parametrize("name", RECIPES)
def test_a_smoke_recipe_differs_from_its_recipe_in_size_only(name):
    full, small = (compose([f"experiment={choice}"]) for choice in (name, f"{name}_smoke"))
    assert small.objective == full.objective
    assert OmegaConf.to_container(small.collate) == OmegaConf.to_container(full.collate)
    assert small.preprocess._target_ == full.preprocess._target_ and small.optimizer._target_ == full.optimizer._target_
    assert (
        small.backbone.config.model_type == full.backbone.config.model_type
        and small.backbone.pooling == full.backbone.pooling
    )
    assert small.optimizer.schedule == full.optimizer.schedule and small.trainer.clip_norm == full.trainer.clip_norm


@pytest.mark.parametrize(
    "name", [name if name == "bert_base" else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_a_smoke_recipe_reaches_the_loss_it_announces(name, tmp_path, cache_dir):
    text = (Path(CONF) / "experiment" / f"{name}_smoke.yaml").read_text()
    expected = float(re.search(r"# Expected  a validation loss of ([\d.]+) after", text)[1])
    quiet = [
        "logger.wandb.mode=disabled",
        "logger.progress=false",
        f"data.cache_dir={cache_dir}",
        f"run_dir={tmp_path / 'run'}",
    ]
    run_dir = main(compose([f"experiment={name}_smoke", *quiet]))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["steps"] == 40
    assert metrics["validation/loss"] == pytest.approx(expected, abs=0.1)
    assert (run_dir / "handoff" / "last" / "model.safetensors").is_file()
    assert_plain(run_dir)
