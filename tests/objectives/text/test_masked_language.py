"""The masked language model: derived losses, and a gradient that no split of the batch changes."""

import math

import numpy as np
import pytest
import torch

from pretraining.objectives.text.masked_language import NO_LABEL, MaskedLanguage
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.one_step import assert_same_gradient, gradient_of, plain_sgd
from tests.ranks import in_ranks

VOCAB, TOKENS = 500, 16


def model(dropout=0.0, vocab=VOCAB, hidden=32):
    torch.manual_seed(0)
    config = {
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    backbone = TransformersBackbone(config=config, vocab_size=vocab, pad_id=0)
    return MaskedLanguage(backbone=backbone, optimizer=plain_sgd())


def rows(count=8):
    """Rows of different lengths, two documents each, with 1, 2, 3, ... predictions."""
    generator = np.random.default_rng(0)
    ids = torch.from_numpy(generator.integers(5, VOCAB, (count, TOKENS)))
    documents = torch.ones(count, TOKENS, dtype=torch.int64)
    for row in range(count):
        documents[row, 6 + row % 3 :] = 2
        documents[row, TOKENS - row % 5 :] = 0
    return ids, documents


def batch_of(chosen):
    """Make the batch of some rows; row r has r % 4 + 1 predictions, except in 6 and 7, which have none."""
    ids, documents = rows()
    target_positions, labels = [0], [NO_LABEL]
    for place, row in enumerate(chosen):
        for number in range(0 if row >= 6 else row % 4 + 1):
            target_positions.append(place * TOKENS + number)
            labels.append(int(ids[row, number]) - 1)
    return {
        "inputs": {"input_ids": ids[list(chosen)], "document_ids": documents[list(chosen)]},
        "target_positions": torch.tensor(target_positions),
        "labels": torch.tensor(labels),
    }


def rank_gradient(rank, world, directory, splits):
    return gradient_of(model(), [batch_of(rows) for rows in splits[rank]], directory, rank=rank, world=world)


@pytest.mark.parametrize(
    "split", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1], [2, 3], [4, 5], [6, 7]], [[5], [0, 1, 2, 3, 4, 6, 7]]]
)
def test_the_gradient_does_not_depend_on_the_micro_batches(split, tmp_path):
    whole = gradient_of(model(), [batch_of(range(8))], tmp_path)
    assert_same_gradient(whole, gradient_of(model(), [batch_of(rows) for rows in split], tmp_path))


def test_two_ranks_with_unequal_counts_have_the_gradient_of_one_process(tmp_path):
    whole = gradient_of(model(), [batch_of(range(8))], tmp_path)
    for gradient in in_ranks(rank_gradient, 2, tmp_path, [[[0, 1], [2]], [[3, 4, 5], [6, 7]]]):
        assert_same_gradient(whole, gradient)


def test_a_rank_without_predictions_takes_part(tmp_path):
    whole = gradient_of(model(), [batch_of(range(8))], tmp_path)
    for gradient in in_ranks(rank_gradient, 2, tmp_path, [[[0, 1, 2, 3, 4, 5]], [[6, 7]]]):
        assert_same_gradient(whole, gradient)


def test_counts_are_those_of_the_loss_and_padding_entries_count_for_nothing():
    batch = batch_of(range(8))
    (term,) = model().loss(batch).terms.values()
    assert model().counts(batch)["mlm"] == term.count == 1 + 2 + 3 + 4 + 1 + 2


def test_the_loss_with_zero_output_weights_is_log_vocabulary():
    objective = model().double()
    with torch.no_grad():
        objective.backbone.input_embeddings.weight.zero_()
        objective.head.bias.zero_()
    term = objective.loss(batch_of(range(8))).terms["mlm"]
    assert abs(float(term.total / term.count) - math.log(VOCAB)) < 1e-6


def test_the_loss_at_the_own_initialisation_is_near_log_vocabulary():
    objective = model(vocab=8192, hidden=128).eval()
    term = objective.loss(batch_of(range(8))).terms["mlm"]
    assert abs(float(term.total / term.count) / math.log(8192) - 1) < 0.03


def test_documents_of_a_row_do_not_see_each_other():
    objective = model().double().eval()
    ids, documents = rows()
    packed = objective.backbone(input_ids=ids, document_ids=documents).positions
    for row in range(len(ids)):
        for number in (1, 2):
            here = documents[row] == number
            alone = objective.backbone(
                input_ids=ids[row, here][None], document_ids=torch.ones(1, int(here.sum()), dtype=torch.int64)
            )
            assert torch.allclose(packed[row, here], alone.positions[0], atol=1e-9)


def test_scores_equal_those_of_transformers_on_the_same_weights():
    from transformers import BertForMaskedLM

    objective = model().eval()
    peer = BertForMaskedLM(objective.backbone.model.config).eval()
    weights = {
        name: value for name, value in objective.backbone.model.state_dict().items() if not name.startswith("pooler.")
    }
    peer.bert.load_state_dict(weights)
    transform = peer.cls.predictions.transform
    transform.dense.load_state_dict(objective.head.dense.state_dict())
    transform.LayerNorm.load_state_dict(objective.head.norm.state_dict())
    with torch.no_grad():
        objective.head.bias.uniform_(-1, 1)
        peer.cls.predictions.bias.copy_(objective.head.bias)
    ids, _ = rows()
    labels = torch.full_like(ids, NO_LABEL)
    labels[:, 3:6] = ids[:, 4:7]
    expected = peer(input_ids=ids, labels=labels).loss
    batch = {
        "inputs": {"input_ids": ids, "document_ids": torch.ones_like(ids)},
        "target_positions": (labels != NO_LABEL).flatten().nonzero()[:, 0],
    }
    term = objective.loss({**batch, "labels": labels[labels != NO_LABEL]}).terms["mlm"]
    assert abs(float(term.total / term.count) - float(expected)) < 1e-5


def test_dropout_is_a_function_of_the_place_in_the_run(tmp_path):
    first = gradient_of(model(dropout=0.3), [batch_of(range(8))], tmp_path)
    torch.rand(7)  # what happened before must not matter
    assert_same_gradient(first, gradient_of(model(dropout=0.3), [batch_of(range(8))], tmp_path), tolerance=1e-15)
