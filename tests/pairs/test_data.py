"""Pairs in files: what belongs to what, in which split, and what is refused."""

import csv
import functools
import gzip
import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pretraining.data.loader import joined
from pretraining.image.augment import Blur, Crop, Jitter, Output, Views
from pretraining.image.collate import AugmentedImages, StackImages
from pretraining.image.data.decode import Decoding
from pretraining.image.data.scenes import DigitScenes
from pretraining.image.preprocess import ImagePreprocess
from pretraining.pairs.collate import PairCollate
from pretraining.pairs.data.base import PairExamples, table_of
from pretraining.pairs.data.captions import captions_of
from pretraining.pairs.data.contents import Seen, Stored, told_apart
from pretraining.pairs.data.files import ImageTextFiles
from pretraining.pairs.data.hub import HubImageText
from pretraining.pairs.data.scenes import SceneCaptions
from pretraining.pairs.preprocess import PairPreprocess
from pretraining.random import Keys
from pretraining.text.raw import RawTexts, TokeniseTexts
from pretraining.text.tokenizer_recipes import WordPiece

COLOURS = [(k * 8, 255 - k * 8, (k * 70) % 256) for k in range(30)]


def opened(path, tmp_path, **changes):
    settings = {
        **{"columns": {"image": "image", "text": "text"}, "decoding": Decoding(size=4)},
        **{"shares": {"validation": 0.3, "test": 0.3}, "batch_size": 1, "eval_batch_size": 1, "workers": 0},
        "cache_dir": tmp_path / "cache",
    }
    return ImageTextFiles(path=str(path) if not isinstance(path, dict) else path, **(settings | changes))


def pictures(folder):
    (folder / "pictures").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (6, 4), colour).save(folder / "pictures" / f"{number}.png")
    return [f"pictures/{number}.png" for number in range(len(COLOURS))]


def written(folder, rows, kind="jsonl", name="captions"):
    if kind == "jsonl":
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["image", "text"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        cells = [{"image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}, "text": row["text"]}
                 for row in rows]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(cells), folder / f"{name}.parquet")
    return folder


def shards(folder, rows, name="pairs-000000", texts="txt", extra=()):
    """Write a tar in WebDataset's layout; `rows` are (key, picture's file, caption or captions)."""
    with tarfile.open(folder / f"{name}.tar", "w") as shard:

        def add(member, content):
            header = tarfile.TarInfo(member)
            header.size = len(content)
            shard.addfile(header, io.BytesIO(content))

        for key, picture, text in rows:
            add(f"{key}.png", (folder / picture).read_bytes())
            content = text if texts == "txt" else json.dumps({"text": text, "url": "nowhere"})
            add(f"{key}.{texts}", content.encode())
        for member, content in extra:
            add(member, content)
    return folder


def everything(data):
    """List (colour, caption, all captions) of every row of every split."""
    rows = {}
    for split in ("train", "validation", "test"):
        source = data.source(split)
        read = source.read(0, np.arange(source.count(0)))
        colours = [tuple(image[:, 0, 0].tolist()) for image in read.sides["image"].images]
        rows[split] = list(zip(colours, read.sides["text"].texts.tolist(), read.captions.tolist(), strict=True))
        assert len(set(colours)) == len(set(read.example.tolist())) == len(set(zip(colours, read.example, strict=True)))
    return rows


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_rows_of_an_image_add_up_and_stay_in_one_split(tmp_path, kind):
    names = pictures(tmp_path)
    rows = [{"image": name, "text": f"{word} of {name}"} for word in ("a view", "this") for name in names]
    found = everything(opened(written(tmp_path, rows, kind), tmp_path))
    assert sorted(itertools.chain(*found.values()))[0][0] in COLOURS
    assert sum(map(len, found.values())) == 60 and all(found.values())
    where = {split: {colour for colour, _, _ in part} for split, part in found.items()}
    assert sum(map(len, where.values())) == 30  # of disjoint sets
    for colour, text, captions in itertools.chain(*found.values()):
        name = names[COLOURS.index(colour)]
        assert text in (f"a view of {name}", f"this of {name}")
        assert captions == [f"a view of {name}", f"this of {name}"]


@pytest.mark.parametrize("kind", ["table", "tar"])
def test_images_of_the_same_name_in_several_folders_are_several(tmp_path, kind):
    """And a file is one image, whichever way its path is written."""
    pictures(tmp_path)
    for folder, part in (("a", COLOURS[:15]), ("b", COLOURS[15:])):
        (tmp_path / folder).mkdir()
        for number, colour in enumerate(part):
            Image.new("RGB", (6, 4), colour).save(tmp_path / folder / f"{number}.png")
        texts = [(f"{number}.png", f"{folder} {number}") for number in range(len(part))]
        if kind == "tar":
            shards(tmp_path / folder, [(name[:-4], name, text) for name, text in texts])
            continue
        again = [{"image": f"../{folder}/./{name}", "text": f"again {text}"} for name, text in texts]
        written(tmp_path / folder, [*({"image": name, "text": text} for name, text in texts), *again])
    found = everything(opened(tmp_path / "[ab]" / ("*.tar" if kind == "tar" else "*.jsonl"), tmp_path))
    seen = {}
    for split, (colour, text, _) in ((split, row) for split, part in found.items() for row in part):
        seen.setdefault(colour, []).append((text, split))
    assert set(seen) == set(COLOURS)
    for place, colour in enumerate(COLOURS):
        own = f"{'ab'[place // 15]} {place % 15}"
        assert [text for text, _ in seen[colour]] == [own, f"again {own}"][: 1 + (kind == "table")]
        assert len({split for _, split in seen[colour]}) == 1


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tar"])
def test_the_same_picture_under_several_names_is_one(tmp_path, kind, capsys):
    """In one split, with all captions; pictures that differ at their first byte alone are two."""
    names = pictures(tmp_path)
    copies = [f"pictures/copy {number}.png" for number in range(len(names))]
    for name, copy in zip(names, copies, strict=True):
        (tmp_path / copy).write_bytes((tmp_path / name).read_bytes())
    rows = [{"image": name, "text": text} for part, text in ((names, "see"), (copies, "again"), (copies[:3], "see"))
            for name in part]  # fmt: skip
    if kind == "tar":
        shards(tmp_path, [(f"{number:05}", *row.values()) for number, row in enumerate(rows)])
    else:
        written(tmp_path, rows, kind)
    found = everything(opened(tmp_path / "*.tar" if kind == "tar" else tmp_path, tmp_path))
    assert sum(map(len, found.values())) == 60 and all(found.values())
    assert sorted(colour for part in found.values() for colour in {colour for colour, _, _ in part}) == sorted(COLOURS)
    assert all(captions == ["see", "again"] for part in found.values() for _, _, captions in part)
    count = {"jsonl": 30, "parquet": None, "tar": 33}[kind]
    told = f"{count} images are byte by byte another of their split, such as"
    assert (told in capsys.readouterr().err) == (count is not None)  # what a table holds has no name but its content


def test_contents_are_told_apart_by_as_little_as_is_needed(tmp_path):
    random = np.random.default_rng(0)
    big = random.bytes(3 * 2**20 + 5)
    told = {"big": big, "its copy": big, "other first byte": b"x" + big[1:], "other last": big[:-1] + b"x",
            "short": big[:-7], "empty": b"", "nothing": b""}  # fmt: skip
    (tmp_path / "all").write_bytes(b"".join(told.values()))
    starts = np.cumsum([0, *map(len, told.values())])
    stored = [Stored(tmp_path / "all", int(start), len(own)) for start, own in zip(starts, told.values(), strict=False)]
    whole, reads = Stored.digest, []

    class Counted(Stored):
        def digest(self):
            reads.append(self.start)
            return whole(self)

    for contents in ([Counted(*one) for one in stored], list(map(Seen.of, told.values())),
                     [Seen.of(own) if n % 2 else stored[n] for n, own in enumerate(told.values())]):  # fmt: skip
        names = {}
        for name, key in zip(told, told_apart(contents), strict=True):
            names.setdefault(key, []).append(name)
        assert list(names.values()) == [["big", "its copy"], ["other first byte"], ["other last"], ["short"],
                                        ["empty", "nothing"]]  # fmt: skip
    assert len(reads) == 5  # neither the one with another end nor that of another size
    assert [one.read() for one in stored] == list(told.values())


def test_numbers_are_found_among_the_texts_of_a_csv(tmp_path):
    rows = [{"image": name, "text": str(5 + number % 2)} for number, name in enumerate(pictures(tmp_path))]
    found = everything(opened(written(tmp_path, rows, "csv"), tmp_path, only={"text": 5}))
    assert [text for part in found.values() for _, text, _ in part] == ["5"] * 15


@pytest.mark.parametrize("texts", ["txt", "json"])
def test_shards_hold_what_their_tables_would(tmp_path, texts):
    names = pictures(tmp_path)
    words = [f"see {name}" if texts == "txt" else [f"see {name}", "a colour"] for name in names]
    rows = [(f"{number:05}", name, text) for number, (name, text) in enumerate(zip(names, words, strict=True))]
    extra = [("00000.cls", b"3"), ("._00000.txt", b"hidden"), ("README.md", b"hello")]
    shards(tmp_path, rows[:20], "train-0000", texts, extra)
    shards(tmp_path, rows[20:25], "train-0001", texts)
    shards(tmp_path, [("00000", *rows[25][1:]), *rows[26:]], "val-0000", texts)
    data = opened(str(tmp_path / "*.tar"), tmp_path, shares={"validation": 0.0, "test": 0.4})
    found = everything(data)
    each = 1 if texts == "txt" else 2
    assert len(found["validation"]) == 5 * each and len(found["train"]) + len(found["test"]) == 25 * each
    assert found["train"] and found["test"]
    seen = {}
    for colour, text, captions in itertools.chain(*found.values()):
        seen.setdefault(colour, []).append(text)
        own = words[COLOURS.index(colour)]
        assert captions == ([own] if texts == "txt" else own)
    assert seen == {colour: [text] if texts == "txt" else text for colour, text in zip(COLOURS, words, strict=True)}
    known = data.fingerprint()
    shards(tmp_path, [("00025", names[0], words[0]), *rows[26:]], "val-0000", texts)
    assert opened(str(tmp_path / "*.tar"), tmp_path, shares={"validation": 0.0, "test": 0.4}).fingerprint() != known


@pytest.mark.parametrize(
    ("extra", "texts", "told"),
    [
        ([("7.png", b"x")], "txt", r"p.tar, 7 has no caption \(\.txt or \.json\)"),
        ([("7.txt", b"a thing")], "txt", r"p.tar, 7 has no image"),
        ([("7.png", b"x"), ("7.txt", b"  ")], "txt", r"p.tar, 7 has an image, but the caption ''"),
        ([("7.png", b"x"), ("7.txt", b"\xff")], "txt", r"7.txt is not UTF-8"),
        ([("7.png", b"x"), ("7.json", b"{")], "json", r"7.json is not JSON"),
        (
            [("7.png", b"x"), ("7.json", b'{"caption": "a"}')],
            "json",
            r"7.json has no 'text', but caption: set data.col",
        ),
        ([("0.png", b"x")], "txt", r"p.tar holds 0.png twice .*: give each example a name of its own"),
        ([("0.TXT", b"x")], "txt", r"p.tar holds 0.TXT twice"),
    ],
)
def test_shards_that_make_no_pair_are_refused_with_their_place(tmp_path, extra, texts, told):
    names = pictures(tmp_path)
    shards(tmp_path, [(f"{number}", name, "see") for number, name in enumerate(names[:5])], "p", texts, extra)
    with pytest.raises(ValueError, match=told):
        opened(tmp_path / "p.tar", tmp_path)


def test_damaged_shards_and_shards_beside_tables_are_refused(tmp_path):
    names = pictures(tmp_path)
    shards(tmp_path, [(f"{number}", name, "see") for number, name in enumerate(names)], "p")
    content = (tmp_path / "p.tar").read_bytes()
    written(tmp_path, [{"image": name, "text": "see"} for name in names])
    with pytest.raises(ValueError, match=r"give shards \(\.tar\) or tables, not both"):
        opened(tmp_path, tmp_path)
    for damaged in (content[:700], b"no tar at all" * 100, gzip.compress(content)):
        (tmp_path / "p.tar").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"p.tar cannot be read as a tar file .*: fetch or write it again"):
            opened(tmp_path / "p.tar", tmp_path)


@pytest.mark.parametrize("cut", [0, 100, 512, 600])
def test_a_shard_that_is_cut_anywhere_is_called_truncated(tmp_path, cut):
    """Between two members, where what is left seems whole; within a header; behind one; and within a picture."""
    names = pictures(tmp_path)
    shards(tmp_path, [(f"{number}", name, "see") for number, name in enumerate(names)], "p")
    content = (tmp_path / "p.tar").read_bytes()
    (tmp_path / "p.tar").write_bytes(content[: content.index(b"20.png\0") + cut])
    told = r"p.tar cannot be read as a tar file \(it is truncated (after 19.txt|within 20.png)\): fetch"
    with pytest.raises(ValueError, match=told):
        opened(tmp_path / "p.tar", tmp_path)


def test_members_whose_names_have_more_dots_are_told_and_never_all_there_is(tmp_path, capsys):
    names = pictures(tmp_path)
    rows = [(f"photo.{number}" if number < 10 else f"{number}", name, "see") for number, name in enumerate(names)]
    shards(tmp_path, rows, "p", extra=[("12.boxes.npy", b"x")])
    assert sum(map(len, everything(opened(tmp_path / "p.tar", tmp_path)).values())) == 20
    told = "left aside 20 members, such as photo.0.png of p.tar: an example's name ends at its first dot (photo, and"
    assert f"{told} the rest is its extension .0.png); rename it photo_0.png" in capsys.readouterr().err
    shards(tmp_path, rows[:10], "p")
    with pytest.raises(ValueError, match=r"p.tar holds no image with a caption: left aside 20 members") as error:
        opened(tmp_path / "p.tar", tmp_path)
    assert "\n" not in str(error.value)


def test_whatever_datasets_loads(tmp_path):
    names = pictures(tmp_path)
    cells = [{"picture": {"bytes": (tmp_path / name).read_bytes(), "path": None}, "said": [f"see {name}", "a colour"]}
             for name in names]  # fmt: skip
    (tmp_path / "hub").mkdir()
    for split, part in (("train", cells[:20]), ("test", cells[20:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    settings = {"columns": {"image": "picture", "text": "said"}, "decoding": Decoding(size=4), "workers": 0,
                "shares": {"validation": 0.3, "test": 0.3}, "batch_size": 1, "eval_batch_size": 1,
                "cache_dir": tmp_path / "cache"}  # fmt: skip
    data = HubImageText(name=str(tmp_path / "hub"), **settings)
    found = everything(data)
    assert len(found["test"]) == 20 and len(found["train"]) + len(found["validation"]) == 40 and found["validation"]
    for colour, text, captions in itertools.chain(*found.values()):
        name = names[COLOURS.index(colour)]
        assert text in (f"see {name}", "a colour") and captions == [f"see {name}", "a colour"]
    assert HubImageText(name=str(tmp_path / "hub"), **settings).fingerprint() == data.fingerprint()
    with pytest.raises(ValueError, match=r"no column 'text', only picture, said: set data.columns.text"):
        HubImageText(name=str(tmp_path / "hub"), **settings | {"columns": {"image": "picture", "text": "text"}})


def test_rows_of_datasets_with_the_same_image_are_one_image_with_several_captions(tmp_path):
    """As Flickr30k and COCO come: a row for each caption. All of them are right, and stay in one split."""
    names = pictures(tmp_path)
    (tmp_path / "hub").mkdir()
    cells = [{"image": {"bytes": (tmp_path / name).read_bytes(), "path": f"{word}.png"}, "text": f"{word} of {name}"}
             for word in ("a view", "this", "a view") for name in names]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "hub" / "train-00000-of-00001.parquet")
    data = HubImageText(
        name=str(tmp_path / "hub"), columns={"image": "image", "text": "text"}, decoding=Decoding(size=4), workers=0,
        shares={"validation": 0.3, "test": 0.3}, batch_size=1, eval_batch_size=1, cache_dir=tmp_path / "cache",
    )  # fmt: skip
    found = everything(data)
    assert sum(map(len, found.values())) == 60 and all(found.values())
    where = {split: {colour for colour, _, _ in part} for split, part in found.items()}
    assert sum(map(len, where.values())) == len(set().union(*where.values())) == 30
    for colour, text, captions in itertools.chain(*found.values()):
        own = [f"{word} of {names[COLOURS.index(colour)]}" for word in ("a view", "this")]
        assert text in own and captions == own


def test_lists_of_captions_and_captions_of_several_images(tmp_path):
    names = pictures(tmp_path)
    rows = [{"image": name, "text": ["shared", f"only {name}"][: 1 + number % 2]} for number, name in enumerate(names)]
    written(tmp_path, rows)
    found = everything(opened({split: str(tmp_path / "captions.jsonl") for split in ("train", "validation", "test")},
                              tmp_path))["train"]  # fmt: skip
    assert len(found) == 45
    assert all(captions[0] == "shared" and (captions[1] == "") == (COLOURS.index(colour) % 2 == 0)
               for colour, _, captions in found)  # fmt: skip


WRITTEN = {  # cell: its captions, or what is told
    "['a cat', 'two dogs']": ["a cat", "two dogs"],
    "['a','b']": ["a", "b"],
    '["it\'s", "two\\ndogs"]': ["it's", "two\ndogs"],
    '["\\ud83d\\ude00 smiles"]': ["\U0001f600 smiles"],
    "[a] picture of ['b']": ["[a] picture of ['b']"],
    "[]": r"line 31 has an image, but the caption none",
    "['a', 7]": ["['a', 7]"],
    "['a', 7, 'b']": r"which looks like a list of captions and cannot be read as one",
    "['a cat' 'two dogs']": r"line 31 has the caption \['a cat' 'two dogs'\], which looks like a list of captions",
    "('a cat', \"it's\")": ["a cat", "it's"],
    "('a cat',)": ["a cat"],
    "[np.str_('a cat'), np.str_(\"it's\")]": ["a cat", "it's"],
    "('a cat')": ["('a cat')"],
    "('a cat' 'two dogs')": ["('a cat' 'two dogs')"],
    '("a cat", she said, "of mine")': ['("a cat", she said, "of mine")'],
    "['a cat, 'b']": r"which looks like a list of captions and cannot be read as one: write one as JSON does, or a row",
}


@pytest.mark.parametrize(("cell", "expected"), WRITTEN.items())
def test_lists_that_are_written_as_text_are_read_as_lists_or_refused(tmp_path, cell, expected, capsys):
    names = pictures(tmp_path)
    written(tmp_path, [*({"image": name, "text": f"see {name}"} for name in names[:-1]),
                       {"image": names[-1], "text": cell}], "csv")  # fmt: skip
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            opened(tmp_path, tmp_path)
        return
    rows = itertools.chain(*everything(opened(tmp_path, tmp_path)).values())
    assert [text for colour, text, _ in rows if colour == COLOURS[-1]] == expected
    told = "line 31 has a list of captions written as text (1 such cells): they are read as lists"
    assert (told in capsys.readouterr().err) == (expected != [cell])


def test_lists_are_lists_whoever_made_them():
    cells = [["a", np.str_("b")], ("a", "b"), np.array(["a", "b"]), np.str_("[np.str_('a'), 'b']")]
    for found in captions_of(((cell, "row 0") for cell in cells), "an image"):
        assert found == ["a", "b"] and {type(text) for text in found} == {str}
    with pytest.raises(ValueError, match=r"row 0 has an image, but np.int64\(1\) for a caption: a text or a list"):
        list(captions_of([(np.array([1, 2]), "row 0")], "an image"))


def test_rows_with_a_value_alone(tmp_path):
    names = pictures(tmp_path)
    written(tmp_path, [{"image": name, "text": "see", "maker": "one" if number < 20 else "two"}
                       for number, name in enumerate(names)])  # fmt: skip
    found = everything(opened(tmp_path, tmp_path, only={"maker": "two"}))
    assert {colour for part in found.values() for colour, _, _ in part} == set(COLOURS[20:])
    with pytest.raises(ValueError, match=r"data.only.maker=three: no row of .* has it, but one, two"):
        opened(tmp_path, tmp_path, only={"maker": "three"})
    with pytest.raises(ValueError, match=r"no column 'age': set data.only to some of image, maker, text"):
        opened(tmp_path, tmp_path, only={"age": "3"})


def test_splits_are_found_by_the_tables_names(tmp_path):
    names = pictures(tmp_path)
    for split, part in (("train", names[:8]), ("val", names[8:10]), ("test", names[10:20])):
        written(tmp_path, [{"image": name, "text": f"see {name}"} for name in part], name=split)
    assert {split: len(part) for split, part in everything(opened(tmp_path, tmp_path)).items()} == {
        "train": 8, "validation": 2, "test": 10}  # fmt: skip


def test_images_in_two_splits_are_counted_and_told(tmp_path, capsys):
    names = pictures(tmp_path)
    for split, part in (("train", names[:8]), ("val", names[5:11]), ("test", names[11:])):
        (tmp_path / split).mkdir()
        written(tmp_path / split, [{"image": f"../{name}", "text": f"see {name}"} for name in part], name=split)
    data = opened(tmp_path / "*" / "*.jsonl", tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if ", too" in line]
    assert len(said) == 1 and "3 of the 6 validation images are train images, too, such as" in said[0]
    assert len(data.images["validation"]) == 6
    for number, name in enumerate(names[5:8]):
        (tmp_path / "pictures" / f"copy {number}.png").write_bytes((tmp_path / name).read_bytes())
    copies = [{"image": f"../pictures/copy {number}.png", "text": "see"} for number in range(3)]
    rest = [{"image": f"../{name}", "text": f"see {name}"} for name in names[8:11]]
    written(tmp_path / "val", [*copies, *rest], name="val")
    opened(tmp_path / "*" / "*.jsonl", tmp_path)
    assert "3 of the 6 validation images are train images, too, such as ../pictures/copy 0" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_shares_that_leave_a_split_empty_are_named(tmp_path, share):
    written(tmp_path, [{"image": name, "text": "see"} for name in pictures(tmp_path)])
    told = f"data.shares.validation={share} and data.shares.test={share} of the training images leave a split empty"
    with pytest.raises(ValueError, match=told):
        opened(tmp_path, tmp_path, shares={"validation": share, "test": share})


def test_a_changed_picture_is_another_data_set(tmp_path):
    names = pictures(tmp_path)
    written(tmp_path, [{"image": name, "text": f"see {name}"} for name in names])
    first = opened(tmp_path, tmp_path)
    before, known = everything(first), first.fingerprint()
    assert opened(tmp_path, tmp_path).fingerprint() == known
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / names[0])
    second = opened(tmp_path, tmp_path)
    assert second.fingerprint() != known
    changed = [row for part in everything(second).values() for row in part if row[0] == (1, 2, 3)]
    assert len(changed) == 1 and not any(row[0] == (1, 2, 3) for part in before.values() for row in part)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"image": "pictures/99.png", "text": "a"},
            r"captions.jsonl, line 31: the image pictures/99.png does not exist",
        ),
        ({"image": "pictures/1.png", "text": "  "}, r"line 31 has an image, but the caption '  '"),
        ({"image": "pictures/1.png", "text": []}, r"line 31 has an image, but the caption none"),
        ({"image": "pictures/1.png", "text": None}, r"1 empty values in column 'text' .*: fill or drop those rows$"),
        ({"image": "pictures/1.png", "text": 17}, r"line 31 has an image, but 17 for a caption: a text or a list of"),
        ({"image": "pictures/1.png", "text": ["a", True]}, r"line 31 has an image, but True for a caption: a text or"),
        ({"image": "pictures/1.png", "text": {"en": "a"}}, r"but {'en': 'a'} for a caption: a text or a list of"),
        ({"image": None, "text": "a"}, r"1 empty values in column 'image'"),
        ({"image": 7, "text": "a"}, r"line 31 has the image 7"),
    ],
)
def test_rows_that_make_no_pair_are_refused_with_their_place(tmp_path, row, told):
    rows = [{"image": name, "text": "see"} for name in pictures(tmp_path)]
    with pytest.raises(ValueError, match=told):
        opened(written(tmp_path, [*rows, row]), tmp_path)


def test_broken_pictures_missing_columns_and_too_few_images_are_refused(tmp_path):
    rows = [{"image": name, "text": "see"} for name in pictures(tmp_path)]
    written(tmp_path, rows)
    with pytest.raises(ValueError, match=r"no column 'caption': set data.columns to two of image, text"):
        opened(tmp_path, tmp_path, columns={"image": "image", "text": "caption"})
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    data = opened(tmp_path, tmp_path)
    with pytest.raises(ValueError, match=r"3.png \(.*captions.jsonl, line 4\) is not a readable image"):
        everything(data)
    few = tmp_path / "few"
    names = pictures(few)
    with pytest.raises(ValueError, match="too few to set some apart"):
        opened(written(few, [{"image": names[0], "text": "see"}]), tmp_path)
    with pytest.raises(ValueError, match=r"lower data\.batch_size"):
        written(few, [{"image": name, "text": "see"} for name in names])
        opened(few, tmp_path, batch_size=500).source("train")


# -- scenes ------------------------------------------------------------------------------------------------------------


def scenes(**changes):
    settings = {"size": 32, "least": 1, "most": 4, "scenes": 40, "held_out": 10, "cache_dir": "unused"}
    return SceneCaptions(**(settings | {"batch_size": 8, "eval_batch_size": 8, "workers": 0} | changes))


def test_each_epoch_has_scenes_of_its_own_and_they_join_where_epochs_meet():
    source = scenes().source("train")
    first, again, second = source.read(0, np.arange(3)), source.read(0, np.arange(3)), source.read(1, np.arange(3))
    np.testing.assert_array_equal(first.sides["image"].images, again.sides["image"].images)
    assert (first.sides["image"].images != second.sides["image"].images).mean() > 0.5
    both = joined([first, second])
    assert both.sides["image"].images.shape == (6, 3, 32, 32) and both.sides["image"].labels is None
    assert both.sides["text"].texts.tolist() == [*first.sides["text"].texts, *second.sides["text"].texts]
    assert both.captions.shape == (6, 1) and (both.captions[:, 0] == both.sides["text"].texts).all()
    assert both.example.tolist() == [0, 1, 2, 40, 41, 42]


def test_what_scenes_are_made_of_names_them():
    assert scenes().fingerprint() == scenes().fingerprint() != scenes(most=3).fingerprint()
    words = {word for text in scenes().sample("train", 10**6) for word in text.split()}
    assert len(words) == 24 and len(list(scenes().sample("train", 100))) < 10


def collate_of(data, image=StackImages, max_tokens=6):
    preprocess = ImagePreprocess(size=32, channels=3, mean=[0.5] * 3, std=[0.25] * 3)
    text = WordPiece(vocab_size=100, lowercase=True, sample_bytes=10**6).fit(data)
    make = {"image": image, "text": functools.partial(TokeniseTexts, max_tokens=max_tokens)}
    return PairCollate(preprocess=PairPreprocess(sides={"image": preprocess, "text": text}), sides=make)


def test_false_captions_stand_behind_the_true_ones_and_are_numbered(tmp_path):
    data = scenes(cache_dir=tmp_path, hard_negatives=["swapped", "replaced"])
    read = data.source("train").read(0, np.arange(30))
    plain = scenes(cache_dir=tmp_path).source("train").read(0, np.arange(30))
    np.testing.assert_array_equal(read.sides["image"].images, plain.sides["image"].images)
    made = DigitScenes(size=32).draw("train", range(30))
    assert [[text for text in own if text] for own in read.false.tolist()] == [
        [*dict.fromkeys([*scene.negatives.values(), *scene.replaced])] for scene in made
    ]
    assert read.false.shape == (30, 6) and 90 < (read.false != "").sum() < 160 and plain.false is None
    collate = collate_of(data, max_tokens=32)
    keys = Keys(0, "train", np.zeros(30, np.int64), np.arange(30))
    batch, clean = collate(read, keys), collate(plain, keys)
    there = batch["false"] >= 0
    assert there.tolist() == (read.false != "").tolist()
    number = dict(zip(read.sides["text"].texts, batch["caption"].tolist(), strict=True))
    texts, false = read.false[there.numpy()].tolist(), batch["false"][there].tolist()
    assert (
        len({*number, *texts})
        == len({*number.values(), *false})
        == len({*number.items(), *zip(texts, false, strict=True)})
    )
    rows = [collate.sides["text"].preprocess.tokenizer.decode(row[1 : int(real.sum()) - 1]) for row, real in zip(
        batch["inputs"]["text"]["input_ids"], batch["inputs"]["text"]["document_ids"], strict=True)]  # fmt: skip
    assert rows == [*read.sides["text"].texts, *read.false[there.numpy()]]
    assert clean["false"].shape == (30, 0) and len(clean["inputs"]["text"]["input_ids"]) == 30
    assert joined([read, read]).false.shape == (60, 6)
    assert data.fingerprint() != scenes(cache_dir=tmp_path).fingerprint()
    with pytest.raises(ValueError, match=r"data.hard_negatives has 'turned': choose of swapped, replaced"):
        scenes(hard_negatives=["turned"])


def test_captions_that_the_network_reads_alike_are_one(tmp_path):
    """In other capitals for a tokenizer that has none, and behind the cut; wherever they stand."""
    data = scenes(cache_dir=tmp_path, scenes=3)
    texts = ["a small red two", "A Small  RED two", "a small blue two left of a red six", "a small blue two left of it"]
    captions = [[texts[0], texts[2]], [texts[1]], [texts[3]]]
    read = data.open("train").read(0, np.arange(3))
    sides = read.sides | {"text": RawTexts.of([texts[2], texts[1], texts[3]])}
    false = table_of([[texts[1]], [texts[3], "a small red six"], []], 2)
    examples = PairExamples(sides, np.array([7, 3, 5]), table_of(captions, 2), false=false)
    keys = Keys(0, "train", np.zeros(3, np.int64), np.arange(3))
    batch = collate_of(data, max_tokens=6)(examples, keys)
    blue, red, other = *batch["caption"][:2].tolist(), int(batch["false"][1, 1])
    assert len({blue, red, other, -1}) == 4 and batch["example"].tolist() == [7, 3, 5]
    assert batch["caption"].tolist() == [blue, red, blue]
    assert batch["captions"].tolist() == [[red, blue], [red, -1], [blue, -1]]
    assert batch["false"].tolist() == [[red, -1], [blue, other], [-1, -1]]
    longer = collate_of(data, max_tokens=20)(examples, keys)
    assert longer["captions"][:, 0].unique().shape == (2,) and longer["caption"].unique().shape == (3,)


def test_pictures_are_augmented_in_training_alone_and_in_the_preprocessings_terms(tmp_path):
    data = scenes(cache_dir=tmp_path)
    read = data.source("train").read(0, np.arange(6))
    settings = {"count": 1, "jitter": Jitter(probability=0.0), "greyscale": 0.0, "blur": Blur(probability=0.0)}
    settings |= {"solarise": 0.0, "output": Output(mean=(0.0,) * 3, std=(1.0,) * 3), "impl": "tensors"}
    views = {area: Views(crop=Crop(size=8, area=(area, area), aspect=(1.0, 1.0), flip=0.0), **settings)
             for area in (1.0, 0.5)}  # fmt: skip
    batches = {}
    for area, augment in views.items():
        collate = collate_of(data, functools.partial(AugmentedImages, augment=augment))
        for stream in ("train", "validation"):
            keys = Keys(0, stream, np.zeros(6, np.int64), np.arange(6))
            batches[area, stream] = collate(read, keys)["inputs"]["image"]["images"]
    clean = (torch.from_numpy(read.sides["image"].images) / 255.0 - 0.5) / 0.25
    for case in ((1.0, "train"), (1.0, "validation"), (0.5, "validation")):
        torch.testing.assert_close(batches[case].contiguous(), clean, atol=1e-4, rtol=0)
    cropped = batches[0.5, "train"]
    assert cropped.shape == clean.shape and (cropped - clean).abs().mean() > 0.1
    with pytest.raises(ValueError, match=r"augment.count=2: give 1"):
        AugmentedImages(preprocess=collate.preprocess.sides["image"], augment=Views(
            crop=Crop(size=8), **settings | {"count": 2}))  # fmt: skip


def test_a_batch_holds_what_both_networks_read(tmp_path):
    data = scenes(cache_dir=tmp_path)
    read = data.source("validation").read(0, np.arange(4))
    texts = read.sides["text"].texts.tolist()
    collate = collate_of(data)
    text = collate.preprocess.sides["text"]
    batch = collate(read, Keys(0, "validation", np.zeros(4, np.int64), np.arange(4)))
    expected = (read.sides["image"].images / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(batch["inputs"]["image"]["images"], expected, atol=1e-5)
    for row, own in enumerate(texts):
        real = batch["inputs"]["text"]["document_ids"][row] > 0
        ids = batch["inputs"]["text"]["input_ids"][row][real].tolist()
        assert ids == [text.bos_id, *text.encode([own])[0][:4], text.eos_id]
    assert collate.sides["text"].cut(read.sides["text"]).tolist() == [len(text.encode([one])[0]) > 4 for one in texts]
