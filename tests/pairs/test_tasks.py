"""What is measured of both networks on data of one's own, in which nothing is set apart to learn from."""

import contextlib
import io
import json
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from finetuning import evaluate, predictions
from finetuning import export as exports
from pretraining import handoff
from pretraining.cache import sha256
from pretraining.errors import HandoffError, RunError
from pretraining.pairs.space import Space
from tests.pairs.test_runs import finetune, pretrain

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}
SHAPE = (32, 32)


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pairs"), "objective=siglip") / "handoff" / "last"


@pytest.fixture
def zero_shot(last, tmp_path):
    """Run task=zero_shot_images on a path; returns the metrics and the predictions."""

    def run(path, *words, name="run"):
        given = ["task=zero_shot_images", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", *words]
        metrics = finetune(last, tmp_path / name, *given)
        return metrics, pq.read_table(tmp_path / name / "predictions.parquet").to_pydict()

    return run


def shade(name, number):
    return Image.new("RGB", SHAPE, tuple(max(0, part - 3 * number) for part in COLOURS[name]))


def pictures(folder, count=4, names=tuple(COLOURS)):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shade(name, number).save(folder / name / f"{number}.png")
    return folder


def table(file, count=4):
    file.parent.mkdir(exist_ok=True)
    rows = []
    for name in COLOURS:
        for number in range(count):
            shade(name, number).save(file.parent / "one.png")
            rows.append({"image": {"bytes": (file.parent / "one.png").read_bytes(), "path": None}, "label": name})
    (file.parent / "one.png").unlink()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.mark.parametrize("form", ["folder of test", "classes", "table", "folder of a table", "named"])
def test_pictures_without_others_to_learn_from_are_all_tested_on(form, zero_shot, tmp_path):
    words = []
    if form in ("classes", "folder of test"):
        path = tmp_path / "pictures"
        pictures(path / "test" if form == "folder of test" else path)
    elif form == "named":
        pictures(tmp_path / "pictures" / "unseen")
        path, words = tmp_path / "pictures", ["data.split.test=unseen"]
    else:
        file = table(tmp_path / "tables" / "test.parquet")
        path = file if form == "table" else file.parent
    metrics, rows = zero_shot(path, *words)
    assert rows["label"] == [name for name in COLOURS for _ in range(4)]
    assert metrics["test_examples"] == 12 and metrics["train_examples"] == 0
    assert not any(name.startswith("validation/") for name in metrics)


def test_other_splits_stay_what_they_are_and_add_their_classes(zero_shot, tmp_path):
    pictures(tmp_path / "pictures" / "train", 3)
    pictures(tmp_path / "pictures" / "val", 2, ("red", "blue"))
    pictures(tmp_path / "pictures" / "test", 5, ("red", "blue"))
    metrics, rows = zero_shot(tmp_path / "pictures")
    assert metrics["test_examples"] == 10 and "validation/accuracy" in metrics and len(rows["scores"][0]) == 3
    pictures(tmp_path / "more" / "val", 2, ("red", "blue"))
    pictures(tmp_path / "more" / "train", 3)
    with pytest.raises(RunError, match=r"got the splits train, validation and no test split: name one with data.split"):
        zero_shot(tmp_path / "more", name="again")
    metrics, _ = zero_shot(tmp_path / "more", "data.split.test=val", name="again")
    assert metrics["test_examples"] == 4


def test_what_learns_is_told_that_it_lacks_training_data_and_carves_what_is_whole(zero_shot, tmp_path):
    path = pictures(tmp_path / "pictures" / "test", 10).parent
    with pytest.raises(RunError, match=r"got test and no training examples: name them with data.split.train=, or set"):
        zero_shot(path, "mode=full")
    metrics, _ = zero_shot(path / "test", "data.split.test=carve", name="carved")
    assert metrics["test_examples"] == 6


def captioned(folder, name, count=30):
    """Write a table of as many pictures with two captions each."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour = tuple(COLOURS)[number % 3]
        shade(colour, number).save(folder / "pictures" / f"{number}.png")
        rows.append({"image": f"pictures/{number}.png", "text": [f"a {colour} one", f"number {number}"]})
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


@pytest.fixture
def retrieved(last, tmp_path):
    def run(path, *words, name="run"):
        given = ["task=captioned_files", f"data.path={path}", f"data.cache_dir={tmp_path / 'cache'}", *words]
        metrics = finetune(last, tmp_path / name, *given, "data.decoding.size=32")
        return metrics, pq.read_table(tmp_path / name / "predictions.parquet").to_pydict()

    return run


def test_captions_are_tested_on_where_pretraining_did_not_learn_from_them(retrieved, tmp_path):
    file = captioned(tmp_path / "photos", "captions.jsonl")
    metrics, rows = retrieved(file, "data.shares.test=0.2", "data.shares.validation=0.2")
    assert metrics["test_examples"] == len(rows["label"]) < 15 and "validation/image_to_text_recall_1" in metrics
    for number, path in enumerate((f"{{test: {file}}}", captioned(tmp_path / "others", "test.jsonl"))):
        metrics, rows = retrieved(path, name=f"whole-{number}")
        assert [own[1] for own in rows["label"]] == [f"number {number}" for number in range(30)]
        assert metrics["test_examples"] == 30 and metrics["train_examples"] == 0


def test_captions_that_the_network_cannot_tell_apart_are_counted(retrieved, tmp_path, capsys):
    def written(name, caption):
        file = captioned(tmp_path / name, "test.jsonl", 12)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["text"] = caption(number)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    metrics, _ = retrieved(written("unknown", lambda number: chr(0x4E00 + number)))
    told = r"the network reads all captions \(.*\) of 12 examples as one: recall is 1 whatever was learnt"
    assert re.search(told, capsys.readouterr().err) and metrics["test/text_to_image_queries"] == 1
    file = written("some", lambda number: f"a red {('two', 'six')[number % 2]} " + "a red two " * 40 + f"{number}")
    metrics, _ = retrieved(file, name="some-run")
    assert "10 of 12 different captions are read as another one is by this network" in capsys.readouterr().err
    assert metrics["test/image_to_text_queries"] == 12 and metrics["test/text_to_image_queries"] == 2


def test_classes_that_the_network_cannot_tell_apart_are_named(zero_shot, tmp_path, capsys):
    zero_shot(pictures(tmp_path / "pictures", 2), "task.templates={red: ['a thing'], blue: ['a thing']}")
    told = capsys.readouterr().err
    assert "2 classes have texts that the network cannot tell from another's (blue, red): give others in task.n" in told
    zero_shot(tmp_path / "pictures", "task.names=[blue,green,red]", name="again")
    assert "cannot tell" not in capsys.readouterr().err


def test_a_single_class_is_named_and_paths_of_splits_are_no_folder(zero_shot, tmp_path):
    path = pictures(tmp_path / "pictures", 3, ("red",))
    with pytest.raises(RunError, match=r"got one class only \('red'\) in the labels"):
        zero_shot(path)
    with pytest.raises(RunError, match=r"data.path={'test': '.*'}: paths of single splits are not taken here"):
        zero_shot(f"{{test: {path}}}")


def test_classes_may_have_templates_of_their_own(last, zero_shot, tmp_path):
    path = pictures(tmp_path / "pictures", 2)
    words = '{red: ["a {} thing", "something warm"]}'
    _, rows = zero_shot(path, f"task.templates={words}", "task.default_templates=['a {} one']")
    kept = load_file(tmp_path / "run" / "model" / "last" / "heads.safetensors")["head.classes"]
    space = Space.read(handoff.read(str(last), tower="image"))
    means = [space.texts(own).mean(0) for own in (["a blue one"], ["a green one"], ["a red thing", "something warm"])]
    torch.testing.assert_close(kept, F.normalize(torch.stack(means), dim=-1))
    assert len(rows["label"]) == 6
    zero_shot(path, "task.templates=['a {} hat']", name="all")
    kept = load_file(tmp_path / "all" / "model" / "last" / "heads.safetensors")["head.classes"]
    torch.testing.assert_close(kept, space.texts(["a blue hat", "a green hat", "a red hat"]))
    names = "task.names=[azure,lime,scarlet]"
    for given, told in {
        "{purple: ['a {}'], pink: ['a {}']}": r"templates for 'purple', 'pink', but the classes are blue, green, red",
        "{red: ['a {} {}']}": r"task.templates with 'a {} {}': give texts with {} where the class's name goes",
        "{red: []}": r"task.templates={red: \[\]}: give a list of one or more texts, or a list of .* for each of",
        "{scarlet: ['a {}'], red: ['a {}']}": r"for 'red', but the classes are azure, lime, scarlet",
    }.items():
        with pytest.raises(RunError, match=told):
            zero_shot(path, f"task.templates={given}", *([names] if "scarlet" in given else []), name="refused")


def command(module, *words):
    """Run a command on a finished run in this process; returns what it prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        module.cli()
    return printed.getvalue()


def refused(capsys, module, *words):
    """Tell what a command that refuses its words says: one line, and exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        command(module, *words)
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert end.value.code == 2 and line.startswith("error: ")
    return line


def test_a_finished_zero_shot_run_judges_other_pictures(zero_shot, tmp_path, capsys):
    zero_shot(pictures(tmp_path / "pictures", 2))
    run = f"run_dir={tmp_path / 'run'}"
    some = pictures(tmp_path / "some" / "test", 3, ("green", "red")).parent
    metrics = json.loads(command(evaluate, run, f"data.path={some}"))
    answers = [json.loads(line) for line in command(predictions, run, f"input={some / 'test'}").splitlines()]
    named = {str(Path(name)): answer for name, answer in ((one["file"], one["prediction"]) for one in answers)}
    assert list(named) == [f"{name}/{number}.png" for name in ("green", "red") for number in range(3)]
    right = [Path(file).parts[0] == answer for file, answer in named.items()]
    assert metrics["test_examples"] == 6 and metrics["test/accuracy"] == pytest.approx(sum(right) / 6)
    assert [answer["scores"].keys() for answer in answers] == [dict.fromkeys(COLOURS).keys()] * 6
    pictures(some, 1, ("blue",)).joinpath("blue").rename(some / "test" / "purple")
    assert "the classes purple, which training did not have (it had blue, gr" in refused(
        capsys, evaluate, run, f"data.path={some}"
    )
    told = refused(capsys, exports, run)
    assert "export its networks, python -m pretraining.export handoff=" in told and "last to=… output=DIR" in told


@pytest.mark.parametrize("saved", ["false", "true"])
def test_a_finished_retrieval_run_measures_other_pictures(saved, last, retrieved, tmp_path, capsys):
    others = captioned(tmp_path / "others", "test.jsonl", 12)
    file = captioned(tmp_path / "photos", "captions.jsonl")
    shares = ["data.shares.test=0.2", "data.shares.validation=0.2"]
    _, rows = retrieved(file, *shares, f"save_model={saved}")
    places = [f"number {Path(name).stem}" for name in rows["name"]]
    assert places == [own[1] for own in rows["label"]]
    assert all(name.startswith("pictures/") for name in rows["name"])
    expected, _ = retrieved(others, name="others-run")
    run = f"run_dir={tmp_path / 'run'}"
    found = json.loads(command(evaluate, run, f"data.path={others}"))
    assert found == {name: value for name, value in expected.items() if name in found} and len(found) > 20
    told = refused(capsys, predictions, run, f"input={tmp_path / 'others' / 'pictures'}")
    assert f"python -m pretraining.embed handoff={last.resolve()} tower=image input=… output=near" in told
    assert "python -m pretraining.export handoff=" in refused(capsys, exports, run)
    place = json.loads((tmp_path / "run" / "lineage.json").read_text())
    (tmp_path / "run" / "lineage.json").write_text(json.dumps(place | {"sha256": "0" * 64}))
    assert "which is another by now" in refused(capsys, evaluate, run)


def test_a_run_without_a_model_that_learnt_nothing_names_its_hand_off(last, zero_shot, tmp_path, capsys):
    zero_shot(pictures(tmp_path / "pictures", 2), "save_model=false")
    told = refused(capsys, predictions, f"run_dir={tmp_path / 'run'}", f"input={tmp_path / 'pictures'}")
    assert f"had save_model=true; nothing was learnt, so handoff={last} has all of it" in told


def garbage(weights, place):
    place.write_bytes(b"garbage" * 9)


def odd_bias(weights, place):
    save_file(weights | {"projections.text.bias": torch.zeros(3)}, place)


@pytest.mark.parametrize("damage", [garbage, odd_bias])
def test_what_lies_beside_the_networks_is_read_or_refused_in_one_line(damage, last, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(last, place)
    damage(load_file(place / "heads.safetensors"), place / "heads.safetensors")
    card = json.loads((place / "handoff.json").read_text())
    card["sha256"]["heads.safetensors"] = sha256(place / "heads.safetensors")
    (place / "handoff.json").write_text(json.dumps(card))
    with pytest.raises(
        HandoffError, match=r"copy: what lies beside its networks cannot be read .*: copy the hand-off"
    ) as told:
        Space.read(handoff.read(str(place), tower="image"))
    assert "\n" not in str(told.value)


def test_a_zero_shot_run_is_no_hand_off_with_a_text_network(zero_shot, tmp_path):
    path = pictures(tmp_path / "pictures", 2)
    zero_shot(path)
    with pytest.raises(HandoffError, match=r"holds no second network in the same space"):
        zero_shot(path, f"handoff={tmp_path / 'run' / 'model' / 'last'}", "tower=null", name="again")
