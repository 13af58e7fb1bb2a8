"""Dense tasks from a hand-off to metrics.json: learnt by heart, resumed, on several ranks."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from finetuning.dense.masks import decode
from finetuning.evaluate import evaluate, with_data
from finetuning.launch import compose, load_run, prepared
from finetuning.predictions import predict, read_inputs
from finetuning.watch import Watch
from pretraining.cli.configuration import complete, instantiate
from pretraining.data.loader import collated
from pretraining.errors import RunError
from pretraining.random import Keys
from tests.finetuning.conftest import QUIET, Finetune
from tests.finetuning.dense.made_up import write_one, write_picture
from tests.finetuning.test_resume import DiedError, history, result

PLAIN = ["task.inputs.scale=[1,1]", "task.inputs.flips=[]", "data.batch_size=1", "trainer.log_every=20"]


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize(("network", "decoder"), [("resnet", "fpn"), ("vit", "linear"), ("vit", "fpn")])
def test_one_label_map_is_learnt_by_heart(
    network: str, decoder: str, finetune: Finetune, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = finetune(
        "task=semantic_segmentation",
        f"handoff={request.getfixturevalue(network)}",
        f"data.path={write_one(tmp_path / 'd')}",
        f"task.decoder={decoder}",
        "task.dropout=0",
        *PLAIN,
        "trainer.max_steps=40",
        "trainer.val_every=20",
        "optimizer.peak_lr=5e-3",
    )
    values = numbers(run)
    assert values["test/miou"] > 0.97 and values["test/pixel_accuracy"] > 0.98
    assert values["test/miou_low"] <= values["test/miou"] <= values["test/miou_high"]
    report = json.loads((run / "test_report.json").read_text())
    assert report["classes"] == ["0", "1", "2"] and sum(map(sum, report["confusion_matrix"])) == 48 * 48
    assert len(pq.read_table(run / "predictions.parquet")["prediction"][0].as_py()) == 3
    assert (run / "pictures" / "0000.png").is_file()
    config, task = load_run(run)
    fewer = with_data(config, {"data.ignore": "[0]"})  # whose first class is 1
    assert evaluate(task, instantiate(fewer.data))["test/pixel_accuracy"] > 0.98
    named = with_data(config, {"data.class_names": "[a,b,c]"})
    with pytest.raises(RunError, match=r"got the classes a, b, c, which training did not have \(it had 0, 1, 2\)"):
        evaluate(task, instantiate(named.data))


def only(name: str):
    """Keep the red objects, which are two, under a name."""

    def change(columns: dict) -> None:
        boxes = columns["objects"][0]["bbox"]
        columns["objects"] = [{"bbox": [boxes[0], boxes[2]], "category": [name] * 2}]

    return change


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_one_image_s_objects_are_learnt_by_heart(
    network: str, finetune: Finetune, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = finetune(
        "task=detection",
        f"handoff={request.getfixturevalue(network)}",
        f"data.path={write_one(tmp_path / 'd')}",
        "task.width=32",
        *PLAIN,
        "trainer.max_steps=80",
        "trainer.val_every=20",
        "optimizer.peak_lr=3e-3",
    )
    values = numbers(run)
    assert values["test/ap"] > 0.97 and values["test/ap50"] == pytest.approx(1.0)
    report = json.loads((run / "test_report.json").read_text())["per_class"]
    assert report["red"]["objects"] == 2 and report["blue"]["ap"] > 0.97
    row = pq.read_table(run / "predictions.parquet").to_pylist()[0]
    assert [thing["class"] for thing in row["label"]] == ["red", "blue", "red"]
    assert {thing["class"] for thing in row["prediction"]} == {"red", "blue"}
    assert (run / "pictures" / "0000.png").is_file()
    config, task = load_run(run)
    again = evaluate(task, instantiate(config.data))
    assert again["test/ap"] == pytest.approx(values["test/ap"]) and again["test/loss"] == pytest.approx(
        values["test/loss"], rel=1e-4
    )
    fewer = with_data(config, {"data.path": str(write_one(tmp_path / "red", only("red")))})
    assert evaluate(task, instantiate(fewer.data))["test/ap"] == pytest.approx(report["red"]["ap"])
    other = with_data(config, {"data.path": str(write_one(tmp_path / "green", only("green")))})
    with pytest.raises(RunError, match=r"the classes green, which training did not have \(it had blue, red\)"):
        evaluate(task, instantiate(other.data))
    write_picture(tmp_path / "new" / "scene.png")
    (record,) = predict(task, read_inputs(task, config.data, str(tmp_path / "new")))
    assert record["name"].endswith("scene.png") and json.dumps(record)
    assert record["prediction"][0]["box"] == pytest.approx(row["prediction"][0]["box"], abs=1e-3)
    results = json.loads((run / "predictions.json").read_text())
    assert {(result["file_name"], result["category"]) for result in results} == {
        (row["name"], thing["class"]) for thing in row["prediction"]
    }
    boxes = sorted(result["bbox"] for result in results if result["score"] > 0.5)
    assert np.allclose(boxes, sorted([(0, 0, 16, 32), (32, 0, 16, 16), (16, 32, 32, 16)]), atol=1.5)  # x, y, w, h


def pixels_of(thing: dict) -> np.ndarray:
    return decode(tuple(thing["mask"]["size"]), thing["mask"]["counts"]).pixels()


@pytest.mark.slow
def test_one_image_s_masks_are_learnt_by_heart(finetune: Finetune, resnet: Path, tmp_path: Path) -> None:
    run = finetune(
        "task=instance_segmentation",
        f"handoff={resnet}",
        f"data.path={write_one(tmp_path / 'd')}",
        "task.width=32",
        *PLAIN,
        "trainer.max_steps=60",
        "trainer.val_every=20",
        "optimizer.peak_lr=3e-3",
    )
    values = numbers(run)
    assert values["test/ap50"] == values["test/mask_ap50"] == pytest.approx(1.0)
    assert values["test/ap"] > 0.8 and values["test/mask_ap"] > 0.8
    row = pq.read_table(run / "predictions.parquet").to_pylist()[0]
    true, found = ([pixels_of(thing) for thing in row[name]] for name in ("label", "prediction"))
    for known in true:
        assert max((known & guess).sum() / (known | guess).sum() for guess in found) > 0.8
    assert json.loads((run / "test_report.json").read_text())["per_class"]["red"]["mask_ap50"] == pytest.approx(1.0)


SCENES = ["data.counts={train: 12, validation: 6, test: 6}", "data.scenes.size=48", "data.batch_size=4"]
SHORT = ["trainer.max_steps=6", "trainer.val_every=3", "trainer.log_every=1"]


TASKS = ["digit_scenes_segmentation", "digit_scenes_detection", "digit_scenes_instances"]


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_equals_one_that_was_never_stopped(
    task: str, finetune: Finetune, resnet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [f"task={task}", f"handoff={resnet}", *SCENES, *SHORT, "task.width=32", "trainer.checkpoint_every=2"]
    common += ["task.inputs.scale=[0.7,1.4]", "task.inputs.flips=[horizontal]"]
    whole = finetune(*common, name="whole")
    log = Watch.on_train_batch_end

    def stop(self: Watch, trainer, module, outputs, batch, number) -> None:
        log(self, trainer, module, outputs, batch, number)
        if trainer.global_step == 5:
            raise DiedError

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_train_batch_end", stop)
        with pytest.raises(DiedError):
            finetune(*common, name="stopped")
    stopped = finetune(*common, "resume=auto", name="stopped")
    (values, rows, table, weights), (values_, rows_, table_, weights_) = result(whole), result(stopped)
    assert values == values_ and rows == rows_ and table == table_
    assert weights.keys() == weights_.keys() and all(weights[name].equal(weights_[name]) for name in weights)


def losses(task: str, handoff: Path, rows: list[int], tmp_path: Path) -> dict[str, tuple[float, float]]:
    """Sum and count each term over training rows, in evaluation mode: norms see no batch."""
    overrides = [f"task={task}", f"handoff={handoff}", *SCENES, "task.width=32", "task.inputs.scale=[0.7,1.4]"]
    config = compose([*QUIET, *overrides, f"run_dir={tmp_path / 'run'}"])
    run = prepared(complete(config, parts=("task", "mode")))[1]
    source, places = run.splits["train"], np.array(rows)
    keys = Keys(1, "train", np.zeros_like(places), places)
    batch = collated(source.collate, source.read(0, places), keys)
    task_ = run.task.eval()
    terms = task_.loss(task_.finished(batch)).terms
    assert {name: float(count) for name, count in task_.counts(batch).items()} == {
        name: float(term.count) for name, term in terms.items()
    }
    return {name: (float(term.total), float(term.count)) for name, term in terms.items()}


@pytest.mark.parametrize("task", TASKS)
def test_the_losses_of_a_batch_are_the_sums_of_its_parts(task: str, resnet: Path, tmp_path: Path) -> None:
    whole = losses(task, resnet, [0, 1, 2, 3], tmp_path)
    parts = [losses(task, resnet, rows, tmp_path) for rows in ([0, 2], [1], [3])]
    for name, (total, count) in whole.items():
        assert total == pytest.approx(sum(part[name][0] for part in parts), rel=1e-4), name
        assert count == sum(part[name][1] for part in parts) > 0


@pytest.mark.parametrize("task", [*TASKS, "digit_scenes_segmentation task.decoder=linear"])
@pytest.mark.parametrize("mode", ["frozen", "partial mode.frozen_blocks=2"])
def test_frozen_parts_do_not_move_and_a_fraction_of_the_labels_is_learnt_from(
    task: str, mode: str, finetune: Finetune, resnet: Path
) -> None:
    asked = [*f"task={task}".split(), *f"mode={mode}".split(), "fraction=0.5"]
    steps = ["trainer.max_steps=2", "trainer.val_every=2", "task.width=32"]
    run = finetune(*asked, f"handoff={resnet}", *SCENES, *steps)
    assert numbers(run)["train_examples"] == 6 and numbers(run)["test_examples"] == 6
    before, after = (load_file(path / "model.safetensors") for path in (resnet, run / "model" / "last"))
    moved = {name for name in before if not before[name].equal(after[name])}
    if mode == "frozen":
        assert not moved
    else:
        assert moved and all(name.startswith(("layer3", "layer4")) for name in moved)
    head = load_file(run / "model" / "last" / "heads.safetensors")
    if "linear" in task:  # batch normalisation (Oquab et al. 2023), whose statistics move, and a 1 x 1 convolution
        assert {name.removeprefix("head.layers.") for name in head if "num_batches" not in name} == {
            *(f"0.{part}" for part in ("weight", "bias", "running_mean", "running_var")),
            *(f"2.{part}" for part in ("weight", "bias")),
        }
        assert head["head.layers.0.running_mean"].abs().max() > 0 and head["head.layers.2.weight"].shape == (
            11,
            128,
            1,
            1,
        )


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_two_ranks_learn_and_measure_like_one_process(task: str, finetune: Finetune, resnet: Path) -> None:
    # Proposals are chosen by scores: at larger rates another order of sums soon chooses others.
    rate = 1e-4 if "instances" in task else 1e-3
    common = [f"task={task}", f"handoff={resnet}", *SCENES, *SHORT, "task.width=32", f"optimizer.peak_lr={rate}"]
    common += ["data.eval_batch_size=2", "task.inputs.scale=[0.7,1.4]"]
    common += ["task.dropout=0"] if "segmentation" in task else []  # whose draws are each rank's own
    one = finetune(*common, name="one")
    two = finetune(*common, "trainer=ddp", "trainer.accelerator=cpu", name="two")
    first, second = history(one), history(two)
    losses = [[float(row["train/loss"]) for row in rows if row["train/loss"]] for rows in (first, second)]
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=1e-2)
    measured = {name for name in numbers(one) if name.startswith("test/")}
    assert len(measured) > 6
    for name in measured:
        assert numbers(two)[name] == pytest.approx(numbers(one)[name], rel=1e-3, abs=2e-3), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.width=0", "task.width=0: give a whole number"),
        ("task.width=40", "task.width=40: give a multiple of 32"),
        ("task.strides=[]", "task.strides="),
        ("task.inputs.size=abc", "task.inputs.size=abc"),
        ("task.inputs.scale=[2,1]", "smallest and a largest scale"),
        ("task.inputs.flips=[up]", "a list of horizontal or vertical"),
        ("task.strides=[3,5]", r"maps have the strides \[2, 4, 8, 16\]"),
        ("task.select=accuracy", "task.select=accuracy, which this task does not measure: choose one of"),
        ("shots=3", "for labels that are not classes"),
        ("mode=knn", "whose head reads no single vectors"),
        ("data.label=maps", "task=semantic_segmentation"),
        ("data.scenes.size=16", "too small to read digits in"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_written(
    override: str, message: str, finetune: Finetune, resnet: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=message):
        finetune("task=digit_scenes_detection", f"handoff={resnet}", *SCENES, override)
    assert not (tmp_path / "run").exists()


def test_label_maps_are_needed_where_pixels_are_classified(finetune: Finetune, resnet: Path) -> None:
    with pytest.raises(RunError, match="got objects as labels, but label maps are needed: take task=detection"):
        finetune("task=digit_scenes_segmentation", f"handoff={resnet}", *SCENES, "data.label=objects")


def test_scenes_of_one_digit_are_classified(finetune: Finetune, resnet: Path) -> None:
    counts = ["data.counts={train: 60, validation: 20, test: 20}", "data.scenes.size=48", "shots=2"]
    run = finetune("task=digit_scenes_classification", f"handoff={resnet}", *counts, "mode=linear_probe")
    assert (
        numbers(run)["train_examples"] == 20
        and json.loads((run / "test_report.json").read_text())["classes"][9] == "nine"
    )
    with pytest.raises(RunError, match=r"data.label=classes, but scenes have up to data.scenes.most=2 digits"):
        finetune("task=digit_scenes_classification", f"handoff={resnet}", "data.scenes.most=2", name="several")
