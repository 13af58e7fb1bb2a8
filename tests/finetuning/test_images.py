"""Image tasks, from a hand-off to metrics.json."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from pretraining.errors import RunError
from tests.finetuning.conftest import Finetune


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def save_folder(root: Path, count: int = 60, size: int = 8) -> Path:
    pixels, labels = load_digits(return_X_y=True)
    for number in range(count):
        path = root / str(labels[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels[number].reshape(8, 8) * 15).astype(np.uint8)).resize((size, size)).save(path)
    return root


def test_digits_are_learnt_and_every_metric_is_there(finetune: Finetune, image_handoff: Path) -> None:
    run = finetune(
        "task=digits",
        f"handoff={image_handoff}",
        "trainer.max_steps=60",
        "trainer.val_every=30",
        "optimizer.peak_lr=3e-3",
    )
    values = numbers(run)
    assert values["test/accuracy"] > 0.8 and values["test/accuracy_top5"] > 0.95
    assert {
        f"test/{name}_{average}" for name in ("precision", "recall", "f1") for average in ("macro", "micro")
    } <= values.keys()
    assert values["test_examples"] == 359


@pytest.mark.parametrize("mode", ["frozen", "partial mode.frozen_blocks=2"])
def test_norm_statistics_of_frozen_parts_do_not_move(mode: str, finetune: Finetune, image_handoff: Path) -> None:
    run = finetune(
        "task=digits",
        f"handoff={image_handoff}",
        f"mode={mode.split()[0]}",
        *mode.split()[1:],
        "trainer.max_steps=10",
        "shots=10",
    )
    before, after = (
        load_file(image_handoff / "model.safetensors"),
        load_file(run / "model" / "last" / "model.safetensors"),
    )
    moved = {name for name in before if not before[name].equal(after[name])}
    statistics = {name for name in before if "running_mean" in name}
    assert statistics
    if mode == "frozen":
        assert not moved
    else:  # the stem and the first two stages stay, the last two move
        assert not any(name.startswith(("conv1", "bn1", "layer1", "layer2")) for name in moved)
        assert {name for name in statistics if name.startswith(("layer3", "layer4"))} <= moved


def test_a_folder_of_classes_is_split_and_learnt_from(finetune: Finetune, image_handoff: Path, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "digits", 200)
    run = finetune(
        "task=image_classification",
        f"handoff={image_handoff}",
        f"data.path={folder}",
        "data.decoding.channels=1",
        f"data.cache_dir={tmp_path / 'cache'}",
        "mode=linear_probe",
    )
    values = numbers(run)
    assert values["train_examples"] + values["test_examples"] + 17 >= 200 * 0.9
    assert sorted(set(pq.read_table(run / "predictions.parquet")["label"].to_pylist())) == list("0123456789")
    assert values["test/accuracy"] > 0.3  # chance is 1 in 10


def test_a_parquet_table_of_images_is_learnt_from(finetune: Finetune, image_handoff: Path, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "pngs", 120)
    files = sorted(folder.rglob("*.png"))
    (tmp_path / "table").mkdir()
    columns = {
        "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
        "label": [int(file.parent.name) for file in files],
    }
    pq.write_table(pa.table(columns), tmp_path / "table" / "train.parquet")
    run = finetune(
        "task=image_classification",
        f"handoff={image_handoff}",
        f"data.path={tmp_path / 'table'}",
        "data.decoding.channels=1",
        f"data.cache_dir={tmp_path / 'cache'}",
        "mode=knn",
    )
    assert numbers(run)["test_examples"] >= 20


def test_a_corrupt_image_is_named(finetune: Finetune, image_handoff: Path, tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "digits", 40)
    (folder / "3" / "broken.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"broken\.png is not a readable image"):
        finetune(
            "task=image_classification",
            f"handoff={image_handoff}",
            f"data.path={folder}",
            f"data.cache_dir={tmp_path / 'cache'}",
        )


def test_a_folder_without_classes_has_no_labels(finetune: Finetune, image_handoff: Path, tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(RunError, match="no labels"):
        finetune(
            "task=image_classification",
            f"handoff={image_handoff}",
            f"data.path={tmp_path}",
            f"data.cache_dir={tmp_path / 'cache'}",
        )


def hub_table(path: Path, image: str, label: str, channels: int, count: int = 60) -> Path:
    """Write digits as a table of the hub's form, with class names in its metadata."""
    import datasets

    pixels, labels = load_digits(return_X_y=True)
    pictures = [
        Image.fromarray((row.reshape(8, 8) * 15).astype(np.uint8)).convert("RGB" if channels == 3 else "L")
        for row in pixels[:count]
    ]
    names = [f"digit {number}" for number in range(10)]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=names)})
    datasets.Dataset.from_dict({image: pictures, label: labels[:count].tolist()}, features=features).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("task", "image", "label", "channels"),
    [("cifar100", "img", "fine_label", 3), ("fashion_mnist", "image", "label", 1)],
)
def test_the_hub_s_tables_need_nothing_but_their_path(
    task: str, image: str, label: str, channels: int, finetune: Finetune, image_handoff: Path, tmp_path: Path
) -> None:
    (tmp_path / "table").mkdir()
    for split, count in (("train", 120), ("test", 40)):
        hub_table(tmp_path / "table" / f"{split}.parquet", image, label, channels, count)
    given = [f"task={task}", f"data.path={tmp_path / 'table'}", f"data.cache_dir={tmp_path / 'cache'}", "mode=knn"]
    if channels == 3:  # the made-up hand-off reads grey images
        with pytest.raises(RunError, match=r"data.columns.label=nothing, but the data has the columns img, fine_label"):
            finetune(*given, f"handoff={image_handoff}", "data.columns.label=nothing")
        given.append("data.decoding.channels=1")
    run = finetune(*given, f"handoff={image_handoff}")
    assert numbers(run)["test_examples"] == 40
    assert set(pq.read_table(run / "predictions.parquet")["label"].to_pylist()) == {
        f"digit {number}" for number in range(10)
    }
