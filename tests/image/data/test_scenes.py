"""Scenes of digits: what is said about them is true, and what is said falsely uses the same words."""

import collections
import itertools

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pretraining.image.data.scene_captions import COLOURS, DIGITS, RELATIONS, SIZES, SWAPS
from pretraining.image.data.scene_images import SceneImages
from pretraining.image.data.scenes import INKS, MOST, REPLACED, SIDES, DigitScenes, handwriting_rows

SCENES = DigitScenes().draw("train", range(400))


def read_caption(caption):
    """Take a caption apart again: [(size, colour, digit)] of one or two things, and the relation between."""
    relation = next((name for name in RELATIONS if f" {name} " in caption), None)
    parts = caption.split(f" {relation} ") if relation else [caption]
    things = []
    for part in parts:
        article, size, colour, digit = part.split()
        assert article == "a" and size in SIZES and colour in COLOURS and digit in DIGITS
        things.append((size, colour, digit))
    assert len(things) == (2 if relation else 1)
    return things, relation


def seen(scene):
    """Read size, colour and digit of each thing off the picture and the masks."""
    found = []
    for number, box in enumerate(scene.boxes, start=1):
        inside = scene.instances == number
        inked = scene.image[:, inside].astype(float)
        inked = inked[:, inked.sum(0) >= np.quantile(inked.sum(0), 0.7)].mean(1)
        colour = COLOURS[np.abs(INKS - inked).sum(1).argmin()]
        height = box[3] - box[1]
        digits = set(scene.semantic[inside].tolist())
        assert len(digits) == 1
        found.append(("large" if height > 0.28 * len(scene.image[0]) else "small", colour, DIGITS[digits.pop() - 1]))
    return found


def stands(box, relation, other):
    """Compare the middles of two boxes; wherever one of the four relations is said, it must be so of the middles."""
    (x, y), (u, v) = (((part[0] + part[2]) / 2, (part[1] + part[3]) / 2) for part in (box, other))
    return {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}[relation]


def test_captions_are_true_of_what_can_be_seen():
    wrong = 0
    for scene in SCENES:
        (things, relation), there = read_caption(scene.caption), seen(scene)
        wrong += not set(things) <= set(there)
        if relation:
            pairs = itertools.permutations(range(len(there)), 2)
            named = [(i, j) for i, j in pairs if scene.things[i].name.split()[1:] == list(things[0])
                     and scene.things[j].name.split()[1:] == list(things[1])]  # fmt: skip
            assert any(stands(scene.boxes[i], relation, scene.boxes[j]) for i, j in named)
    assert wrong <= 12  # light strokes in shaded ink may look like another colour or a size


def test_boxes_bound_the_masks_and_nothing_covers_anything():
    for scene in SCENES:
        assert len(scene.boxes) == len(scene.classes) == len(scene.things) == scene.instances.max() <= MOST
        for number, (left, top, right, bottom) in enumerate(scene.boxes, start=1):
            rows, columns = np.nonzero(scene.instances == number)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (scene.semantic[rows, columns] == scene.classes[number - 1] + 1).all()
            low, high = SIDES[scene.things[number - 1].size]
            assert max(right - left, bottom - top) <= round(high * 64) and bottom - top > 0.6 * low * 64
        assert ((scene.semantic > 0) == (scene.instances > 0)).all()
        for (a, b, c, d), (e, f, g, h) in itertools.combinations(scene.boxes.tolist(), 2):
            assert c <= e or g <= a or d <= f or h <= b


def test_everything_is_drawn_about_equally_often():
    counts = collections.Counter(len(scene.boxes) for scene in SCENES)
    assert sorted(counts) == [1, 2, 3, 4] and min(counts.values()) > 70
    things = [thing for scene in SCENES for thing in scene.things]
    for name, values in (("digit", DIGITS), ("colour", COLOURS), ("size", SIZES)):
        shares = collections.Counter(getattr(thing, name) for thing in things)
        assert set(shares) == set(values) and min(shares.values()) > 0.6 * len(things) / len(values)
    said = collections.Counter(scene.claim.relation for scene in SCENES)
    assert set(said) == {None, *RELATIONS} and min(said.values()) > 45


def test_a_scene_is_a_function_of_seed_split_and_number():
    scenes = DigitScenes()
    alone = scenes.draw("train", [7])[0]
    for field in ("image", "boxes", "classes", "instances", "semantic"):
        np.testing.assert_array_equal(getattr(SCENES[7], field), getattr(alone, field))
    assert alone.claim == SCENES[7].claim and alone.negatives == SCENES[7].negatives
    others = [DigitScenes(seed=1).draw("train", [7])[0], scenes.draw("test", [7])[0], scenes.draw("train", [8])[0]]
    assert all((other.image != alone.image).mean() > 0.5 for other in others)
    assert len({other.caption for other in (*others, alone)}) == 4


def test_handwriting_of_the_splits_is_disjoint():
    rows = {split: set(handwriting_rows(split).tolist()) for split in ("train", "validation", "test")}
    pixels = load_digits().data
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == 1797
    written = {split: {pixels[row].tobytes() for row in part} for split, part in rows.items()}
    assert all(not written[one] & written[other] for one, other in itertools.combinations(written, 2))


def test_scenes_are_made_of_their_split_s_handwriting(monkeypatch):
    """What is painted on an empty canvas with white ink, made small again, is a piece of that split's."""
    rows = handwriting_rows("test")
    from pretraining.image.data import scenes

    for split in ("train", "test"):
        pens = scenes._handwriting(split)
        assert sum(map(len, pens)) == len(handwriting_rows(split))
    pens = np.concatenate(scenes._handwriting("test"))
    theirs = load_digits().data[rows].reshape(-1, 8, 8) / 16
    assert {np.round(pen * 16).astype(int).tobytes() for pen in pens} == {
        np.round(own).astype(int).tobytes() for own in theirs * 16
    }


def test_false_captions_are_false_and_use_the_same_words():
    kinds = collections.Counter()
    for scene in SCENES:
        for kind, false in scene.negatives.items():
            kinds[kind] += 1
            assert false != scene.caption and sorted(false.split()) == sorted(scene.caption.split())
            (one, other), relation = read_caption(false)
            names = [tuple(thing.name.split()[1:]) for thing in scene.things]
            pairs = [(i, j) for i, j in itertools.permutations(range(len(names)), 2)
                     if names[i] == one and names[j] == other]  # fmt: skip
            assert not any(_apart(scene.boxes[i], relation, scene.boxes[j]) for i, j in pairs)
    assert set(kinds) == set(SWAPS) and min(kinds.values()) > 100
    assert all(
        scene.negatives for scene in SCENES if len(scene.boxes) == 2 and len({thing.name for thing in scene.things}) > 1
    )


def _apart(box, relation, other):
    a, b, c, d = box
    e, f, g, h = other
    return {"left of": c <= e, "right of": g <= a, "above": d <= f, "below": h <= b}[relation]


def test_a_bag_of_words_model_scores_one_half():
    """Any function of the words' counts gives both captions the same score, whatever it knows about the picture."""
    weights = dict(zip([*DIGITS, *COLOURS, *SIZES, "a", "left", "right", "of", "above", "below"],
                       np.random.default_rng(0).normal(size=(24, 8)).tolist(), strict=True))  # fmt: skip

    def score(scene, caption):
        bag = np.sort(np.array([weights[one] for one in caption.split()]), axis=0).sum(0)
        return float(bag @ scene.image.reshape(8, -1).mean(1))

    wins = [
        (score(scene, scene.caption) > score(scene, false)) + 0.5 * (score(scene, scene.caption) == score(scene, false))
        for scene in SCENES
        for false in scene.negatives.values()
    ]
    assert len(wins) > 400 and np.mean(wins) == 0.5


def test_who_reads_without_looking_does_no_better():
    """The true caption is not the one that would come first in the alphabet, or that names the large thing first."""
    pairs = [(scene.caption, false) for scene in SCENES for false in scene.negatives.values()]
    first = np.mean([true < false for true, false in pairs])
    large = [true.split()[1] == "large" for true, false in pairs if true.split()[1] != false.split()[1]]
    assert abs(first - 0.5) < 0.07 and abs(np.mean(large) - 0.5) < 0.09


@pytest.mark.parametrize(
    ("wrong", "told"), [({"size": 16}, "at least 32"), ({"least": 3, "most": 2}, "3 to 2"), ({"most": 5}, "1 to 4")]
)
def test_impossible_scenes_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        DigitScenes(**wrong)


def test_one_thing_alone_is_named_and_has_no_false_caption():
    for scene in DigitScenes(most=1).draw("validation", range(20)):
        assert len(scene.boxes) == 1 and scene.caption == scene.things[0].name and scene.negatives == {}


def test_replaced_captions_differ_in_one_word_and_are_false():
    words, changed = collections.Counter(), 0
    for scene in SCENES:
        assert len(scene.replaced) <= REPLACED
        for false in scene.replaced:
            (things, relation), (own, same) = read_caption(false), read_caption(scene.caption)
            differ = [(one, other) for left, right in zip(things, own, strict=True)
                      for one, other in zip(left, right, strict=True) if one != other]  # fmt: skip
            assert relation == same and len(differ) == 1
            words.update(["digit" if differ[0][0] in DIGITS else "colour" if differ[0][0] in COLOURS else "size"])
            names = [thing.name for thing in scene.things]
            told = [" ".join(["a", *thing]) for thing in things]
            pairs = [(i, j) for i, j in itertools.permutations(range(len(names)), 2) if [names[i], names[j]] == told]
            if relation:
                assert not any(stands_apart(scene.things[i].box, relation, scene.things[j].box) for i, j in pairs)
            else:
                assert told[0] not in names
            changed += 1
    assert changed > 0.9 * REPLACED * len(SCENES)
    shares = {word: count / changed for word, count in words.items()}
    assert abs(shares["digit"] - 0.5) < 0.06 and abs(shares["colour"] - 0.25) < 0.06 and shares["size"] > 0.15


def stands_apart(box, relation, other):
    return {"left of": box[2] <= other[0], "right of": box[0] >= other[2], "above": box[3] <= other[1],
            "below": box[1] >= other[3]}[relation]  # fmt: skip


def images(**changed):
    settings = {"size": 32, "least": 1, "most": 1, "scenes": 40, "held_out": 8, "batch_size": 4, "eval_batch_size": 4}
    return SceneImages(**settings | {"workers": 0, "cache_dir": "none"} | changed)


def test_images_of_one_digit_have_its_class_and_others_have_none():
    data = images()
    for split, count in (("train", 40), ("validation", 8), ("test", 8)):
        found, drawn = data.split(split), DigitScenes(size=32, most=1).draw(split, range(count))
        assert (found.images == np.stack([scene.image for scene in drawn])).all()
        assert [DIGITS[label] for label in found.labels] == [scene.things[0].digit for scene in drawn]
        assert found.class_names == DIGITS
    several = images(most=3).split("train")
    assert several.labels is None and several.images.shape == (40, 3, 32, 32)
    with pytest.raises(ValueError, match="40 images, less than one batch"):
        images(batch_size=64).source("train")


def test_other_scenes_have_another_fingerprint():
    told = [images(**changed).fingerprint() for changed in ({}, {"most": 2}, {"size": 64}, {"scenes": 41})]
    assert len({*told, images().fingerprint()}) == 4 and images(batch_size=8).fingerprint() == told[0]
