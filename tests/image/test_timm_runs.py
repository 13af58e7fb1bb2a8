"""Runs on timm's networks: pretrained, handed over, finetuned."""

import json

import pytest
from omegaconf import OmegaConf

pytest.importorskip("timm")

from finetuning import launch as finetuning
from pretraining import handoff
from pretraining.cli.configuration import compose
from pretraining.launch import main

QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32", "trainer.max_steps=2"]
NETWORKS = {
    "resnet18": "{layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}",
}


def pretrain(path, cache_dir, objective, name, *more):
    run = [f"objective={objective}", "backbone=timm", f"backbone.name={name}", f"backbone.arguments={NETWORKS[name]}"]
    run += [*QUIET, "data.batch_size=16", f"data.cache_dir={cache_dir}", f"run_dir={path}", "probe=none", *more]
    return main(compose(run))


def finetune(path, start, *more):
    run = [f"handoff={start}", "task=digits", "shots=5", "trainer.val_every=2"]
    run += [*QUIET, f"run_dir={path}", *more]
    return finetuning.main(finetuning.compose(run), run)


def test_simclr_and_a_classifier_on_what_it_hands_over(tmp_path, cache_dir):
    name = "resnet18"
    path = pretrain(tmp_path / "run", cache_dir, "simclr", name)
    config = OmegaConf.load(path / "config.yaml")
    found = handoff.read(str(path / "handoff" / "last"))
    assert found.backbone.kwargs["size"] == config.preprocess.size and found.card["origin"]["flops"] > 0
    finetune(tmp_path / "fine", path / "handoff" / "last", "mode.layer_decay=0.5")
    numbers = json.loads((tmp_path / "fine" / "metrics.json").read_text())
    assert 0.0 <= numbers["test/accuracy"] <= 1.0 and numbers["trainable_parameters"] == numbers["parameters"]
    finetune(tmp_path / "part", path / "handoff" / "last", "mode=partial", "mode.frozen_blocks=1")
    partly = json.loads((tmp_path / "part" / "metrics.json").read_text())
    frozen = sum(part.numel() for block in found.backbone.blocks()[:2] for part in block.parameters())
    assert partly["trainable_parameters"] == numbers["parameters"] - frozen
