"""Objects and label maps are the same in every form, and what cannot be meant is refused or counted."""

import shutil

import numpy as np
import pytest

from finetuning.data.label_maps import LabelledMaps
from finetuning.data.objects import LabelledObjects
from finetuning.data.splits import Examples, Split
from finetuning.dense.masks import Mask
from finetuning.dense.objects import Objects
from finetuning.launch import compose
from finetuning.metrics.segmentation import IGNORED
from finetuning.tasks.detection import Detection
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from tests.finetuning.dense.made_up import NAMES, drawn, png, write_coco, write_maps, write_tables, write_voc

COLUMNS = {"image": "image", "boxes": "objects.bbox", "classes": "objects.category", "masks": "instances"}
SPLIT = {"train": None, "validation": None, "test": None, "validation_fraction": 0.2, "test_fraction": 0.2, "seed": 0}


def objects(path, *, split=None, **changed):
    settings = {"columns": COLUMNS, "boxes": "xyxy", "channels": 3, "masks": False, "class_names": None}
    settings |= {"batch_size": 1, "eval_batch_size": 1, "workers": 0, "split": Split(**SPLIT | (split or {}))}
    return LabelledObjects(path=str(path), **settings | changed).splits()


def maps(path, **changed):
    settings = {"columns": {"image": "image", "mask": "mask"}, "files": {}, "lists": None, "ignore": [0]}
    settings |= {"channels": 3, "class_names": None, "batch_size": 1, "eval_batch_size": 1, "workers": 0}
    return LabelledMaps(path=str(path), split=Split(**SPLIT), **settings | changed).splits()


@pytest.mark.parametrize(
    ("write", "masks"), [(write_coco, True), (write_voc, False), (write_tables, True)], ids=["coco", "voc", "tables"]
)
def test_every_form_gives_the_same_objects(write, masks, tmp_path):
    found = objects(write(tmp_path / "d"), masks=masks)
    for split, scenes in drawn().items():
        examples = getattr(found, split)
        assert examples.size == len(scenes)
        for image, label, scene in zip(examples.column("image"), examples.column("label"), scenes, strict=True):
            assert (image == scene.image).all() and label.boxes.tolist() == scene.boxes.tolist()
            names = [found.class_names[number] for number in label.classes]
            assert names == [NAMES[number] for number in scene.classes]
            if masks:
                for number, mask in enumerate(label.masks):
                    assert (mask.pixels() == (scene.instances == number + 1)).all()
            else:
                assert label.masks is None


def test_names_that_the_data_set_library_stored_are_used_and_numbers_name_themselves(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=["cell", "other"])),
            },
        }
    )
    pixels = {"bytes": png(np.zeros((9, 9, 3), np.uint8)), "path": None}
    rows = {"image": [pixels] * 10, "objects": [{"bbox": [[1, 2, 3, 5]], "category": [0]}] * 10}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    found = objects(tmp_path / "train.parquet", columns=COLUMNS | {"masks": None})
    assert found.class_names == ["cell", "other"] and found.train.column("label")[0].boxes.tolist() == [[1, 2, 3, 5]]
    plain = write_tables(tmp_path / "plain", lambda columns: columns.update(kinds=[[3] for _ in columns["image"]]))
    shutil.copy(plain / "train.parquet", tmp_path / "numbers.parquet")
    wanted = {"image": "image", "boxes": None, "classes": None, "masks": "instances"}
    assert objects(tmp_path / "numbers.parquet", columns=wanted, masks=True).class_names == ["object"]


def boxed(change):
    """Change the boxes of the first training image of a table."""

    def apply(columns):
        columns["objects"][0]["bbox"] = change(columns["objects"][0]["bbox"])

    return apply


def test_boxes_in_another_form_are_read_as_told(tmp_path):
    turned = write_tables(tmp_path / "d")
    found = objects(turned).train.column("label")

    def as_sizes(columns):
        for cell in columns["objects"]:
            cell["bbox"] = [[left, top, right - left, bottom - top] for left, top, right, bottom in cell["bbox"]]

    sized = objects(write_tables(tmp_path / "sized", as_sizes), boxes="xywh").train.column("label")
    assert [label.boxes.tolist() for label in sized] == [label.boxes.tolist() for label in found]
    with pytest.raises(RunError, match=r"box \[.*ends before it begins: correct it .data.boxes=xywh"):
        objects(write_tables(tmp_path / "wrong", as_sizes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (boxed(lambda boxes: [boxes[0][::-1], *boxes[1:]]), r"row 0 has the box .* which ends before it begins"),
        (boxed(lambda boxes: [boxes[0][:3], *boxes[1:]]), "give four numbers, left, top, right, bottom in pixels"),
        (boxed(lambda boxes: [[float("nan"), 0, 1, 1], *boxes[1:]]), "give four numbers"),
        (boxed(lambda boxes: [*boxes, [0, 0, 5, 5]]), r"has \d boxes, but \d classes: give one for each box"),
        (lambda columns: columns["image"].__setitem__(0, {"bytes": b"no", "path": None}), "not a readable image"),
        (lambda columns: columns["image"].__setitem__(0, None), "row 0 is null"),
        (lambda columns: columns.pop("objects"), "data.columns.boxes=objects, but the data has the columns"),
        (
            lambda columns: columns["objects"].__setitem__(
                slice(None), [{"bbox": [], "category": []} for _ in columns["image"]]
            ),
            "the training images have no object in them",
        ),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(change, message, tmp_path):
    with pytest.raises(RunError, match=message):
        objects(write_tables(tmp_path / "d", change))


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([5, 5, 5, 9], "1 objects without area"),
        ([60, 5, 70, 9], "1 objects outside of their image"),
        ([-3, -3, 9, 9], "1 boxes that reach out of their image"),
    ],
)
def test_boxes_that_cannot_be_used_are_counted(box, told, tmp_path, capsys):
    def add(columns):
        columns["objects"][0]["bbox"].append(box)
        columns["objects"][0]["category"].append("three")

    label = objects(write_tables(tmp_path / "d", add)).train.column("label")[0]
    assert f"train: {told}" in capsys.readouterr().err
    if box[0] < 0:
        assert label.boxes[-1].tolist() == [0, 0, 9, 9]
    else:
        assert label.size == len(drawn()["train"][0].boxes)


def test_masks_of_another_size_and_more_or_fewer_than_boxes_are_refused(tmp_path):
    def first(change):
        return lambda columns: columns["instances"].__setitem__(0, png(change(drawn()["train"][0].instances)))

    message = r"row 0 has a mask of 96 x 48 pixels, but its image has 48 x 48: give masks of that size"
    with pytest.raises(RunError, match=message):
        objects(write_tables(tmp_path / "size", first(lambda pixels: pixels.repeat(2, 0))), masks=True)
    with pytest.raises(RunError, match=r"row 0 has \d boxes or classes, but its map of masks has the number 9: number"):
        objects(
            write_tables(tmp_path / "count", first(lambda pixels: np.where(pixels, pixels, 9).astype(np.uint8))),
            masks=True,
        )


def test_category_numbers_that_no_name_is_given_for_are_refused(tmp_path):
    def numbers(columns):
        for cell in columns["objects"]:
            cell["category"] = [5 for _ in cell["category"]]

    root = write_tables(tmp_path / "d", numbers)
    for split in ("validation", "test"):
        (root / f"{split}.parquet").unlink()
    found = objects(root, class_names=NAMES)
    assert {number for label in found.train.column("label") for number in label.classes} == {5}
    with pytest.raises(RunError, match=r"has the category 5, but there are the classes zero, one: correct it, or name"):
        objects(root, class_names=NAMES[:2])


def test_classes_that_the_training_maps_lack_are_told(tmp_path, capsys):
    found = maps(write_tables(tmp_path / "d"), class_names=["canvas", *NAMES, "ten"])
    assert found.class_names == [*NAMES, "ten"]
    lacking = {*range(11)} - {int(number) for scene in drawn()["train"] for number in scene.classes}
    told = ", ".join(found.class_names[number] for number in sorted(lacking))
    assert len(lacking) > 1
    assert f"no pixel of the training maps has, so that they cannot be learnt: {told}\n" in capsys.readouterr().err


def test_images_without_objects_are_allowed_and_counted(tmp_path, capsys):
    found = objects(write_tables(tmp_path / "d", boxed(lambda boxes: [])), columns=COLUMNS | {"classes": None})
    assert found.train.column("label")[0].boxes.shape == (0, 4) and found.class_names == ["object"]
    assert "train: 1 images without any object" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"data.missing=drop, but images without annotation are examples"):
        objects(tmp_path / "d", missing="drop")


def test_classes_that_training_lacks_are_told(tmp_path, capsys):
    objects(write_tables(tmp_path / "d"))
    lacking = {NAMES[n] for split in ("validation", "test") for scene in drawn()[split] for n in scene.classes}
    lacking -= {NAMES[n] for scene in drawn()["train"] for n in scene.classes}
    told = capsys.readouterr().err
    assert lacking and all(f"{name} (" in told for name in lacking) and "cannot be found" in told


def test_numbers_of_classes_are_those_that_occur(tmp_path):
    def sparse(columns):
        columns["kinds"] = [[10**9 + 3 * NAMES.index(name) for name in cell["category"]] for cell in columns["objects"]]

    root = write_tables(tmp_path / "d", sparse)
    shutil.move(root / "train.parquet", tmp_path / "numbers.parquet")
    found = objects(tmp_path / "numbers.parquet", columns=COLUMNS | {"classes": "kinds"})
    numbers = sorted({10**9 + 3 * int(number) for scene in drawn()["train"] for number in scene.classes})
    assert found.class_names == list(map(str, numbers))
    first = found.train.column("label")[0].classes.tolist()
    row = int(found.train.rows[0])
    assert [numbers[n] for n in first] == [10**9 + 3 * int(n) for n in drawn()["train"][row].classes]


def test_objects_may_be_null_or_a_list_with_a_box_and_a_class_each(tmp_path):
    def listed(columns):
        columns["objects"] = [
            [{"bbox": box, "category": name} for box, name in zip(cell["bbox"], cell["category"], strict=True)]
            for cell in columns["objects"]
        ]
        columns["objects"][0] = columns["instances"][0] = None

    shutil.move(write_tables(tmp_path / "d", listed) / "train.parquet", tmp_path / "lists.parquet")
    whole = objects(write_tables(tmp_path / "whole"))
    found = objects(tmp_path / "lists.parquet", masks=True)
    read = {int(row): label for part in found[:3] for row, label in zip(part.rows, part.column("label"), strict=True)}
    for row, label in enumerate(whole.train.column("label")):
        assert read[row].boxes.tolist() == (label.boxes.tolist() if row else [])
        assert len(read[row].masks) == read[row].size


def renumbered(change):
    return lambda columns: columns["instances"].__setitem__(0, png(change(drawn()["train"][0].instances)))


def test_maps_of_objects_may_leave_numbers_out(tmp_path, capsys):
    def lift(pixels):
        return np.where(pixels, pixels.astype(np.uint16) + 60000, 0).astype(np.uint16)

    alone = COLUMNS | {"boxes": None, "classes": None}
    found = objects(write_tables(tmp_path / "alone", renumbered(lift)), columns=alone, masks=True)
    assert found.train.column("label")[0].size == len(drawn()["train"][0].classes)
    assert "without area" not in capsys.readouterr().err
    last = len(drawn()["train"][0].classes)
    hide = renumbered(lambda pixels: np.where(pixels == last, 0, pixels).astype(np.uint8))
    hidden = objects(write_tables(tmp_path / "hidden", hide), masks=True).train.column("label")[0]
    assert hidden.size == last - 1 and "1 objects without area (left out)" in capsys.readouterr().err


def test_every_run_of_a_mask_and_every_digit_of_a_box_is_in_the_fingerprint():
    def digest(boxes, runs):
        mask = Mask((2, len(runs) // 2), runs)
        return Examples.of(label=[Objects(boxes, np.zeros(1, np.int64), masks=[mask])]).digest()

    box, runs = np.array([[0.0, 0.0, 1.0, 1.0]]), np.ones(4000, np.int64)
    moved = runs.copy()
    moved[2000:2003] = 0, 3, 0
    assert digest(box, runs) == digest(box.copy(), runs.copy())
    assert len({digest(box, runs), digest(box, moved), digest(box + 1e-12, runs)}) == 3


def test_what_cannot_be_learnt_from_is_refused_before_training(tmp_path):
    found = objects(write_tables(tmp_path / "d"))
    with pytest.raises(RunError, match=r"the class name 'one' twice: give each class its own"):
        Detection.collect_labels(found._replace(class_names=["one", "two", "one"]))
    none = [Objects.none() for _ in found.train.columns["label"]]
    train = found.train._replace(columns=found.train.columns | {"label": none})
    with pytest.raises(RunError, match=r"training images without any object to learn from: .*fraction"):
        Detection.collect_labels(found._replace(train=train))
    root = write_maps(tmp_path / "m", endings=(".jpg", ".png"), flat=True)
    (root / "lists").mkdir()
    (root / "lists" / "val.txt").write_text("validation_0")
    files = {"image": "images/*.jpg", "mask": "annotations/*.png"}
    told = {"lists": r"got validation and no training examples: name", "lost": r"data.lists=lost: found no split: name"}
    for lists, expected in told.items():
        with pytest.raises(RunError, match=expected):
            maps(root, files=files, lists=lists, class_names=[str(number) for number in range(11)])


def test_names_that_are_numbers_are_no_ids(tmp_path):
    def named(content):
        for row, category in enumerate(content["categories"]):
            category["name"] = 10 * (row + 2)

    root = write_coco(tmp_path / "d", named)
    for split in ("validation", "test"):
        (root / "annotations" / f"instances_{split}.json").unlink()
    assert objects(root).class_names == [str(10 * (row + 2)) for row in range(10)]


def of_first(**changed):
    return lambda content: content["annotations"][0].update(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_first(category_id=99), "image 0 has the category 99, but there are the ids 10, 20"),
        (of_first(image_id=99), "annotation 1 is of image 99, which is not there"),
        (
            of_first(segmentation={"size": [9, 9], "counts": [81]}),
            "has a mask of 9 x 9 pixels, but its image has 48 x 48",
        ),
        (of_first(segmentation={"size": [48, 48], "counts": [81]}), "a mask whose run lengths cannot be read"),
        (of_first(segmentation={"size": [48], "counts": "abc"}), "a mask whose run lengths cannot be read"),
        (of_first(segmentation={"size": [48, 48], "counts": [10**30]}), "a mask whose run lengths cannot be read"),
        (of_first(segmentation=[[0, 0, 1e12, 0, 5, 5]]), "a polygon with a point at 1e.12, in 48 x 48 pixels"),
        (of_first(segmentation=[[0, 0, float("nan"), 0, 5, 5]]), "a polygon with a point at nan"),
        (of_first(iscrowd="0"), "image 0 has an annotation whose iscrowd is '0': give 0 or 1"),
        (of_first(category_id=[]), r"annotations has an entry whose category_id is \[\]: give a number or text"),
        (of_first(image_id={}), "annotations has an entry whose image_id is {}: give a number or text"),
        (lambda content: content["categories"][0].update(id="x"), "has the category 10, but there are the ids 20"),
        (lambda content: content["categories"][1].update(id=10), "categories has the id 10 twice: give each its own"),
        (lambda content: content["images"][1].update(id=0), "images has the id 0 twice: give each its own"),
        (of_first(segmentation=[[1, 2, 3, 4]]), "a polygon of 2 points"),
        (lambda content: content["images"][0].update(width=50), "said to have 48 x 50 pixels"),
        (
            lambda content: content["images"][0].update(file_name="x.png"),
            "names the image x.png, which lies in none of",
        ),
        (lambda content: content.pop("categories"), "has no list 'categories'"),
        (lambda content: content["annotations"][0].pop("bbox"), "has an entry without 'bbox'"),
        (lambda content: content["categories"][0].update(name="nought"), "have different categories"),
    ],
)
def test_a_wrong_json_is_refused(change, message, tmp_path):
    with pytest.raises(RunError, match=message):
        objects(write_coco(tmp_path / "d", change), masks=True)


def test_crowds_and_polygons_are_read(tmp_path):
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    root = write_coco(tmp_path / "d", of_first(iscrowd=1, segmentation=square))
    label = objects(root, masks=True).train.column("label")[0]
    assert label.crowd[0] and label.masks[0].area == 100 and not label.crowd[1:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("<xmin>", "<xmin>x"), "has bndbox/xmin='x.*', which is no number"),
        (lambda text: text.replace("name>", "nom>"), "has an object without name"),
        (lambda text: text.replace("</annotation>", ""), "is not readable as xml"),
        (lambda text: text.replace("<width>48", "<width>50"), "says 48 x 50 pixels"),
        (lambda text: text.replace("<width>48", "<width>inf"), "says 48 x inf pixels"),
        (lambda text: text.replace("<width>48", "<width>x"), "train_0.xml has size/width='x', which is no number"),
        (lambda text: '<?xml version="1.0" encoding="klingon"?>' + text, "train_0.xml is not readable as xml"),
        (lambda text: '<?xml version="1.0" encoding="cp932"?>' + text, "train_0.xml is not readable as xml"),
        (lambda text: "<!DOCTYPE a [<!ENTITY b 'c'>]>" + text, "declares entities"),
        (lambda text: text.replace("annotation>", "note>"), "begins with <note>"),
    ],
)
def test_a_wrong_xml_is_refused(change, message, tmp_path):
    with pytest.raises(RunError, match=message):
        objects(write_voc(tmp_path / "d", change))


def test_difficult_objects_are_ignored_and_lists_must_be_complete(tmp_path):
    root = write_voc(tmp_path / "d", lambda text: text.replace("<difficult>0", "<difficult>1", 1))
    label = objects(root).train.column("label")[0]
    assert label.left_out[0] and not label.left_out[1:].any() and not label.crowds.any()
    with (root / "ImageSets" / "Main" / "train.txt").open("a") as file:
        file.write("\nmissing 1\n")
    with pytest.raises(RunError, match=r"lists missing, but there is no .*missing\.xml"):
        objects(root)


def semantic(scene):
    return np.where(scene.semantic == 0, IGNORED, scene.semantic.astype(int))


def test_label_maps_are_the_same_in_folders_and_tables(tmp_path):
    names = ["canvas", *NAMES]
    files = {"image": "images/*jpg.png", "mask": "annotations/*_labels.png"}
    folders = maps(write_maps(tmp_path / "f"), files=files, class_names=names)
    tables = maps(write_tables(tmp_path / "t"), class_names=names)
    assert folders.class_names == tables.class_names == NAMES
    for split, scenes in drawn().items():
        for found in (folders, tables):
            examples = getattr(found, split)
            for image, label, scene in zip(examples.column("image"), examples.column("label"), scenes, strict=True):
                assert (image == scene.image).all()
                assert (np.where(label == IGNORED, IGNORED, label + 1) == semantic(scene)).all()


def test_label_maps_that_cannot_be_meant_are_refused(tmp_path):
    files = {"image": "images/*jpg.png", "mask": "annotations/*_labels.png"}
    with pytest.raises(RunError, match=r"has 24 x 48 pixels, but its image has 48 x 48"):
        maps(write_maps(tmp_path / "size", lambda pixels: pixels[:24]), files=files)
    with pytest.raises(RunError, match="is an image of mode RGB, not a map"):
        maps(write_maps(tmp_path / "rgb", lambda pixels: np.stack([pixels] * 3, 2)), files=files)
    with pytest.raises(RunError, match=r"the maps of train hold the numbers \[77\], but the classes are \[1, 2"):
        maps(write_maps(tmp_path / "odd", lambda pixels: pixels * 0 + 77), files=files, class_names=["canvas", *NAMES])
    with pytest.raises(RunError, match="one class only"):
        maps(write_maps(tmp_path / "one", lambda pixels: (pixels > 0).astype(np.uint8)), files=files)
    with pytest.raises(RunError, match=r"matches no file below"):
        maps(tmp_path / "one", files=files | {"mask": "masks/*.png"})
    with pytest.raises(RunError, match=r"must stand for the same in both"):
        maps(tmp_path / "one", files=files | {"mask": "annotations/*s.png"})


def preset(task, root):
    config = compose([f"task={task}", "handoff=x", f"data.path={root}"])
    return instantiate(config.data).splits()


def test_presets_read_the_folders_that_data_sets_come_in(tmp_path):
    assert preset("voc_detection", write_voc(tmp_path / "voc")).test.size == 3
    coco = write_coco(tmp_path / "coco")
    for split, name in (("train", "train2017"), ("validation", "val2017")):
        (coco / split).rename(coco / name)
        (coco / "annotations" / f"instances_{split}.json").rename(coco / "annotations" / f"instances_{name}.json")
    (coco / "annotations" / "captions_train2017.json").write_text("{}")
    for task, masks in (("coco_detection", False), ("coco_instances", True)):
        found = preset(task, coco)
        assert (found.train.size, found.validation.size, found.test.size) == (5, 1, 3)
        assert (found.test.column("label")[0].masks is not None) == masks
    ade = write_maps(tmp_path / "ade", endings=(".jpg", ".png"), names={"train": "training"})
    shutil.rmtree(ade / "images" / "test")
    found = preset("ade20k", ade)
    assert (found.train.size, found.validation.size, found.test.size) == (5, 1, 3)
    endings = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
    names = {"train": "train/a", "validation": "val/b", "images": "leftImg8bit", "annotations": "gtFine"}
    found = preset("cityscapes", write_maps(tmp_path / "cities", endings=endings, names=names))
    assert (found.train.size, found.validation.size, found.test.size) == (5, 1, 3)
    assert len(found.class_names) == 19 and found.test.column("label")[0].shape == (48, 48)
    lists = write_maps(tmp_path / "voc2", endings=(".jpg", ".png"), flat=True)
    shutil.move(lists / "images", lists / "JPEGImages")
    shutil.move(lists / "annotations", lists / "SegmentationClass")
    (lists / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = "\n".join(f"{split}_{row}" for row in range(len(drawn()[split])))
        (lists / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(rows)
    found = preset("voc_segmentation", lists)
    assert (found.train.size, found.validation.size, found.test.size) == (6, 3, 3)
