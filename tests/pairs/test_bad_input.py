"""Pairs that cannot be learnt from end a command in one line, before there is a run directory."""

import json
import re

import pytest
from PIL import Image

from pretraining.cli.configuration import compose
from pretraining.errors import RunError
from pretraining.launch import main
from tests.pairs.test_runs import QUIET, SMALL

COUNT = 24


def photos(folder, change=lambda rows: None):
    rows = []
    for number in range(COUNT):
        Image.new("RGB", (32, 32), (number * 9, 255 - number * 9, 50)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "text": f"picture number {number}"})
    change(rows)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def pretrain(folder, *words):
    small = [word for word in SMALL if not word.startswith(("data.size", "data.scenes", "data.held_out"))]
    given = [f"data.path={folder}", f"data.cache_dir={folder / 'cache'}", f"run_dir={folder / 'run'}"]
    return main(compose(["objective=clip", "data=image_text", *small, "trainer.max_steps=1", *given, *words]))


def refused(folder, told, *words):
    with pytest.raises(RunError, match=told) as error:
        pretrain(folder, *words)
    assert "\n" not in str(error.value) and not (folder / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[3].update(image=None), r"1 empty values in column 'image'"),
        (lambda rows: [row.pop("image") for row in rows], r"no column 'image': set data.columns to two of text"),
        (
            lambda rows: rows[3].update(image="gone.png"),
            r"line 4: the image gone.png does not exist .*correct its path",
        ),
        (
            lambda rows: rows[3].update(text=" "),
            r"line 4 has an image, but the caption ' ': write one, or drop the row",
        ),
        (lambda rows: rows[3].update(text=[]), r"line 4 has an image, but the caption none: write one"),
        (lambda rows: rows[3].update(text=["a", ""]), r"line 4 has an image, but the caption '': write one"),
        (lambda rows: rows.clear(), r"captions.jsonl"),
    ],
)
def test_rows_that_make_no_pair_end_the_command(tmp_path, change, told):
    refused(photos(tmp_path, change), told)


@pytest.mark.parametrize("gigabytes", [32.0, 0.0])
def test_an_unreadable_image_is_named_with_its_row(tmp_path, gigabytes):
    """Also where images are decoded each time they are read."""
    photos(tmp_path)
    for number in range(COUNT):
        (tmp_path / f"{number}.png").write_bytes((tmp_path / f"{number}.png").read_bytes()[:40] + bytes([number]))
    told = r"\d+.png \(.*captions.jsonl, line \d+\) is not a readable image"
    refused(tmp_path, told, f"data.decoding.max_cache_gb={gigabytes}")


def test_captions_longer_than_the_network_are_cut_and_counted(tmp_path, capsys):
    def lengthen(rows):
        for row in rows[::2]:
            row["text"] = "picture " * 100

    run = pretrain(photos(tmp_path, lengthen), "collate.sides.text.max_tokens=8")
    share = json.loads((run / "metrics.json").read_text())["data/text_cut_share"]
    said = capsys.readouterr().err
    ((cut, looked_at),) = re.findall(
        r"(\d+) of (\d+) captions looked at are longer than collate.sides.text.max_tokens=8", said
    )
    assert 0.2 < share < 0.8 and share == int(cut) / int(looked_at)


def test_captions_that_are_alike_behind_the_cut_are_told(tmp_path, capsys):
    def lengthen(rows):
        for number, row in enumerate(rows):
            row["text"] = "picture " * 10 + f"{number} of them"

    pretrain(photos(tmp_path, lengthen), "collate.sides.text.max_tokens=8")
    told = r"\d+ different captions looked at are 1 to the network that reads them: "
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["objective=simclr"], r"SimCLR learns from image, data=ImageTextFiles is pairs"),
        (["objective=masked_language"], r"MaskedLanguage learns from text, data=ImageTextFiles is pairs"),
        (["backbone=resnet_tiny"], r"backbone=TorchvisionBackbone reads image: choose three of one kind"),
        (["backbone.locked=[sound]"], r"backbone.locked=\['sound'\]: name one of the towers image, text"),
        (["~backbone.towers.text"], r"backbone.towers are image, and the data's sides image, text"),
        (["~collate.sides.text"], r"collate.sides are image, and the data's sides image, text"),
        (["data.batch_size=1"], r"data.batch_size=1: Clip compares the examples of a step: give at least 2"),
        (["collate.sides.text.max_tokens=2"], r"max_tokens=2 leaves no room beside 2 special tokens"),
    ],
)
def test_parts_that_do_not_fit_pairs_are_refused(tmp_path, words, told):
    photos(tmp_path)
    with pytest.raises(RunError, match=told) as error:
        given = [f"data.path={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
        main(compose(["objective=clip", "data=image_text", "probe=none", *QUIET, *given, "data.batch_size=4", *words]))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
