"""Vectors are those that transformers computes, in the order of the examples, whatever batch they come in."""

import csv
import json
import multiprocessing
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from PIL import Image

import pretraining
from finetuning.inputs.text import tokenized
from pretraining import handoff
from pretraining.data.unlabelled import Encoded, Reading
from pretraining.embed import cli
from pretraining.embedding.model import Embedder
from pretraining.errors import HandoffError, RunError
from pretraining.export import export
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.image.modality import IMAGE
from pretraining.image.preprocess import ImagePreprocess
from pretraining.probes import most_similar
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece
from pretraining.text.unlabelled import ReadTexts
from tests.new_modality import signals as signals_of

WORDS = [a + b for a in ("ba", "ke", "lo", "mi", "nu") for b in ("da", "fe", "go", "hi", "ju")]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPES = {
    "bert": {"model_type": "bert", "max_position_embeddings": 64, "initializer_range": 0.2, **SIZES},
    "modernbert": {
        **{"model_type": "modernbert", "max_position_embeddings": 64, "local_attention": 8, **SIZES},
        **{"initializer_range": 0.2, "reference_compile": False},
    },
}


def sentences(count, seed=0):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, draw.integers(1, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return TextPreprocess(tokenizer=WordPiece(vocab_size=120, lowercase=True, sample_bytes=1).train(iter(WORDS * 3)))


def hand_over(shape, tokenizer, directory, **more):
    torch.manual_seed(0)
    told = {"vocab_size": tokenizer.vocab_size, "pad_id": tokenizer.pad_id}
    towers = TEXT.towers(TransformersBackbone(config=SHAPES[shape], **told), tokenizer)
    return handoff.write(directory / "step-0000001", towers=towers, origin={"objective": "none"}, heads={}, **more)


@pytest.fixture(scope="module", params=SHAPES)
def written(request, tokenizer, tmp_path_factory):
    return hand_over(request.param, tokenizer, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert(tokenizer, tmp_path_factory):
    return hand_over("bert", tokenizer, tmp_path_factory.mktemp("alone"))


@torch.no_grad()
def states_of_transformers(directory, texts):
    """Hidden states and mask of all texts in one padded batch, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    read = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    found = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"], output_hidden_states=True)
    return found.hidden_states, found.last_hidden_state, read["attention_mask"][..., None].float()


def mean_of(states, mask):
    return ((states * mask).sum(1) / mask.sum(1)).numpy()


def test_texts_are_the_pooled_states_of_transformers_at_each_layer(written):
    texts = [*sentences(37), ""]
    model = pretraining.load(written)
    every, last, mask = states_of_transformers(written, texts)
    found = model.embed(texts, batch_size=8)
    assert found.dtype == np.float32 and found.shape == (38, 32)
    assert np.allclose(found, mean_of(last, mask), atol=1e-5)
    count = len(model.backbone.layer_widths)
    for layer in range(count - 1):
        assert np.allclose(model.embed(texts, layer=layer), mean_of(every[layer], mask), atol=1e-5), layer
    side_by_side = model.embed(texts, layer=[0, 1])
    assert np.allclose(side_by_side, np.hstack([mean_of(every[layer], mask) for layer in (0, 1)]), atol=1e-5)
    assert np.allclose(model.embed(texts, layer=-1), found, atol=2e-6)
    assert model.embed(texts, layer="all").shape == (38, 96)
    assert np.allclose(model.embed(texts, pooling="first"), last[:, 0].numpy(), atol=1e-5)
    lengths = np.linalg.norm(model.embed(texts, normalize=True), axis=1)
    assert np.allclose(lengths, 1.0, atol=1e-6) and not np.allclose(np.linalg.norm(found, axis=1), 1.0)


def test_order_is_kept_and_a_text_alone_is_what_it_is_in_a_batch(written):
    texts, model = sentences(23, seed=1), pretraining.load(written)
    together = model.embed(texts, batch_size=7)
    assert np.allclose(together, np.concatenate([model.embed([text]) for text in texts]), atol=2e-6)
    assert np.allclose(model.embed(texts[::-1], batch_size=5)[::-1], together, atol=2e-6)
    assert len({row.tobytes() for row in together.round(4)}) == 23
    model.reading.ahead = 9  # pieces
    assert np.allclose(model.embed(texts), together, atol=2e-6)


def test_a_long_text_is_cut_as_finetuning_cuts_it_and_counted(bert, capsys):
    model = pretraining.load(bert, max_tokens=6)
    long, short = " ".join(WORDS[:20]), " ".join(WORDS[:4])
    both = model.embed([long, short])
    assert np.allclose(both[0], both[1], atol=1e-6)
    assert "1 of 2 texts have more than inputs.max_tokens=6 tokens and were cut" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"inputs\.max_tokens=65: give more than its 2 special tokens and at most 64"):
        pretraining.load(bert, max_tokens=65).embed(["a"])


def test_as_many_tokens_are_read_as_in_training_unless_others_are_asked_for(tokenizer, tmp_path, capsys):
    place = hand_over("bert", tokenizer, tmp_path, recipe={"collate": {"max_tokens": 6}})
    long, short = " ".join(WORDS[:20]), " ".join(WORDS[:4])
    for reference in (place, f"random:{place}"):
        both = pretraining.load(reference).embed([long, short])
        assert np.allclose(both[0], both[1], atol=1e-6)
        assert "1 of 2 texts have more than inputs.max_tokens=6 tokens and were cut" in capsys.readouterr().err
    both = pretraining.load(place, max_tokens=64).embed([long, short])
    assert not np.allclose(both[0], both[1], atol=1e-2) and not capsys.readouterr().err
    export(handoff.read(str(place)), "sentence_transformers", tmp_path / "other")
    assert json.loads((tmp_path / "other" / "sentence_bert_config.json").read_text())["max_seq_length"] == 6
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "other").model_max_length == 6
    tokenized(handoff.read(str(place)).preprocess, [long, short], max_tokens=64)
    assert "1 of 2 texts have more than the 6 tokens that the hand-off was trained on" in capsys.readouterr().err


def test_names_of_special_tokens_are_text(bert):
    model = pretraining.load(bert)
    ids, _ = model.preprocess.framed(["[MASK] bada [SEP]"], 64)
    whole = model.preprocess.tokenize(["[MASK] bada [SEP]"])["input_ids"]
    assert ids == whole and model.preprocess.mask_id not in ids[0] and ids[0].count(model.preprocess.sep_id) == 1


def test_vectors_are_those_that_a_frozen_run_caches(bert):
    from finetuning.data.splits import Examples
    from finetuning.inputs.text import TextInputs

    texts = sentences(11, seed=2)
    given = handoff.read(str(bert))
    read = TextInputs(max_tokens=64)
    targets = [np.zeros(1, np.int64)] * 11
    split = read.encode(Examples.of(text=texts, label=[0] * 11), targets, given.preprocess, given.backbone)
    batch = split.stack(np.arange(11))
    with torch.no_grad():
        cached = given.backbone.eval()(**read.on_device(batch["inputs"], given.preprocess)).pooled.numpy()
    assert np.allclose(pretraining.load(bert).embed(texts), cached, atol=2e-6)


def test_bf16_is_near(bert):
    texts = sentences(20, seed=3)
    exact, near = (pretraining.load(bert, precision=name).embed(texts, normalize=True) for name in ("fp32", "bf16"))
    assert (exact * near).sum(1).min() > 0.999 and np.abs(exact - near).max() > 1e-5


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_handoff(tmp_path_factory):
    torch.manual_seed(0)
    backbone = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar", in_channels=3)
    preprocess = ImagePreprocess(size=16, channels=3, mean=[0.3] * 3, std=[0.35] * 3)
    directory = tmp_path_factory.mktemp("images") / "step-0000001"
    return handoff.write(directory, towers=IMAGE.towers(backbone, preprocess), origin={"objective": "none"}, heads={})


def pictures():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((16, 16), (20, 31), (16, 16), (40, 24))]


def test_images_are_what_torchvision_s_own_network_computes_however_they_come(image_handoff, tmp_path):
    import torchvision
    from safetensors.torch import load_file

    model, arrays = pretraining.load(image_handoff), pictures()
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    lines = model.backbone.usage().replace("DIR", str(image_handoff))  # what the hand-off's README says
    scope: dict = {}
    exec(lines, scope)
    assert type(scope["model"]) is type(theirs) and load_file(image_handoff / "model.safetensors")
    ready = torch.cat([model.preprocess(torch.from_numpy(one).permute(2, 0, 1)[None]) for one in arrays])
    with torch.no_grad():
        expected = scope["model"].eval()(ready).numpy()
    found = model.embed(arrays, batch_size=3)
    assert np.allclose(found, expected, atol=1e-5) and found.shape == (4, 64)
    files = []
    for number, array in enumerate(arrays):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(files[-1])
    for same in (map(Image.fromarray, arrays), files, [one.transpose(2, 0, 1) for one in arrays], map(str, files)):
        assert np.allclose(model.embed(same), found, atol=1e-6)
    stage = model.embed(arrays, layer=1)
    assert stage.shape == (4, 8)
    with torch.no_grad():
        first = scope["model"]
        cells = first.layer1(first.maxpool(first.relu(first.bn1(first.conv1(ready)))))
    assert np.allclose(stage, cells.mean((2, 3)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (5, r"item 1 is int, and this network reads images: give a PIL image, a uint8 array or a path"),
        (np.zeros((4, 4)), r"item 1 is an array float64 \[4, 4\]: give uint8"),
        (np.zeros((5, 5, 7), np.uint8), r"item 1 is an array uint8 \[5, 5, 7\]"),
        ("nowhere.png", r"item 1 names the file nowhere.png, which cannot be read"),
    ],
)
def test_what_is_no_image_is_told(image_handoff, item, told):
    with pytest.raises(RunError, match=told):
        pretraining.load(image_handoff).embed([pictures()[0], item])


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["embed", *map(str, words)])
        capsys.readouterr()
        try:
            cli()
        except SystemExit as ended:
            assert ended.code == 2
            said = capsys.readouterr()
            assert not said.out and said.err.splitlines()[-1].startswith("error: ") and "Traceback" not in said.err
            return said.err.splitlines()[-1]
        return capsys.readouterr().out

    return run


def test_every_format_holds_the_same_vectors_with_their_ids(bert, tmp_path, command, monkeypatch):
    monkeypatch.setattr(ReadTexts, "ahead", 10)
    texts = sentences(25, seed=4)
    (tmp_path / "in.txt").write_text("\n".join([*texts[:3], "", *texts[3:]]) + "\n")
    given = [f"handoff={bert}", f"input={tmp_path / 'in.txt'}"]
    expected = pretraining.load(bert).embed(texts)
    for name in ("out.parquet", "out.npy", "out.csv"):
        assert command(*given, f"output={tmp_path / name}") == f"{tmp_path / name}: 25 vectors of 32\n"
    table = pq.read_table(tmp_path / "out.parquet")
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    found = np.stack(table["embedding"].to_numpy())
    assert np.allclose(found, expected, atol=2e-6)
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3
    assert table["id"].to_pylist() == [1, 2, 3, *range(5, 27)] and table["text"].to_pylist() == texts
    assert np.array_equal(np.load(tmp_path / "out.npy"), found)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == table["id"].to_pylist() and rows[4]["text"] == texts[4]
    assert np.array_equal(np.float32([[row[f"embedding.{place}"] for place in range(32)] for row in rows]), found)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.txt", "out.csv", "out.npy", "out.parquet"]


def test_tables_and_folders_are_read(bert, image_handoff, tmp_path, command):
    rows = [{"body": text, "more": 1} for text in sentences(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.parquet"
    command(f"handoff={bert}", f"input={tmp_path / 'in.jsonl'}", "inputs.column=body", f"output={output}")
    assert pq.read_table(output)["text"].to_pylist() == [row["body"] for row in rows]
    told = command(f"handoff={bert}", f"input={tmp_path / 'in.jsonl'}", f"output={output}")
    assert "got inputs.column=text, but the data has the columns body, more: name one of them" in told
    told = command(f"handoff={bert}", f"input={tmp_path / 'in.jsonl'}", "inputs.column=more", f"output={output}")
    assert "got inputs.column=more, a column of int, but text is needed" in told
    (tmp_path / "photos").mkdir()
    for number, array in enumerate(pictures()):
        Image.fromarray(array).save(tmp_path / "photos" / f"{number}.png")
    command(f"handoff={image_handoff}", f"input={tmp_path / 'photos'}", f"output={output}", "layer=[1,-1]")
    table = pq.read_table(output)
    assert table["file"].to_pylist() == [f"{number}.png" for number in range(4)]
    expected = pretraining.load(image_handoff).embed(pictures(), layer=[1, 4])
    assert np.allclose(np.stack(table["embedding"].to_numpy()), expected, atol=1e-5)


def test_ids_of_a_table_are_kept_and_what_is_read_is_not_written_over(bert, image_handoff, tmp_path, command):
    texts = sentences(4)
    table = tmp_path / "in.csv"
    table.write_text("id,text\n" + "".join(f"{name},{text}\n" for name, text in zip("zyyx", texts, strict=True)))
    given = [f"handoff={bert}", f"input={table}"]
    before = table.read_bytes()
    assert f"got output={table}, the file that is read" in command(*given, f"output={table}")
    assert table.read_bytes() == before
    command(*given, f"output={tmp_path / 'out.parquet'}", "neighbours=1")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["id"].to_pylist() == list("zyyx") and found["text"].to_pylist() == texts
    assert all(0 <= near < 4 for (near,) in found["neighbours"].to_pylist())  # names that repeat tell nothing apart
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps({"id": name, "text": texts[0]}) + "\n" for name in (3, None, "x")))
    told = command(given[0], f"input={mixed}", f"output={tmp_path / 'mixed.parquet'}")
    assert "got the ids 3 and 'x', of which one column cannot hold both: write all as text" in told
    odd = ["nan", "NA", "null", "None"]  # texts like any other
    table.write_text("id,text\n" + "".join(f"{text},{text}\n" for text in odd) + ",bada\n")
    command(*given, f"output={tmp_path / 'odd.parquet'}")
    found = pq.read_table(tmp_path / "odd.parquet")
    assert found["id"].to_pylist() == [*odd, None] and found["text"].to_pylist() == [*odd, "bada"]
    for header, twice in (("id,id,text", "id"), ("id,text,text", "text")):
        table.write_text(f"{header}\na,b,c\n")
        assert f"has the column '{twice}' twice: rename one" in command(*given, f"output={tmp_path / 'twice.npy'}")
    for number, array in enumerate(pictures()[:2]):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    cells = [(tmp_path / f"{number}.png").read_bytes() for number in range(2)]
    pq.write_table(pa.table({"id": ["b", "a"], "image": cells}), tmp_path / "in.parquet")
    command(f"handoff={image_handoff}", f"input={tmp_path / 'in.parquet'}", f"output={tmp_path / 'out.parquet'}")
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["b", "a"]


def test_neighbours_are_the_nearest_by_cosine_and_a_picture_is_drawn(bert, tmp_path, command):
    texts = sentences(30, seed=5)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    output, picture = tmp_path / "out.parquet", tmp_path / "map.html"
    given = [f"handoff={bert}", f"input={tmp_path / 'in.txt'}", f"output={output}", "neighbours=4"]
    command(*given, f"picture={picture}")
    table = pq.read_table(output)
    vectors = np.stack(table["embedding"].to_numpy()).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    order = np.argsort(-cosines, axis=1)[:, :4]
    assert np.allclose(np.stack(table["cosines"].to_numpy()), np.take_along_axis(cosines, order, 1), atol=1e-5)
    assert np.array_equal(np.stack(table["neighbours"].to_numpy()), order + 1)
    page = picture.read_text()
    assert page.count("<circle") == 30 and "PCA" in page and "src=" not in page
    command(*given[:3], f"picture={tmp_path / 'map.png'}")
    drawn = np.asarray(Image.open(tmp_path / "map.png"))
    assert drawn.shape == (800, 1000, 3) and (drawn < 200).any()
    assert "give at least 1, and fewer than there are examples" in command(*given[:3], "neighbours=30")
    assert "umap-learn is not installed" in command(*given[:3], f"picture={picture}", "method=umap")


def test_neighbours_do_not_depend_on_how_much_is_compared_at_once():
    vectors = torch.randn(70, 5, generator=torch.Generator().manual_seed(0))
    whole = most_similar(vectors, 6)
    parts = most_similar(vectors, 6, block=4)
    assert torch.equal(whole[0], parts[0]) and torch.allclose(whole[1], parts[1])
    assert not (whole[0] == torch.arange(70)[:, None]).any()


MISTAKES = {
    "layer=9": "got layer=[9], but TransformersBackbone has the layers 0 to 2",
    "layer=best": "layer=best: choose last or all",
    "pooling=maximum": "pooling='maximum' is unknown",
    "normalize=often": "normalize=often: give true or false",
    "batch_size=0": "batch_size=0: give a whole number of at least 1",
    "precision=fp8": "precision=fp8: choose auto, fp32 or bf16",
    "inputs.max_seconds=3": "got inputs.max_seconds, but text is read with inputs.column, inputs.max_tokens",
    "inputs.max_tokens=many": "inputs.max_tokens=many: give a whole number",
    "tower=image": "has no tower 'image'",
    "side=image": "which has one network: leave it out",
    "output=out.txt": "got output=out.txt: give a name that ends in .parquet, .npy, .csv",
    "output=nowhere/out.npy": "has no directory nowhere that can be written to",
    "picture=map.gif": "got picture=map.gif: give a name that ends in .png, .html",
    "input=nowhere.txt": "input=nowhere.txt does not exist",
    "output=in.txt": "give a name that ends in",
    "pooling=pooler layer=1": "got pooling=pooler and layer=1: a pooler reads the last layer",
    "neighbors=3": "got 'neighbors=3', but this command takes",
    "handoff=hf:/nowhere": "handoff=hf:/nowhere cannot be read",
    "handoff=zip:x": "zip: is not read; give a directory, hf:NAME",
}


@pytest.mark.parametrize("word", MISTAKES)
def test_a_mistake_is_one_line(word, bert, tmp_path, command):
    (tmp_path / "in.txt").write_text("bada\n")
    words = {"handoff": bert, "input": tmp_path / "in.txt", "output": tmp_path / "out.parquet"}
    words |= dict(each.split("=") for each in word.split())
    said = command(*(f"{name}={value}" for name, value in words.items()))
    assert MISTAKES[word] in said
    assert not (tmp_path / "out.parquet").exists()


def test_a_pooler_that_may_not_be_trained_is_told(bert, tmp_path, capsys):
    told = "what trained it may not have used that, and left it as it was drawn"
    model = pretraining.load(bert)
    model.embed(["bada"], pooling="mean")
    assert told not in capsys.readouterr().err
    model.embed(["bada"], pooling="pooler")
    assert told in capsys.readouterr().err


def test_an_input_without_examples_is_told(bert, tmp_path, command):
    (tmp_path / "in.txt").write_text("\n\n")
    said = command(f"handoff={bert}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path / 'out.npy'}")
    assert "which holds no examples" in said and not (tmp_path / "out.npy").exists()


def embed_slowly(words, pieces):
    """Be a command whose pieces of two texts take a while."""
    whole = Embedder._vectors

    def slow(*given):
        pieces.put("piece")
        time.sleep(0.3)
        return whole(*given)

    ReadTexts.ahead, Embedder._vectors, sys.argv = 2, slow, ["embed", *words]
    torch.set_num_threads(1)
    cli()


def test_a_killed_command_leaves_what_was_there(bert, tmp_path):
    (tmp_path / "in.txt").write_text("\n".join(sentences(40)))
    output = tmp_path / "out.parquet"
    output.write_bytes(b"before")
    words = [f"handoff={bert}", f"input={tmp_path / 'in.txt'}", f"output={output}"]
    fork = multiprocessing.get_context("fork")
    pieces = fork.Queue()
    process = fork.Process(target=embed_slowly, args=(words, pieces))
    process.start()
    for _ in range(3):
        assert pieces.get(timeout=240) == "piece"
    process.kill()
    process.join()
    assert output.read_bytes() == b"before" and process.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".out.parquet.writing"))  # what was written so far, which the next run overwrites


# -- where networks are from -------------------------------------------------------------------------------------------


def test_a_checkpoint_of_transformers_is_read_as_what_it_is(bert, tmp_path, tokenizer):
    texts = sentences(5)
    inside = pretraining.load(f"hf:{bert}")
    assert isinstance(inside, Embedder) and np.allclose(inside.embed(texts), pretraining.load(bert).embed(texts))
    told = repr(inside)
    assert f"hf:{bert}" in told and "TransformersBackbone of 2 layers, vectors of 32" in told and "fp32" in told
    first, again, other = (pretraining.load(f"random:{bert}", seed=seed).embed(texts) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.allclose(first, other)
    assert inside.card["origin"]["objective"].startswith("hf:")


def test_items_must_be_examples(bert):
    model = pretraining.load(bert)
    with pytest.raises(RunError, match="got str, a single thing: give a list of examples"):
        model.embed("a text")
    with pytest.raises(RunError, match="item 1 is int, and this network reads text: give a str"):
        model.embed(["a", 5])
    with pytest.raises(RunError, match=r"item 0 holds half of a surrogate pair"):
        model.embed(["\udc80"])
    for single in (None, 3, Image.new("L", (2, 2))):
        with pytest.raises(RunError, match="a single thing: give a list of examples"):
            model.embed(single)
    with pytest.raises(RunError, match=r"got a table \(Table\).*give a column's values"):
        model.embed(pa.table({"text": ["a"]}))
    for shape in ((8, 8, 3), (3, 8, 8)):
        with pytest.raises(RunError, match=r"got one array \[.*give a list of images, \[image\] or list\(images\)"):
            model.embed(np.zeros(shape, np.uint8))
    assert model.embed([]).shape == (0, 32)


def test_a_modality_that_does_not_say_how_it_is_read_is_refused(monkeypatch, bert):
    monkeypatch.setattr(type(TEXT), "reads", None)
    with pytest.raises(HandoffError, match="Text does not say how text is read without labels"):
        pretraining.load(bert)


@dataclass(kw_only=True)
class ReadSignals(Reading):
    """How the signals of tests/new_modality are read, where their modality says so."""

    ahead = 5

    def read(self, path, preprocess):
        yield from (({"id": number}, signal) for number, signal in enumerate(np.load(path)))

    def take(self, item, name, preprocess):
        return np.asarray(item)

    def encode(self, values, names, preprocess, backbone):
        return Encoded(
            np.ones(len(values)), lambda rows: {"signals": preprocess(np.stack([values[row] for row in rows]))}
        )


def test_an_own_modality_is_embedded_once_it_says_how_it_is_read(tmp_path, monkeypatch, command):
    torch.manual_seed(0)
    backbone, (signals, _) = signals_of.Convolutions(width=6), signals_of.made("test")
    towers = signals_of.SIGNAL.towers(backbone, signals_of.Standardise(mean=0.1, std=0.7))
    place = handoff.write(tmp_path / "step-1", towers=towers, origin={"objective": "none"}, heads={})
    with pytest.raises(HandoffError, match="Signals does not say how signal is read without labels"):
        pretraining.load(place, trust=["tests"])
    with pytest.raises(HandoffError, match="refused, it may run foreign code"):
        pretraining.load(place)
    monkeypatch.setattr(signals_of.Signals, "reads", f"{__name__}.ReadSignals")
    with torch.no_grad():
        expected = backbone.eval()(torch.from_numpy((signals - 0.1) / 0.7).float()).pooled.numpy()
    assert np.allclose(pretraining.load(place, trust=["tests"]).embed(signals), expected, atol=1e-5)
    np.save(tmp_path / "in.npy", signals)
    words = [f"handoff={place}", f"input={tmp_path / 'in.npy'}", f"output={tmp_path / 'out.npy'}", "trust=[tests]"]
    command(*words, "batch_size=7")
    assert np.allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)
