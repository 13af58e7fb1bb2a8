"""Losses against independent ones: transformers' label-taking models, on the same weights and the same batch."""

import math

import pytest
import torch
import transformers

from pretraining.objectives.text.bert import Bert, MaskPairs
from pretraining.objectives.text.causal_language import CausalLanguage, NextTokens
from pretraining.objectives.text.corruption import Bart, SpanCorruption
from pretraining.objectives.text.denoising import DenoiseText, Denoising
from pretraining.objectives.text.masked_language import NO_LABEL
from pretraining.objectives.text.next_sentence import NextSentence, PairSentences
from pretraining.objectives.text.noises import SentencePermutation, TextInfilling
from tests.objectives.text.small_text import (
    BART,
    BERT,
    GPT2,
    OPTIMIZER,
    T5,
    backbone,
    batches,
    corpus,
    mean_of,
    preprocess,
)
from tests.one_step import assert_same_gradient, gradient_of
from tests.ranks import in_ranks

PAIRS = {"max_tokens": 48, "negatives": "random", "short_share": 0.1}
MASKING = {"fraction": 0.15, "unit": "token", "mask_share": 0.8, "random_share": 0.1}
NOISES = [SentencePermutation(fraction=1.0), TextInfilling(fraction=0.3, mean_length=3.5, random_share=0.1)]


def bert(tmp_path):
    words = preprocess("wordpiece")
    collate = MaskPairs(preprocess=words, **PAIRS, **MASKING)
    model = Bert(
        backbone=backbone(BERT, "wordpiece", pooling="pooler"), optimizer=OPTIMIZER, mlm_weight=1.0, nsp_weight=0.5
    )
    return model, collate, corpus("wordpiece", tmp_path)


def next_sentence(tmp_path):
    collate = PairSentences(preprocess=preprocess("wordpiece"), **PAIRS)
    model = NextSentence(backbone=backbone(BERT, "wordpiece", pooling="pooler"), optimizer=OPTIMIZER)
    return model, collate, corpus("wordpiece", tmp_path)


def bart(tmp_path):
    collate = DenoiseText(preprocess=preprocess("byte_bpe"), max_tokens=64, corruption=Bart(noises=NOISES))
    model = Denoising(backbone=backbone(BART, "byte_bpe", architecture="seq2seq"), optimizer=OPTIMIZER)
    return model, collate, corpus("byte_bpe", tmp_path)


def t5(tmp_path):
    collate = DenoiseText(
        preprocess=preprocess("sentinel_bpe"), max_tokens=64, corruption=SpanCorruption(density=0.15, mean_length=3.0)
    )
    model = Denoising(backbone=backbone(T5, "sentinel_bpe", architecture="seq2seq"), optimizer=OPTIMIZER)
    return model, collate, corpus("sentinel_bpe", tmp_path)


def gpt2(tmp_path):
    collate = NextTokens(preprocess=preprocess("byte_bpe"), max_tokens=64)
    model = CausalLanguage(backbone=backbone(GPT2, "byte_bpe", architecture="causal"), optimizer=OPTIMIZER)
    return model, collate, corpus("byte_bpe", tmp_path)


EVERY = [bert, next_sentence, bart, t5, gpt2]


def scattered(batch, shape):
    """Labels on every place of [B, T], -100 where nothing is predicted: what transformers' losses take."""
    labels = torch.full((shape[0] * shape[1],), -100)
    real = batch["labels"] != NO_LABEL
    labels[batch["target_positions"][real]] = batch["labels"][real]
    return labels.view(shape)


def test_bert_equals_bert_for_pretraining(tmp_path):
    objective, collate, source = bert(tmp_path)
    (batch,) = batches(collate, source, range(16))
    theirs = transformers.BertForPreTraining(objective.backbone.model.config).eval()
    theirs.bert.load_state_dict(objective.backbone.model.state_dict())
    head = theirs.cls.predictions
    torch.nn.init.normal_(objective.token_head.bias)
    head.transform.dense.load_state_dict(objective.token_head.dense.state_dict())
    head.transform.LayerNorm.load_state_dict(objective.token_head.norm.state_dict())
    head.bias.data.copy_(objective.token_head.bias)
    theirs.cls.seq_relationship.load_state_dict(objective.pair_head.output.state_dict())
    assert head.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    head.decoder.bias = head.bias
    answer = theirs(
        input_ids=batch["inputs"]["input_ids"],
        attention_mask=batch["inputs"]["document_ids"],
        token_type_ids=batch["inputs"]["token_type_ids"],
        labels=scattered(batch, batch["inputs"]["input_ids"].shape),
        next_sentence_label=batch["is_random"],
    )
    loss = objective.eval().loss(batch)
    assert abs(mean_of(loss, "mlm") + mean_of(loss, "nsp") - answer.loss.item()) < 1e-5
    assert loss.terms["mlm"].weight == 1.0 and loss.terms["nsp"].weight == 0.5
    pairs = torch.nn.functional.cross_entropy(answer.seq_relationship_logits, batch["is_random"])
    assert abs(mean_of(loss, "nsp") - pairs.item()) < 1e-5


def test_next_sentence_equals_bert_for_next_sentence_prediction(tmp_path):
    objective, collate, source = next_sentence(tmp_path)
    (batch,) = batches(collate, source, range(16))
    theirs = transformers.BertForNextSentencePrediction(objective.backbone.model.config).eval()
    theirs.bert.load_state_dict(objective.backbone.model.state_dict())
    theirs.cls.seq_relationship.load_state_dict(objective.head.output.state_dict())
    answer = theirs(
        input_ids=batch["inputs"]["input_ids"],
        attention_mask=batch["inputs"]["document_ids"],
        token_type_ids=batch["inputs"]["token_type_ids"],
        labels=batch["is_random"],
    )
    loss = objective.eval().loss(batch)
    assert abs(mean_of(loss, "nsp") - answer.loss.item()) < 1e-5
    negatives = loss.metrics["nsp_negatives"]
    assert (negatives.total / negatives.count).item() == batch["is_random"].float().mean().item()


@pytest.mark.parametrize(
    ("build", "model"), [(bart, "BartForConditionalGeneration"), (t5, "T5ForConditionalGeneration")]
)
def test_denoising_equals_the_conditional_generation_model(tmp_path, build, model):
    objective, collate, source = build(tmp_path)
    theirs = objective.backbone.model
    assert type(theirs).__name__ == model
    if build is bart:
        torch.nn.init.normal_(theirs.final_logits_bias)
    (batch,) = batches(collate, source, range(12))
    shape = batch["decoder_input_ids"].shape
    answer = theirs.eval()(
        input_ids=batch["inputs"]["input_ids"],
        attention_mask=batch["inputs"]["document_ids"],
        decoder_input_ids=batch["decoder_input_ids"],
        labels=scattered(batch, shape),
    )
    loss = objective.eval().loss(batch)
    assert abs(mean_of(loss, "denoising") - answer.loss.item()) < 1e-5
    own = theirs(
        input_ids=batch["inputs"]["input_ids"],
        attention_mask=batch["inputs"]["document_ids"],
        labels=scattered(batch, shape),
    )
    assert abs(own.loss.item() - answer.loss.item()) < 1e-5  # transformers shifts the labels to the same decoder inputs


def test_causal_language_equals_gpt2_one_document_at_a_time(tmp_path):
    objective, collate, source = gpt2(tmp_path)
    rows = len(collate.plan(source, 1, 0).offsets) - 1
    (batch,) = batches(collate, source, range(rows - 8, rows))  # the shortest documents come last
    assert (batch["inputs"]["document_ids"].amax(1) > 1).any(), "rows of several documents are what this is about"
    theirs, total, count = objective.backbone.model.eval(), 0.0, 0
    for row, documents in zip(batch["inputs"]["input_ids"], batch["inputs"]["document_ids"], strict=True):
        for number in range(1, int(documents.max()) + 1):
            ids = row[documents == number][None]
            total += theirs(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
    loss = objective.eval().loss(batch)
    assert loss.terms["causal"].count.item() == count
    assert abs(mean_of(loss, "causal") - total / count) < 1e-5


def test_a_llama_style_decoder_works_as_well(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    }
    collate = NextTokens(preprocess=preprocess("byte_bpe"), max_tokens=64)
    objective = CausalLanguage(backbone=backbone(config, "byte_bpe", architecture="causal"), optimizer=OPTIMIZER).eval()
    (batch,) = batches(collate, corpus("byte_bpe", tmp_path), [3])
    ids = [
        batch["inputs"]["input_ids"][0][batch["inputs"]["document_ids"][0] == number][None]
        for number in range(1, int(batch["inputs"]["document_ids"].max()) + 1)
    ]
    sums = [objective.backbone.model(input_ids=one, labels=one).loss.item() * (one.shape[1] - 1) for one in ids]
    assert abs(objective.loss(batch).terms["causal"].total.item() - sum(sums)) < 1e-4


@pytest.mark.parametrize("build", EVERY)
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(tmp_path, build):
    objective, collate, source = build(tmp_path)
    whole = gradient_of(objective, batches(collate, source, range(8)), tmp_path)
    for parts in (2, 8):
        split = gradient_of(build(tmp_path)[0], batches(collate, source, range(8), parts), tmp_path)
        assert_same_gradient(whole, split)


def rank_gradients(rank, world, directory):
    """Take one step with each objective on this rank's quarters of eight rows: three of them, or the last one."""
    found = []
    for build in EVERY:
        objective, collate, source = build(directory / f"rank{rank}")
        quarters = batches(collate, source, range(8), 4)
        found.append(
            gradient_of(objective, quarters[:3] if rank == 0 else quarters[3:], directory, rank=rank, world=world)
        )
    return found


def test_two_ranks_with_unequal_shares_have_the_gradient_of_one_process(tmp_path):
    wanted = [
        gradient_of(objective, batches(collate, source, range(8)), tmp_path)
        for objective, collate, source in (b(tmp_path) for b in EVERY)
    ]
    for found in in_ranks(rank_gradients, 2, tmp_path):
        for build, one, other in zip(EVERY, wanted, found, strict=True):
            assert_same_gradient(one, other)
            assert len(one) > 10, build


@pytest.mark.parametrize("build", EVERY)
def test_counts_are_those_of_the_loss(tmp_path, build):
    objective, collate, source = build(tmp_path)
    (batch,) = batches(collate, source, range(5))
    terms = objective.eval().loss(batch).terms
    counts = objective.counts(batch)
    assert {name: int(term.count) for name, term in terms.items()} == {
        name: int(count) for name, count in counts.items()
    }
    assert all(int(count) > 0 for count in counts.values())


@pytest.mark.parametrize("build", [bart, t5, gpt2])
def test_zeroed_output_weights_give_the_logarithm_of_the_vocabulary(tmp_path, build):
    objective, collate, source = build(tmp_path)
    torch.nn.init.zeros_(objective.backbone.model.get_output_embeddings().weight)
    (batch,) = batches(collate, source, range(4))
    (term,) = objective.double().eval().loss(batch).terms.values()
    assert abs(float(term.total.detach() / term.count) - math.log(objective.backbone.model.config.vocab_size)) < 1e-6


@pytest.mark.parametrize("build", EVERY)
def test_every_trainable_weight_gets_a_gradient(tmp_path, build):
    objective, collate, source = build(tmp_path)
    (batch,) = batches(collate, source, range(8))
    sum(term.total for term in objective.loss(batch).terms.values()).backward()
    assert [
        name for name, parameter in objective.named_parameters() if parameter.requires_grad and parameter.grad is None
    ] == []


@pytest.mark.parametrize(
    ("build", "loader"),
    [
        (bert, "AutoModel"),
        (bart, "AutoModelForSeq2SeqLM"),
        (t5, "AutoModelForSeq2SeqLM"),
        (gpt2, "AutoModelForCausalLM"),
    ],
)
def test_an_exported_backbone_gives_the_same_answers_in_transformers(tmp_path, build, loader):
    objective, collate, source = build(tmp_path)
    (batch,) = batches(collate, source, range(4))
    objective.backbone.export(tmp_path / "exported")
    theirs = getattr(transformers, loader).from_pretrained(tmp_path / "exported").eval()
    inputs = {
        "input_ids": batch["inputs"]["input_ids"][:1],
        "attention_mask": batch["inputs"]["document_ids"][:1].clamp(max=1),
    }
    if "decoder_input_ids" in batch:
        inputs["decoder_input_ids"] = batch["decoder_input_ids"][:1]
    ours = objective.eval().backbone.model(**inputs)[0]
    torch.testing.assert_close(theirs(**inputs)[0], ours)


def test_chunked_scores_give_the_same_loss_and_gradient(tmp_path, monkeypatch):
    objective, collate, source = gpt2(tmp_path)
    objective = objective.double().eval()
    (batch,) = batches(collate, source, range(4))

    def run():
        objective.zero_grad()
        loss = objective.loss(batch)
        loss.terms["causal"].total.backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in objective.parameters()])
        return loss.terms["causal"].total.detach(), loss.metrics["causal_accuracy"].total, gradients

    whole = run()
    monkeypatch.setattr("pretraining.objectives.text.vocabulary_loss.SCORES_AT_ONCE", 500 * 50)
    parts = run()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_objectives_refuse_a_backbone_of_another_architecture():
    encoder = backbone(BERT, "wordpiece")
    with pytest.raises(
        ValueError,
        match="needs an encoder and a decoder, but bert is a model of architecture=encoder: choose backbone=bart_tiny",
    ):
        Denoising(backbone=encoder, optimizer=OPTIMIZER)
    with pytest.raises(
        ValueError, match="needs a decoder, but bert is a model of architecture=encoder: choose backbone=gpt2_tiny"
    ):
        CausalLanguage(backbone=encoder, optimizer=OPTIMIZER)
