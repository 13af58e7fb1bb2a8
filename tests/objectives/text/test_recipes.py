"""The numbers in conf/ are the published ones."""

import pytest
import torch

from pretraining.cli.configuration import class_of, compose, instantiate
from pretraining.runs.renamed import current
from pretraining.text.cost import TextRow
from pretraining.text.tokenizer_recipes import SentinelBPE


def collate_of(objective):
    return compose([f"objective={objective}"]).collate


def test_bert_masks_15_percent_80_10_10_and_shortens_a_tenth_of_the_documents():
    config = compose(["objective=bert"])
    collate = config.collate
    assert (collate.fraction, collate.mask_share, collate.random_share) == (0.15, 0.8, 0.1)
    assert (collate.short_share, collate.negatives, config.backbone.pooling) == (0.1, "random", "pooler")
    assert (config.objective.mlm_weight, config.objective.nsp_weight) == (1.0, 1.0)


def test_next_sentence_builds_the_same_pairs_as_bert():
    bert, alone = collate_of("bert"), collate_of("next_sentence")
    assert (alone.short_share, alone.negatives) == (bert.short_share, bert.negatives)


def test_bart_permutes_all_sentences_and_infills_30_percent_of_the_words():
    permutation, infilling = collate_of("denoising_bart").corruption.noises
    assert permutation._target_.endswith("SentencePermutation") and permutation.fraction == 1.0
    assert infilling._target_.endswith("TextInfilling") and infilling.whole_words
    assert (infilling.fraction, infilling.mean_length, infilling.random_share) == (0.3, 3.5, 0.1)


def test_t5_hides_15_percent_in_spans_of_three():
    corruption = collate_of("denoising_t5").corruption
    assert (corruption.density, corruption.mean_length) == (0.15, 3.0)


@pytest.mark.parametrize(
    ("backbone", "objective", "vocabulary", "millions"),
    [
        ("bart_base", "denoising_bart", 50265, 139.4),
        ("t5_small", "denoising_t5", 32128, 60.5),
        ("gpt2", "causal_language", 50257, 124.4),
    ],
)
def test_backbones_have_the_published_size(backbone, objective, vocabulary, millions):
    config = compose([f"objective={objective}", f"backbone={backbone}"])
    with torch.device("meta"):
        built = instantiate(config.backbone, vocab_size=vocabulary, pad_id=0)
    assert abs(sum(parameter.numel() for parameter in built.parameters()) / 1e6 - millions) < 0.06


@pytest.mark.parametrize(
    ("backbone", "objective"),
    [("bart_tiny", "denoising_bart"), ("t5_tiny", "denoising_t5"), ("gpt2_tiny", "causal_language")],
)
def test_tiny_backbones_are_what_their_objectives_take_by_default(backbone, objective):
    config, named = compose([f"objective={objective}"]), compose([f"objective={objective}", f"backbone={backbone}"])
    assert config.backbone == named.backbone
    built = instantiate(
        config.objective,
        backbone=instantiate(config.backbone, vocab_size=600, pad_id=0),
        optimizer=instantiate(config.optimizer),
    )
    assert built.forward_flops(TextRow(64, 64, 64, target_positions=10, written_seen=32)) > 0


def test_what_denoising_was_configured_with_before_keeps_working_with_a_message(capsys):
    collate = compose(["objective=denoising_t5", "collate.damage.density=0.3"]).collate
    assert collate.corruption.density == 0.3 and collate.corruption.mean_length == 3.0
    assert "collate.damage is called collate.corruption now" in capsys.readouterr().err
    damage = {"_target_": "pretraining.objectives.damage.SpanCorruption", "density": 0.15, "mean_length": 3.0}
    collate = {"_target_": "pretraining.objectives.denoising.DenoiseText", "max_tokens": 64, "damage": damage}
    before = {"collate": collate, "preprocess": {"_target_": "pretraining.preprocess.sentinels.SentinelBPE"}}
    now = current(before)
    assert class_of(now["preprocess"]) is SentinelBPE
    from tests.objectives.text.small_text import preprocess

    assert instantiate(now["collate"], preprocess=preprocess("sentinel_bpe")).corruption.spans["density"] == 0.15
