"""Tasks and modalities meet in `inputs` alone."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finetuning.data.splits import Examples
from finetuning.inputs.image import ImageInputs
from finetuning.inputs.text import TextInputs
from finetuning.launch import compose, main
from pretraining import handoff
from pretraining.cli.configuration import CONF, class_of
from pretraining.errors import HandoffError, RunError
from pretraining.image.modality import IMAGE
from pretraining.text.modality import TEXT
from tests.finetuning.conftest import QUIET, Finetune

ROOT = Path(__file__).resolve().parents[2]
TASKS = sorted(path.stem for path in (CONF / "task").glob("[!_]*.yaml"))
# The last two train a language model's own head.
MAY_NAME_WINGS = ("inputs/", "data/", "tasks/generation.py", "tasks/speech_translation.py")


def sources() -> list[tuple[str, ast.Module]]:
    paths = sorted((ROOT / "finetuning").rglob("*.py"))
    named = [(str(path.relative_to(ROOT / "finetuning")), ast.parse(path.read_text("utf-8"))) for path in paths]
    found = [(name, tree) for name, tree in named if not name.startswith(MAY_NAME_WINGS)]
    assert len(found) > 20
    return found


@pytest.mark.parametrize(("name", "tree"), sources(), ids=[name for name, _ in sources()])
def test_nothing_else_names_a_modality(name: str, tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(module.startswith(("pretraining.text", "pretraining.image")) for module in modules), modules


@pytest.mark.parametrize("task", TASKS)
def test_a_preset_s_inputs_and_data_are_of_one_modality(task: str) -> None:
    asked = ["++task.decoder=x"] if "decoder: ???" in (CONF / "task" / f"{task}.yaml").read_text("utf-8") else []
    config = compose([f"task={task}", "handoff=x", "++data.path=x", *asked])  # where one is needed
    assert class_of(config.task.inputs).modality is class_of(config.data).modality


def test_a_batch_holds_what_the_backbone_is_called_with(text_handoff: Path, image_handoff: Path) -> None:
    source, targets = handoff.read(str(text_handoff)), [np.array([place]) for place in range(3)]
    texts = Examples.of(text=["bada", "keke lolo", "mimi"], text_pair=["a", "b", "nunu papa"], label=[0, 1, 2])
    split = TextInputs(max_tokens=16).encode(texts, targets, source.preprocess, source.backbone)
    batch = split.collate(split.read(0, np.arange(3)), None)
    assert batch["inputs"].keys() == {"input_ids", "document_ids", "token_type_ids"}
    assert batch["units"] == int(batch["inputs"]["document_ids"].sum()) == split.lengths().sum()
    assert source.backbone(**batch["inputs"]).pooled.shape == (3, 32)

    source, pixels = handoff.read(str(image_handoff)), np.arange(3 * 36, dtype=np.uint8).reshape(3, 1, 6, 6)
    split = ImageInputs().encode(Examples.of(image=list(pixels), label=[0, 1, 2]), targets, source.preprocess, None)
    batch = split.collate(split.read(0, np.array([2, 0])), None)
    assert batch["targets"].tolist() == [2, 0] and batch["targets_per_row"].tolist() == [1, 1]
    ready = ImageInputs().on_device(batch["inputs"], source.preprocess)
    assert torch.equal(ready["images"], source.preprocess(torch.from_numpy(pixels[[2, 0]])))
    assert source.backbone(**ready).pooled.shape[0] == 2


def test_another_modality_is_refused_before_the_data_are_read(
    finetune: Finetune, text_handoff: Path, image_handoff: Path, tmp_path: Path
) -> None:
    missing = f"data.path={tmp_path / 'nowhere'}"
    with pytest.raises(RunError, match=r"is for text, but task=Classification reads image and data=LabelledImageFiles"):
        finetune("task=image_classification", f"handoff={text_handoff}", missing)
    mixed = "task.inputs._target_=finetuning.inputs.image.ImageInputs"
    with pytest.raises(RunError, match=r"is for image, but task=Classification reads image and data=DocsTopic is text"):
        finetune("task=docs_topic", f"handoff={image_handoff}", mixed, "~task.inputs.max_tokens")
    with pytest.raises(HandoffError, match=r"handoff=mfcc:x is not read for image: give .* torchvision:NAME"):
        finetune("task=image_classification", "handoff=mfcc:x", missing)
    assert not (tmp_path / "run").exists()


def test_of_a_hand_off_with_several_networks_the_run_takes_the_tower_that_it_names(
    finetune: Finetune, text_handoff: Path, image_handoff: Path, tmp_path: Path
) -> None:
    towers = {"text": handoff.read(str(text_handoff)).tower, "image": handoff.read(str(image_handoff)).tower}
    both = handoff.write(tmp_path / "both" / "step-0000001", towers=towers, origin={"objective": "none"}, heads={})
    common = ["task=digits", "mode=knn", "shots=5"]
    with pytest.raises(HandoffError, match="holds image, text: choose one with tower="):
        finetune(*common, f"handoff={both}")
    with pytest.raises(RunError, match="is for text, but task=Classification reads image"):
        finetune(*common, f"handoff={both}", "tower=text")
    runs = [
        finetune(*common, f"handoff={both}", "tower=image", name="two"),
        finetune(*common, f"handoff={image_handoff}", name="one"),
    ]
    first, second = ((run / "predictions.parquet").read_bytes() for run in runs)
    assert first == second
    saved = [load_file(run / "model" / "last" / "model.safetensors") for run in runs]
    assert saved[0] and all(saved[0][name].equal(saved[1][name]) for name in saved[1])
    assert list(handoff.read(str(runs[0] / "model" / "last")).towers) == ["image"]


def test_what_a_run_decides_is_recorded_and_not_written_into_its_configuration(
    text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    given = ["task=text_classification", f"handoff={text_handoff}", f"data.path={topics}", "task.inputs.max_tokens=32"]
    config = compose([*QUIET, *given, f"run_dir={tmp_path / 'run'}", "mode=frozen", "epochs=1", "shots=4"])
    before = config.copy()
    recorded = (main(config) / "config.yaml").read_text()
    assert config == before and config.trainer.max_steps == 300 and "max_steps: 1\n" in recorded


@pytest.mark.parametrize("task", ["cifar10", "docs_topic", "image_classification"])
def test_the_cache_is_where_the_environment_says(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [f"task={task}", "handoff=x", *([] if task == "docs_topic" else ["data.path=x"])]
    assert compose(given).data.cache_dir == "~/.cache/pretraining"
    monkeypatch.setenv("PRETRAINING_CACHE", "/elsewhere")
    assert compose(given).data.cache_dir == "/elsewhere"


def test_the_wings_have_one_object_each() -> None:
    assert TextInputs.modality is TEXT and ImageInputs.modality is IMAGE
