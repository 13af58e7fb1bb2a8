"""Pictures of what is there and what was found: pixels where they belong, and the same in W&B's viewers."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import wandb
from PIL import Image

from finetuning.dense.drawing import GAP, LINE, colour, in_one, with_map, with_objects
from finetuning.dense.masks import encode
from finetuning.dense.objects import Objects
from finetuning.dense.viewers import with_boxes, with_masks
from tests.experiments import wandb_files
from tests.finetuning.conftest import Finetune
from tests.finetuning.dense.made_up import write_one

GREY = np.full((1, 64, 64), 100, np.uint8)


def mask(*box: int) -> np.ndarray:
    left, top, right, bottom = box
    pixels = np.zeros((64, 64), bool)
    pixels[top:bottom, left:right] = True
    return pixels


def found(*, scores=(0.9, 0.2), masks=False) -> Objects:
    boxes = np.array([[8.0, 16, 24, 48], [40, 40, 60, 60]])
    shapes = [encode(mask(*box.astype(int))) for box in boxes] if masks else None
    return Objects(boxes, np.array([1, 0]), None if scores is None else np.array(scores), masks=shapes)


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class_with_name_and_score():
    picture = np.asarray(with_objects(GREY, found(), ["red cell", "blue cell"]))
    assert picture.shape == (256, 256, 3)  # four times as large
    for place in [(100, 32), (100, 95), (64, 60), (191, 60)]:  # left, right, top, bottom
        assert tuple(picture[place]) == colour(1), place
    assert tuple(picture[100, 60]) == (100, 100, 100)
    assert (picture[46:64, 34:90] == 0).all(2).sum() > 200  # the name's ground
    assert (picture[150:] == colour(0)).all(2).sum() == 0 and (picture[150:, 150:] == 100).all()  # not worth drawing
    annotated = np.asarray(with_objects(GREY, found(scores=None), ["red cell", "blue cell"]))
    assert tuple(annotated[200, 160]) == colour(0)


def test_masks_lie_half_over_the_image_and_the_first_on_top():
    picture = np.asarray(with_objects(GREY, found(masks=True), ["a", "b"]))
    assert np.abs(picture[150, 60].astype(int) - (np.array(colour(1)) + 100) / 2).max() <= 1
    same = np.array([[8.0, 8, 40, 40], [8, 8, 40, 40]])
    both = Objects(same, np.array([1, 0]), np.array([0.9, 0.8]), masks=[encode(mask(8, 8, 40, 40))] * 2)
    shown = np.asarray(with_objects(GREY, both, ["a", "b"]))
    assert np.abs(shown[120, 100].astype(int) - (np.array(colour(1)) + 100) / 2).max() <= 1


def test_large_images_are_shrunk_with_their_boxes():
    wide = np.full((3, 600, 1024), 100, np.uint8)
    picture = np.asarray(with_objects(wide, Objects(np.array([[200.0, 200, 400, 400]]), np.array([2])), list("abc")))
    assert picture.shape == (300, 512, 3)
    assert tuple(picture[150, 100]) == tuple(picture[150, 199]) == tuple(picture[199, 150]) == colour(2)


def test_wide_pictures_stand_above_each_other_and_classes_without_names_have_a_legend():
    classes = np.full((40, 80), -1)
    classes[:20] = 3
    picture = with_map(np.full((1, 40, 80), 100, np.uint8), classes)
    assert picture.size == (240, 120)
    pixels = np.asarray(picture)
    assert np.abs(pixels[10, 10].astype(int) - (np.array(colour(3)) + 100) / 2).max() <= 1
    assert (pixels[70:] == 100).all()
    assert in_one([picture, picture]).size == (240, 2 * (120 + LINE) + GAP)
    square = Image.new("RGB", (256, 256))
    assert in_one([square, square]).size == (2 * 256 + GAP, 256 + LINE)
    named = np.asarray(in_one([picture, picture], [("tree", 3), ("a very long name of a class", 5), ("car", 0)]))
    first, second = (2 * (120 + LINE) + 2 * GAP + line * LINE for line in (0, 1))
    assert tuple(named[first + 8, 6]) == colour(3) and tuple(named[second + 8, 6]) in (colour(5), colour(0))


def test_w_and_b_is_told_what_was_drawn():
    told = with_boxes(GREY, "a.png", [found(scores=None, masks=True), found(masks=True)], ["red", "blue"])
    (box,) = told["boxes"]["predictions"]["box_data"]
    assert box["position"] == {"minX": 8.0, "minY": 16.0, "maxX": 24.0, "maxY": 48.0} and box["domain"] == "pixel"
    assert box["class_id"] == 2 and box["box_caption"] == "blue 0.90" and box["scores"] == {"score": 0.9}
    assert told["boxes"]["predictions"]["class_labels"] == {1: "red", 2: "blue"}
    assert [part["box_caption"] for part in told["boxes"]["ground_truth"]["box_data"]] == ["blue", "red"]
    masks = told["masks"]["ground_truth"]
    assert masks["class_labels"] == {0: "none", 1: "red", 2: "blue"}
    assert (masks["mask_data"] == np.where(mask(8, 16, 24, 48), 2, np.where(mask(40, 40, 60, 60), 1, 0))).all()
    assert "masks" not in with_boxes(GREY, "a.png", [found(), found()], ["red", "blue"])
    maps = with_masks(GREY, "a.png", [np.full((64, 64), -1), np.full((64, 64), 1)], ["red", "blue"])
    assert (maps["masks"]["ground_truth"]["mask_data"] == 0).all()
    assert (maps["masks"]["predictions"]["mask_data"] == 2).all()
    assert "masks" not in with_masks(GREY, "a.png", [np.zeros((64, 64))] * 2, ["x"] * 256)  # a byte holds no more


@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_an_offline_run_holds_images_with_boxes_and_masks(
    task: str, finetune: Finetune, resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "client"))
    (tmp_path / "client").mkdir()
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()
    data = [f"task={task}", f"handoff={resnet}", f"data.path={write_one(tmp_path / 'd')}", "task.width=32"]
    short = ["trainer.max_steps=1", "trainer.val_every=1", "logger.wandb.mode=offline", "data.batch_size=1"]
    run = finetune(*data, *short)
    wandb.teardown()
    rows = [entry for row in wandb_files.read(run)["history"] for entry in row.items()]
    images = {name.removeprefix("test/pictures/"): value for name, value in rows if "/pictures/" in name}
    assert images["_type"] == "images/separated" and images["count"] == 1
    (row,) = pq.read_table(run / "predictions.parquet").to_pylist()
    assert images["captions"] == [row["name"]]
    files = next(run.glob("wandb/offline-run-*/files"))
    assert Image.open(files / images["filenames"][0]).size == (48, 48)
    if task == "detection":
        boxes = json.loads((files / images["all_boxes"][0]["ground_truth"]["path"]).read_text())["box_data"]
        corners = [[box["position"][edge] for edge in ("minX", "minY", "maxX", "maxY")] for box in boxes]
        assert corners == [thing["box"] for thing in row["label"]]
        assert [box["box_caption"] for box in boxes] == ["red", "blue", "red"]
    else:
        drawn = np.asarray(Image.open(files / images["all_masks"][0]["ground_truth"]["path"]))
        assert drawn.shape == (48, 48) and set(np.unique(drawn)) == {1, 2, 3}
