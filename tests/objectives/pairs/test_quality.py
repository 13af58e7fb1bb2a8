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
    back, _ = ranks((text[columns] @ image.T).numpy(), right.T)
    found = measured(kind=kind, **settings)
    assert found["image_to_text_recall_1"] == retrieval(first, first)["recall_1"]
    assert found["text_to_image_recall_1"] == retrieval(back, back)["recall_1"]
    known = [row for row, label in enumerate(LABELS) if label >= 0]
    guesses = (image @ classes.T).argmax(1)
    accuracy = np.mean([int(guesses[row]) == LABELS[row] for row in known])
    assert found["zero_shot_accuracy"] == pytest.approx(accuracy)
    assert found["classified"] == 6 and found["majority"] == 3 / 6
    assert 0 < found["image_to_text_recall_1"] + found["text_to_image_recall_1"] < 2  # neither says nothing


def test_recall_is_of_pictures_and_of_captions_each_once_as_finetuning_has_it():
    """30 pictures with one to four captions, some of which belong to several: near vectors, so that half are found."""
    random = np.random.default_rng(0)
    captions = [sorted(random.choice(40, random.integers(1, 5), replace=False).tolist()) for _ in range(30)]
    text = random.normal(size=(40, 6))
    image = np.stack([text[own].sum(0) for own in captions]) + 0.7 * random.normal(size=(30, 6))
    rows = np.array([(one, place) for one, own in enumerate(captions) for place in own])[random.permutation(
        sum(map(len, captions)))]  # fmt: skip
    table = torch.tensor([[*own, *[-1] * (4 - len(own))] for own in captions])
    vectors = torch.from_numpy(np.stack([image[rows[:, 0]], text[rows[:, 1]]], 1))
    said = sorted({place for own in captions for place in own})
    right = np.array([[place in own for place in said] for own in captions])
    scores = image @ text[said].T
    sides = [ranks(scores, right)[0], ranks(scores.T, right.T)[0]]
    expected = [{"recall_1": float((found == 1).mean()), "queries": len(found)} for found in sides]
    numbers = torch.from_numpy(rows)
    assert recalls(vectors, numbers[:, 0], numbers[:, 1], table[numbers[:, 0]]) == expected
    assert all(0.2 < way["recall_1"] < 0.8 for way in expected) and len(rows) > 60


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
    assert set(measured()) == {f"{way}_{name}" for way in ("image_to_text", "text_to_image")
                               for name in ("recall_1", "queries")}  # fmt: skip
