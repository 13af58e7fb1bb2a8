"""Average precision is COCO's: against pycocotools on random and adversarial cases, and by hand."""

import contextlib
import io

import numpy as np
import pytest

from finetuning.dense.masks import box_of, decode, encode, fill, from_text, to_text
from finetuning.dense.objects import Objects
from finetuning.metrics import detection
from finetuning.metrics.detection import average_precision, evaluate

SIDE, CLASSES = 40, 3
HUGE = 2e10  # an area beyond COCO's largest: pycocotools ignores such an object, which is no crowd


def drawn_masks(generator, boxes):
    """Draw an ellipse or a ragged patch in each box."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    masks = []
    for left, top, right, bottom in boxes:
        inside = (columns > left) & (columns < right) & (rows > top) & (rows < bottom)
        ragged = generator.random((SIDE, SIDE)) < 0.8
        masks.append(encode(inside & ragged if generator.random() < 0.5 else inside))
    return masks


def drawn_boxes(generator, count):
    corners = generator.integers(0, SIDE - 4, (count, 2))
    sizes = generator.integers(1, 20, (count, 2))
    return np.concatenate([corners, np.minimum(corners + sizes, SIDE)], 1).astype(float)


def near(generator, boxes, count):
    """Copy boxes, some of them moved a little: overlaps that lie on thresholds, and equal ones."""
    chosen = boxes[generator.integers(0, len(boxes), count)] + generator.integers(-2, 3, (count, 4))
    chosen = np.clip(chosen, 0, SIDE)
    return np.stack([np.minimum(chosen[:, :2], chosen[:, 2:] - 1), chosen[:, 2:]], 1).reshape(-1, 4).clip(0)


def drawn_case(seed, masks):
    """Draw a few images; the seed decides what is odd about them."""
    generator = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(generator.integers(1, 6)):
        count = int(generator.integers(0, 8)) * (generator.random() < 0.8)
        boxes = drawn_boxes(generator, count)
        crowd = generator.random(count) < (0.3 if seed % 3 == 0 else 0.0)
        ignore = (generator.random(count) < (0.3 if seed % 4 == 0 else 0.0)) & ~crowd
        kinds = generator.integers(0, CLASSES, count)
        shapes = drawn_masks(generator, boxes) if masks else None
        truth.append(Objects(boxes, kinds, crowd=crowd, ignore=ignore, masks=shapes))
        more = int(generator.integers(100, 160)) if seed % 10 == 7 else int(generator.integers(0, 12))
        more *= generator.random() < 0.85
        guesses = near(generator, boxes, more) if count and generator.random() < 0.8 else drawn_boxes(generator, more)
        levels = 3 if seed % 2 else 10_000  # few levels: most scores are tied
        scores = generator.integers(1, levels + 1, more) / levels
        labels = generator.integers(0, CLASSES if seed % 5 else 1, more)
        shapes = drawn_masks(generator, guesses) if masks else None
        found.append(Objects(guesses, labels, scores, masks=shapes))
    return truth, found


def by_pycocotools(truth, found, most, kind):
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    annotations, results = [], []
    for image, (known, seen) in enumerate(zip(truth, found, strict=True)):
        for part, records in ((known, annotations), (seen, results)):
            for row, (left, top, right, bottom) in enumerate(part.boxes.tolist()):
                record = {"image_id": image, "category_id": int(part.classes[row])}
                record |= {"id": len(records) + 1, "bbox": [left, top, right - left, bottom - top]}
                if part.masks is not None:
                    record["segmentation"] = part.masks[row].as_coco()
                if part is known:
                    area = HUGE if known.ignore[row] else 1.0
                    record |= {"area": area, "iscrowd": int(known.crowd[row])}
                else:
                    record |= {"area": 1.0, "score": float(seen.scores[row])}
                records.append(record)
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for records in (annotations, results):
            part = coco.COCO()
            part.dataset = {
                "images": [{"id": image, "height": SIDE, "width": SIDE} for image in range(len(truth))],
                "categories": [{"id": number} for number in range(CLASSES)],
                "annotations": records,
            }
            part.createIndex()
            sets.append(part)
        judged = evaluation.COCOeval(*sets, kind)
        judged.params.maxDets = [most]
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][:, :, :, 0, 0]  # [T, R, K]
    return np.where(precision[:, 0] > -1, precision.mean(1), np.nan).T


@pytest.mark.parametrize(("kind", "cases"), [("bbox", 240), ("segm", 200)])
def test_average_precision_is_that_of_pycocotools(kind, cases):
    seen = {"crowd": 0, "ignored": 0, "empty": 0, "over 100": 0, "partly right": 0}
    for seed in range(cases):
        truth, found = drawn_case(seed, kind == "segm")
        most = (100, 10, 300, 1)[seed % 4]
        ours = evaluate(truth, found, classes=CLASSES, most=most, masks=kind == "segm").per_class()
        theirs = by_pycocotools(truth, found, most, kind)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12, err_msg=f"case {seed}")
        seen["crowd"] += any(part.crowd.any() for part in truth)
        seen["ignored"] += any(part.ignore.any() for part in truth)
        seen["empty"] += any(part.size == 0 for part in truth)
        seen["over 100"] += any(part.size > 100 for part in found)
        seen["partly right"] += bool(((ours > 0.01) & (ours < 0.99)).any())
    assert min(seen.values()) >= 5 and seen["partly right"] > cases / 3, seen


def objects(*boxes, scores=None, **flags):
    boxes = np.array(boxes, float).reshape(-1, 4)
    scores = None if scores is None else np.array(scores)
    return Objects(boxes, np.zeros(len(boxes), np.int64), scores, **flags)


def test_the_numbers_of_one_object_are_known():
    truth = [objects((0, 0, 10, 10))]
    half = evaluate(truth, [objects((0, 0, 10, 5), scores=[0.9])], classes=1, most=100)  # overlaps by one half
    assert half.numbers() == pytest.approx({"ap": 0.1, "ap50": 1.0, "ap75": 0.0})
    # A wrong one before the right one halves the precision at every recall.
    late = evaluate(truth, [objects((20, 20, 30, 30), (0, 0, 10, 10), scores=[0.9, 0.8])], classes=1, most=100)
    assert late.numbers()["ap"] == pytest.approx(0.5)
    kept = evaluate(truth, [objects((20, 20, 30, 30), (0, 0, 10, 10), scores=[0.9, 0.8])], classes=1, most=1)
    assert kept.numbers()["ap"] == 0.0


def test_of_equal_overlaps_the_later_object_is_taken():
    found = [objects((1, 0, 11, 10), (0, 0, 10, 10), scores=[0.9, 0.8])]  # the first lies between the two objects
    truth = [objects((0, 0, 10, 10), (2, 0, 12, 10))]
    assert evaluate(truth, found, classes=1, most=100).numbers()["ap75"] == pytest.approx(1.0)
    turned = evaluate([truth[0].take(np.array([1, 0]))], found, classes=1, most=100).numbers()
    assert turned["ap75"] == pytest.approx(51 / 101) and turned["ap50"] == pytest.approx(1.0)


def test_detections_on_what_is_left_out_are_neither_right_nor_wrong():
    found = [objects((0, 0, 10, 10), (0, 0, 9, 10), (20, 20, 30, 30), scores=[0.9, 0.8, 0.7])]
    boxes = [(0, 0, 10, 10), (20, 20, 30, 30)]
    crowd = [objects(*boxes, crowd=np.array([True, False]))]
    assert evaluate(crowd, found, classes=1, most=100).numbers()["ap"] == pytest.approx(1.0)
    once = [objects(*boxes, ignore=np.array([True, False]))]  # takes one detection; the second on it is wrong
    assert evaluate(once, found, classes=1, most=100).numbers()["ap"] == pytest.approx(0.5)


def test_classes_without_objects_do_not_count_and_are_null_in_the_table():
    truth, found = [objects((0, 0, 10, 10))], [objects((0, 0, 10, 10), scores=[1.0])]
    found[0].classes[:] = 0
    judged = evaluate(truth, found, classes=2, most=100)
    assert judged.numbers() == {"ap": pytest.approx(1.0), "ap50": pytest.approx(1.0), "ap75": pytest.approx(1.0)}
    table = judged.table(["seen", "absent"])
    assert table["absent"] == {"ap": None, "ap50": None, "ap75": None, "objects": 0}
    assert table["seen"]["objects"] == 1 and table["seen"]["ap50"] == pytest.approx(1.0)


def test_an_image_that_is_drawn_twice_counts_as_if_it_were_there_twice():
    for seed in range(40):
        truth, found = drawn_case(2 * seed, masks=False)  # scores without ties
        times = np.random.default_rng(seed).integers(0, 3, len(truth))
        times[0] += 1
        rows = np.repeat(np.arange(len(truth)), times)
        weighted = evaluate(truth, found, classes=CLASSES, most=100).per_class(times)
        repeated = evaluate([truth[row] for row in rows], [found[row] for row in rows], classes=CLASSES, most=100)
        np.testing.assert_allclose(weighted, repeated.per_class(), atol=1e-12)


def test_intervals_lie_around_the_number_and_are_the_same_each_time():
    generator = np.random.default_rng(0)
    truth = [objects((0, 0, 10, 10)) for _ in range(40)]
    found = [objects((0, 0, 10, 10) if good else (20, 20, 30, 30), scores=[0.5 + row / 100])
             for row, good in enumerate(generator.random(40) < 0.7)]  # fmt: skip
    judged = evaluate(truth, found, classes=1, most=100)
    low, high = judged.intervals()["ap50"]
    assert low < judged.numbers()["ap50"] < high and 0.1 < high - low < 0.5
    assert judged.intervals() == judged.intervals()


def test_a_curve_is_averaged_at_101_recalls():
    right = np.array([[1, 0, 1, 0]], float)
    # Precision 1 up to recall 1/2 (51 of 101 points), 2/3 up to recall 1.
    assert average_precision(right, 1 - right, 2)[0] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_intervals_lie_around_a_low_number_too():
    """Most detections are wrong: images resampled alone would put nearly all of the interval above the number."""
    generator = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(100):
        corners, kinds = generator.uniform(0, 90, (3, 2)), generator.integers(0, 10, 3)
        truth.append(Objects(np.concatenate([corners, corners + 9], 1), kinds))
        kept = generator.random(3) < 0.8
        places = np.concatenate([corners[kept], generator.uniform(0, 90, (20, 2))])
        guessed = np.concatenate([kinds[kept], generator.integers(0, 10, 20)])
        found.append(Objects(np.concatenate([places, places + 9], 1), guessed, generator.random(len(places))))
    judged = evaluate(truth, found, classes=10, most=100)
    value, (low, high) = judged.numbers()["ap50"], judged.intervals()["ap50"]
    assert value < 0.2 and 0.3 < (value - low) / (high - low) < 0.7


def test_run_lengths_are_those_of_pycocotools():
    theirs = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for case in range(60):
        shape = tuple(generator.integers(1, 60, 2))
        pixels = generator.random(shape) < (0.0, 1.0, 0.5, 0.02)[case % 4]
        mask = encode(pixels)
        coco = theirs.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert mask.as_coco() == {"size": list(shape), "counts": coco["counts"].decode()}
        assert (decode(shape, mask.as_coco()["counts"]).pixels() == pixels).all()
        assert (from_text(to_text(mask.counts)) == mask.counts).all() and mask.area == pixels.sum()
        if pixels.any():
            left, top, width, height = theirs.toBbox(coco)
            assert box_of(mask).tolist() == [left, top, left + width, top + height]
    with pytest.raises(ValueError, match="add up to 5 pixels for a mask of 2 x 3"):
        decode((2, 3), [5])


def test_polygons_are_filled_as_pycocotools_fills_them():
    theirs = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(0)
    for case in range(300):
        height, width = generator.integers(4, 40, 2).tolist()
        shape = []
        for _ in range(1 + case % 2):
            corners = generator.uniform(-3, 43, (generator.integers(3, 9), 2))
            shape.append((np.round(corners) if case % 3 else corners).reshape(-1).tolist())
        drawn = theirs.decode(theirs.merge(theirs.frPyObjects(shape, height, width)))
        assert (fill(shape, (height, width)).pixels() == drawn).all(), case
    assert fill([[1, 1, 5, 1, 5, 4, 1, 4]], (8, 8)).area == 12


def test_thresholds_are_those_of_coco():
    parameters = pytest.importorskip("pycocotools.cocoeval").Params()
    assert (parameters.iouThrs == detection.THRESHOLDS).all() and (parameters.recThrs == detection.RECALLS).all()
