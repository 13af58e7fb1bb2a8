"""What is measured of a whole split of pairs: by definition, over ranks, and of classes in words."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetuning.metrics.retrieval import ranks, retrieval
from pretraining.data.loader import EvalLoader
from pretraining.objectives.pairs.clip import Clip
from pretraining.objectives.pairs.quality import recalls
from pretraining.objectives.pairs.siglip import SigLip
from pretraining.pairs.data.base import ClassTexts
from tests.pairs.small import BATCH, CAPTIONS, READ, batch_of, objective
from tests.ranks import in_ranks, start_group

LABELS = [0, 1, -1, 0, 2, -1, 2, 2]
WORDS = [["3 4", "5 6"], ["7", "8"], ["9 10 11", "12"]]  # two texts of each class


class Rows(NamedTuple):
    rows: np.ndarray


class Source:
    class_texts = ClassTexts(("a", "b", "c"), Rows(np.array([text for own in WORDS for text in own])))

    def count(self, epoch):
        return BATCH

    def read(self, epoch, rows):
        return Rows(rows)


class Collate:
    def __call__(self, examples, keys):
        return batch_of(examples.rows) | {"labels": torch.tensor(LABELS)[examples.rows]}

    def inputs_of(self, side, examples, keys):
        assert side == "text"
        ids = torch.zeros(len(examples.rows), 8, dtype=torch.int64)
        for row, text in enumerate(examples.rows):
            tokens = [1, *map(int, text.split()), 2]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return {"input_ids": ids, "document_ids": (ids > 0).long()}


def made(kind, **settings):
    return objective(kind, **settings).double().train()


def of_rank(rank, world):
    start_group(rank, world)
    return measured(rank, world)


def measured(rank=0, world=1, kind=Clip, **settings):
    loader = EvalLoader(Source(), Collate(), batch_size=3, ranks=(rank, world))  # 3, 3 and 2: ranks do not share evenly
    return made(kind, **settings).quality(loader)


@pytest.mark.parametrize(("kind", "settings"), [(Clip, {}), (SigLip, {"logit_bias": -3.0})])
def test_it_is_recall_at_1_of_the_whole_split_and_the_nearest_mean_of_a_class(kind, settings):
    model = made(kind, **settings).eval()
    with torch.no_grad():
        features = model.backbone(**batch_of(range(BATCH))["inputs"])
        place = lambda side, pooled: F.normalize(model.projections[side](pooled), dim=-1)  # noqa: E731
        image, text = (place(side, features[side].pooled) for side in ("image", "text"))
        words = model.backbone.towers["text"](**Collate().inputs_of("text", Source.class_texts.examples, None)).pooled
        classes = F.normalize(place("text", words).view(3, 2, -1).mean(1), dim=-1)
    texts = [CAPTIONS[row][READ[row]] for row in range(BATCH)]
    different = sorted(set(texts), key=texts.index)
    assert len(different) < BATCH
    right = np.array([[caption in own for caption in different] for own in CAPTIONS])
    columns = [texts.index(caption) for caption in different]
    first, _ = ranks((image @ text[columns].T).numpy(), right)
    back, _ = ranks((text @ image.T).numpy(), np.array([[caption in own for own in CAPTIONS] for caption in texts]))
    found = measured(kind=kind, **settings)
    assert found["image_to_text_recall_1"] == retrieval(first, first)["recall_1"]
    assert found["text_to_image_recall_1"] == retrieval(back, back)["recall_1"]
    known = [row for row, label in enumerate(LABELS) if label >= 0]
    guesses = (image @ classes.T).argmax(1)
    accuracy = np.mean([int(guesses[row]) == LABELS[row] for row in known])
    assert found["zero_shot_accuracy"] == pytest.approx(accuracy)
    assert found["classified"] == 6 and found["majority"] == 3 / 6
    assert 0 < found["image_to_text_recall_1"] + found["text_to_image_recall_1"] < 2  # neither says nothing


def test_recall_is_that_of_a_slow_search_where_captions_are_shared():
    """40 pairs, of whose captions each belongs to several: near vectors, so that about half are found."""
    random = np.random.default_rng(0)
    caption = random.integers(0, 25, 40)
    captions = np.stack([caption, random.integers(0, 25, 40), np.full(40, -1)], 1)
    text = random.normal(size=(25, 6))
    image = text[captions[:, :2]].sum(1) + 0.7 * random.normal(size=(40, 6))
    vectors = torch.from_numpy(np.stack([image, text[caption]], 1))
    different = sorted(set(caption.tolist()))
    first, _ = ranks(image @ text[different].T, (captions[:, :, None] == different).any(1))
    back, _ = ranks(text[caption] @ image.T, (caption[:, None, None] == captions).any(2))
    expected = [float((found == 1).mean()) for found in (first, back)]
    found = recalls(vectors, torch.from_numpy(caption), torch.from_numpy(captions))
    assert found == pytest.approx(expected) and 0.3 < min(expected) < max(expected) < 0.95


def test_two_ranks_measure_what_one_process_does():
    alone = measured()
    assert in_ranks(of_rank, 2) == [alone, alone]


def test_training_goes_on_as_before_and_equal_vectors_find_nothing():
    model = made(Clip)
    state = torch.get_rng_state()
    model.quality(EvalLoader(Source(), Collate(), batch_size=4))
    assert model.training and torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for projection in model.projections.values():
            projection.weight.zero_()
    found = model.quality(EvalLoader(Source(), Collate(), batch_size=4))
    assert found["image_to_text_recall_1"] == found["text_to_image_recall_1"] == 0.0


def test_without_classes_there_is_retrieval_alone(monkeypatch):
    monkeypatch.delattr(Source, "class_texts")
    assert set(measured()) == {"image_to_text_recall_1", "text_to_image_recall_1"}
