"""The span-boundary objective finds spans among predictions, and a scheduled fraction follows the run."""

import functools

import numpy as np
import pytest
import torch

from pretraining.data.loader import EvalLoader, StepLoader
from pretraining.objectives.text.masked_language import MaskedLanguage, MaskTokens
from pretraining.objectives.text.span_boundary import LONGEST, NO_LABEL, neighbours
from pretraining.text.plan import PlannedText
from tests.objectives.text.small_text import BERT, OPTIMIZER, backbone, batches, corpus, preprocess
from tests.one_step import assert_same_gradient, gradient_of


def masking(fraction=0.15, unit="span"):
    return MaskTokens(
        preprocess=preprocess("wordpiece"),
        max_tokens=64,
        fraction=fraction,
        unit=unit,
        mask_share=0.8,
        random_share=0.1,
    )


def test_spans_are_runs_between_their_neighbours_in_the_same_document():
    documents = torch.tensor([[1, 1, 1, 1, 1, 2, 2, 2], [2, 2, 2, 1, 1, 1, 1, 0]])
    target_positions = torch.tensor([1, 2, 6, 8, 9, 12, 13, 0, 0])
    labels = torch.tensor([10, 11, 12, 13, 14, 15, 16, NO_LABEL, NO_LABEL])
    found = neighbours(target_positions, labels, documents)
    # Places 8 and 9 open their row, so nothing stands before them; 13 is followed by 14, its document's last token.
    assert found.labels.tolist() == [10, 11, 12, NO_LABEL, NO_LABEL, 15, 16, NO_LABEL, NO_LABEL]
    assert found.before.tolist()[:3] == [0, 0, 5] and found.behind.tolist()[:3] == [3, 3, 7]
    assert found.place.tolist()[:7] == [0, 1, 0, 0, 1, 0, 1]
    assert (found.before[5], found.behind[5]) == (11, 14)


def test_a_long_span_is_predicted_from_its_left_part():
    documents = torch.ones(1, 40, dtype=torch.int64)
    target_positions = torch.arange(1, 21)
    assert (neighbours(target_positions, target_positions, documents).labels != NO_LABEL).sum() == LONGEST


def slow_neighbours(batch):
    documents, places = (
        batch["inputs"]["document_ids"],
        set(batch["target_positions"][batch["labels"] != NO_LABEL].tolist()),
    )
    width, flat, found = documents.shape[1], documents.flatten().tolist(), {}
    for place in places:
        first = last = place
        while first - 1 in places and flat[first - 1] == flat[place]:
            first -= 1
        while last + 1 in places and flat[last + 1] == flat[place]:
            last += 1
        sides = [side for side in (first - 1, last + 1) if 0 <= side < len(flat) and side // width == place // width]
        sides = [side for side in sides if flat[side] == flat[place]]
        if len(sides) == 2 and place - first < LONGEST:
            found[place] = (*sides, place - first)
    return found


def test_neighbours_equal_those_of_a_slow_search(tmp_path):
    (batch,) = batches(masking(0.3), corpus("wordpiece", tmp_path), np.arange(16))
    found, slow = (
        neighbours(batch["target_positions"], batch["labels"], batch["inputs"]["document_ids"]),
        slow_neighbours(batch),
    )
    kept = found.labels != NO_LABEL
    assert int(kept.sum()) == len(slow) > 50
    for place, *rest in zip(
        batch["target_positions"][kept].tolist(), *(part[kept].tolist() for part in found[:3]), strict=True
    ):
        assert tuple(rest) == slow[place]


def test_the_gradient_with_both_terms_does_not_depend_on_the_micro_batches(tmp_path):
    source = corpus("wordpiece", tmp_path)

    def gradient(parts):
        model = MaskedLanguage(backbone=backbone(BERT, "wordpiece"), optimizer=OPTIMIZER, boundary_weight=1.0)
        return gradient_of(model, batches(masking(), source, np.arange(8), parts), tmp_path)

    whole = gradient(1)
    assert abs(whole["boundary_head.places.weight"]).max() > 0
    assert_same_gradient(whole, gradient(4))


def test_counts_are_those_of_the_loss(tmp_path):
    model = MaskedLanguage(backbone=backbone(BERT, "wordpiece"), optimizer=OPTIMIZER, boundary_weight=0.5)
    (batch,) = batches(masking(), corpus("wordpiece", tmp_path), np.arange(8))
    terms, counts = model.loss(batch).terms, model.counts(batch)
    assert terms.keys() == counts.keys() == {"mlm", "sbo"} and terms["sbo"].weight == 0.5
    assert all(terms[name].count == counts[name] for name in counts)


def masked_share(batch):
    special = torch.isin(
        batch["inputs"]["input_ids"], torch.tensor([preprocess("wordpiece").cls_id, preprocess("wordpiece").sep_id])
    )
    return float((batch["labels"] != NO_LABEL).sum() / ((batch["inputs"]["document_ids"] > 0) & ~special).sum())


def test_a_scheduled_fraction_goes_from_start_to_end_fresh_or_resumed_and_evaluates_at_the_end(tmp_path):
    collate, tokens = masking({"start": 0.4, "end": 0.1}, unit="token"), corpus("wordpiece", tmp_path)
    source = PlannedText(tokens, functools.partial(collate.plan, tokens, 1))
    options = {"batch_size": 8, "max_steps": 10, "seed": 1, "accumulate": 2}
    steps = list(StepLoader(source, collate, **options))
    shares = [masked_share(step.micro_batches[1]) for step in steps]
    assert shares == pytest.approx([0.4 - 0.03 * number for number in range(10)], abs=0.02)
    resumed = StepLoader(source, collate, **options)
    seen = iter(resumed)
    position = [(next(seen), resumed.state_dict())[1] for _ in range(4)][-1]
    again = StepLoader(source, collate, **options)
    again.load_state_dict(position)
    rest = list(again)
    assert len(rest) == 6
    assert all(
        torch.equal(a.micro_batches[0]["target_positions"], b.micro_batches[0]["target_positions"])
        for a, b in zip(steps[4:], rest, strict=True)
    )
    (batch, _), *_ = EvalLoader(source, collate, batch_size=16)
    assert masked_share(batch) == pytest.approx(0.1, abs=0.02)


def test_a_schedule_without_its_ends_is_refused():
    with pytest.raises(
        ValueError, match=r"collate\.fraction has the keys \['from', 'to'\]: give one number, or \{start: …, end: …\}"
    ):
        masking({"from": 0.3, "to": 0.1})
    with pytest.raises(ValueError, match=r"collate\.fraction must lie between 0 and 1"):
        masking({"start": 0.3, "end": 0.0})
