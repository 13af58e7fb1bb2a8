"""What is predicted over the vocabulary: padded targets that count for nothing, and two ways to the same loss."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretraining.objectives.text.vocabulary_loss import (
    NO_LABEL,
    counted,
    padded_targets,
    tied_vocabulary_loss,
    vocabulary_loss,
)
from tests.objectives.text.small_text import GPT2, backbone


@pytest.mark.parametrize(
    ("found", "at_least", "size"), [(0, 0, 0), (1, 0, 64), (64, 0, 64), (65, 0, 128), (3, 70, 128)]
)
def test_targets_are_padded_to_a_multiple_with_what_counts_for_nothing(found, at_least, size):
    positions, labels = np.arange(found) * 3, np.arange(found, dtype=np.uint16) + 7
    batch = padded_targets(positions, labels, at_least)
    assert {name: part.dtype for name, part in batch.items()} == {
        "target_positions": torch.int64,
        "labels": torch.int64,
    }
    assert batch["target_positions"].tolist() == [*positions, *[0] * (size - found)]
    assert batch["labels"].tolist() == [*labels, *[NO_LABEL] * (size - found)]
    assert counted(batch["labels"]) == found


def test_a_head_of_ours_and_the_model_s_own_give_torch_s_loss_and_accuracy():
    model = backbone(GPT2, "byte_bpe", architecture="causal").double()
    states = torch.randn(100, 32, dtype=torch.float64)
    embeddings, bias = model.model.get_output_embeddings().weight, torch.zeros(500, dtype=torch.float64)
    labels = torch.where(torch.arange(100) % 7 > 0, torch.arange(100), NO_LABEL)
    scores = states @ embeddings.T
    labels[3] = scores[3].argmax()
    expected = F.cross_entropy(scores, labels, ignore_index=NO_LABEL, reduction="sum")
    own = vocabulary_loss("own", model, states, labels, with_accuracy=True)
    tied = tied_vocabulary_loss("tied", states, embeddings, bias, labels, with_accuracy=True, weight=0.5)
    right = int((scores.argmax(1) == labels).sum())
    for name, loss, weight in (("own", own, 1.0), ("tied", tied, 0.5)):
        assert torch.allclose(loss.terms[name].total, expected) and loss.terms[name].weight == weight
        accuracy = loss.metrics[f"{name}_accuracy"]
        assert loss.terms[name].count == accuracy.count == 85 and accuracy.total == right >= 1
    assert vocabulary_loss("own", model, states, labels, with_accuracy=False).metrics == {}
