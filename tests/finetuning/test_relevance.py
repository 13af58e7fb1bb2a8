"""Finding examples with others of the same modality: from files to metrics, each checked against vectors by hand."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from pretraining import handoff
from pretraining.errors import HandoffError, RunError
from pretraining.text.raw import RawTexts, TokeniseTexts
from tests.finetuning.conftest import WORDS

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def collection(folder, grades=None):
    """Write 12 documents, the last without text, and 8 queries; each but the last has two relevant ones."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    texts = [" ".join(random.choice(WORDS, 6)) for _ in range(11)] + [None]
    corpus = [{"id": str(number), "text": text, "title": "x"} for number, text in enumerate(texts)]
    queries = [{"id": f"q{number}", "text": " ".join(random.choice(WORDS, 4))} for number in range(8)]
    judged = [
        {"query": f"q{number}", "document": str((number + step) % 12), "relevance": 3 - step} for number in range(7)
        for step in range(2)
    ]  # fmt: skip
    judged += grades or [{"query": "q7", "document": "3", "relevance": 0}]
    for name, rows in (("corpus", corpus), ("queries", queries), ("qrels", judged)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return texts, [query["text"] for query in queries], judged


def text_vectors(directory, texts):
    given = handoff.read(str(directory))
    with torch.no_grad():
        inputs = TokeniseTexts(preprocess=given.preprocess, max_tokens=32)(RawTexts.of(texts))["inputs"]
        return F.normalize(given.backbone.eval()(**inputs).pooled, dim=-1).numpy()


def test_documents_are_ranked_by_cosine_and_judged_by_grades(text_handoff, finetune, tmp_path):
    texts, queries, _ = collection(tmp_path / "data")
    run = finetune(f"handoff={text_handoff}", "task=text_retrieval", f"data.path={tmp_path / 'data'}",
                   "data.selecting=0.3",                   "task.inputs.max_tokens=32")  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    documents = text_vectors(text_handoff, [text or "" for text in texts])
    asked = [name for name in table["name"] if name.startswith("q")]
    assert table["name"][:12] == [str(number) for number in range(12)] and 1 < len(asked) < 7 and "q7" not in asked
    assert table["prediction"][:12] == [None] * 12
    gained, first = [], []
    for name, guess, rank in list(zip(table["name"], table["prediction"], table["rank"], strict=True))[12:]:
        number = int(name[1:])
        order = np.argsort(-(documents @ text_vectors(text_handoff, [queries[number]])[0]), kind="stable").tolist()
        places = [order.index((number + step) % 12) for step in range(2)]
        assert guess == str(order[0]) and rank == 1 + min(places)
        gain = sum((3 - step) / np.log2(place + 2) for step, place in enumerate(places) if place < 10)
        gained.append(gain / (3 + 2 / np.log2(3)))
        first.append(rank)
    assert metrics["test/ndcg_10"] == pytest.approx(np.mean(gained), abs=1e-5)
    assert metrics["test/ndcg_10_low"] <= metrics["test/ndcg_10"] <= metrics["test/ndcg_10_high"]
    assert metrics["test/mrr_10"] == pytest.approx(np.mean([1 / rank if rank <= 10 else 0 for rank in first]))
    assert metrics["test/recall_5"] == pytest.approx(np.mean([rank <= 5 for rank in first]))


def emoji(folder):
    """Write tables in the emoji set's layout: two vendors' pictures of ten things in each split, one thing of one."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, split in enumerate(("train", "validation", "test")):
        rows = []
        for thing in range(10):
            pattern = random.integers(0, 255, (8, 8, 3))
            for vendor in ("noto", "twemoji")[: 1 if thing == 9 else 2]:
                shade = np.clip(pattern + random.integers(-40, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
                place = folder / "picture.png"
                Image.fromarray(shade).save(place)
                cell = {"bytes": place.read_bytes(), "path": f"{vendor}_{thing}.png"}
                rows.append({"image": cell, "vendor": vendor, "hexcode": f"{number}-{thing}", "text": f"thing {thing}"})
                place.unlink()
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def test_pictures_of_one_vendor_find_those_of_the_other(image_handoff, finetune, tmp_path):
    given = ["data.decoding.size=8", f"data.cache_dir={tmp_path / 'cache'}", "task.space=false"]
    run = finetune(f"handoff={image_handoff}", "task=emoji", f"data.path={emoji(tmp_path / 'emoji')}", *given)
    metrics = json.loads((run / "metrics.json").read_text())
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    assert len(table["name"]) == 19
    assert [rank is None for rank in table["rank"]] == [bool(row % 2) for row in range(18)] + [True]
    given = handoff.read(str(image_handoff))
    rows = pq.read_table(tmp_path / "emoji" / "test.parquet").to_pylist()
    pixels = [torch.from_numpy(np.array(Image.open(pa.BufferReader(row["image"]["bytes"])))) for row in rows]
    with torch.no_grad():
        images = given.preprocess(torch.stack(pixels).permute(0, 3, 1, 2))
        vectors = F.normalize(given.backbone.eval()(images).pooled, dim=-1).numpy()
    scores = vectors[0:18:2] @ vectors[1:18:2].T
    ranks = [1 + int((row > row[place]).sum()) for place, row in enumerate(scores)]
    assert table["rank"][0:18:2] == ranks
    assert metrics["test/recall_1"] == pytest.approx(np.mean(np.array(ranks) == 1))
    assert [int(name) for name in table["prediction"][0:18:2]] == (2 * scores.argmax(1) + 1).tolist()


def test_every_picture_finds_its_class_but_not_itself(image_handoff, finetune, tmp_path):
    folder, random = tmp_path / "pictures", np.random.default_rng(0)
    for name in ("stripes", "dots", "rings"):
        (folder / name).mkdir(parents=True)
        pattern = random.integers(0, 200, (8, 8))
        for number in range(12):
            noisy = (pattern + random.integers(0, 56, (8, 8))).astype(np.uint8)
            Image.fromarray(noisy).save(folder / name / f"{number}.png")
    run = finetune(
        f"handoff={image_handoff}",
        "task=image_retrieval",
        f"data.path={folder}",
        f"data.cache_dir={tmp_path / 'cache'}",
    )
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    assert len(table["name"]) == 36
    for name, relevant, guess in zip(table["name"], table["label"], table["prediction"], strict=True):
        assert name not in relevant and guess != name and len(relevant) == 11
    rows = zip(table["prediction"], table["label"], table["rank"], strict=True)
    found = np.mean([guess in relevant for guess, relevant, rank in rows if rank is not None])
    assert json.loads((run / "metrics.json").read_text())["test/recall_1"] == pytest.approx(found)


@pytest.mark.parametrize(
    ("grades", "told"),
    [
        (
            [{"query": "q9", "document": "3", "relevance": 1}],
            r"qrels.jsonl, line 15 judges the query 'q9', which is not",
        ),
        ([{"query": "q1", "document": "33", "relevance": 1}], r"judges the document '33', which is not there"),
        ([{"query": "q1", "document": None, "relevance": 1}], r"1 empty values in column 'document'.*line 15: fill or"),
        ([{"query": "q1", "document": "3", "relevance": "high"}], r"line 15 has the relevance 'high': give a number"),
    ],
)
def test_judgements_of_nothing_are_refused(text_handoff, finetune, tmp_path, grades, told):
    collection(tmp_path / "data", grades)
    with pytest.raises(RunError, match=told):
        finetune(
            f"handoff={text_handoff}",
            "task=text_retrieval",
            f"data.path={tmp_path / 'data'}",
            "task.inputs.max_tokens=32",
        )


def test_what_cannot_be_is_told_in_one_line(text_handoff, image_handoff, finetune, tmp_path):
    collection(tmp_path / "data")
    words = [f"data.path={tmp_path / 'data'}", "task.inputs.max_tokens=32"]
    with pytest.raises(RunError, match=r"set mode=as_is"):
        finetune(f"handoff={text_handoff}", "task=text_retrieval", *words, "mode=full")
    with pytest.raises(RunError, match=r"has no column 'score', but .*: set data.columns"):
        finetune(f"handoff={text_handoff}", "task=text_retrieval", *words, "data.columns.relevance=score")
    with pytest.raises(RunError, match=r"data.selecting=1.0: give a number above 0 and below 1"):
        finetune(f"handoff={text_handoff}", "task=text_retrieval", *words, "data.selecting=1.0")
    (tmp_path / "data" / "qrels.jsonl").unlink()
    with pytest.raises(RunError, match=r"holds no table called qrels: give corpus, queries and qrels"):
        finetune(f"handoff={text_handoff}", "task=text_retrieval", *words)
    given = [f"data.path={emoji(tmp_path / 'emoji')}", f"data.cache_dir={tmp_path / 'cache'}", "data.decoding.size=8"]
    with pytest.raises(RunError, match=r"no image with data.role=vendor of 'apple', but \['noto', 'twemoji'\]"):
        finetune(f"handoff={image_handoff}", "task=emoji", *given, "task.space=false", "data.queries=apple")
    with pytest.raises(RunError, match=r"has no column 'maker', but .*: set data.role"):
        finetune(f"handoff={image_handoff}", "task=emoji", *given, "task.space=false", "data.role=maker")
    with pytest.raises(RunError, match=r"a column of tables, for a folder of images: give null"):
        (tmp_path / "folder" / "one").mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8)).save(tmp_path / "folder" / "one" / f"{number}.png")
        finetune(f"handoff={image_handoff}", "task=emoji", f"data.path={tmp_path / 'folder'}", *given[1:])
    with pytest.raises(HandoffError, match=r"holds no second network in the same space"):
        finetune(f"handoff={image_handoff}", "task=emoji", *given)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data; the twins on made-up data always run")
def test_the_real_sets_are_read(text_handoff, image_handoff, finetune, tmp_path):
    run = finetune(
        f"handoff={text_handoff}", "task=text_retrieval", f"data.path={DATA / 'cranfield'}", "task.inputs.max_tokens=32"
    )
    names = pq.read_table(run / "predictions.parquet").to_pydict()["name"]
    assert 1400 + 180 < len(names) < 1400 + 225
    given = ["task.space=false", f"data.cache_dir={tmp_path / 'cache'}"]
    run = finetune(f"handoff={image_handoff}", "task=emoji", f"data.path={DATA / 'emoji'}", *given, name="emoji")
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    assert len(table["name"]) == 349 and sum(rank is not None for rank in table["rank"]) <= 159
