"""head=native: what finetuning makes of any listed architecture is one of transformers' own models."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finetuning.export import export, transformers_model
from finetuning.launch import load_run
from finetuning.tasks.classification import Classification
from finetuning.transformers_heads import NATIVE, advice, native
from pretraining import handoff
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import WordPiece
from tests.finetuning.conftest import WORDS, Finetune, texts
from tests.finetuning.test_text_tasks import questions, splits, tagged

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
OTHER = {
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 66},
    "electra": SHAPE | {"embedding_size": 32},
}
SHORT = [
    "task.inputs.max_tokens=48",
    "trainer.max_steps=20",
    "trainer.val_every=20",
    "optimizer.peak_lr=3e-3",
    "head=native",
]


@pytest.fixture(scope="module")
def handoffs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make a hand-off of each listed architecture, never trained, pooled by the mean as pretraining does."""
    root = tmp_path_factory.mktemp("native")
    preprocess = TextPreprocess(
        tokenizer=WordPiece(vocab_size=300, lowercase=True, sample_bytes=1).train(iter(WORDS * 3))
    )
    found = {}
    for family in NATIVE:
        torch.manual_seed(0)
        backbone = TransformersBackbone(
            config={"model_type": family} | OTHER.get(family, SHAPE),
            vocab_size=preprocess.vocab_size,
            pad_id=preprocess.pad_id,
        )
        path = root / family / "step-0000001"
        found[family] = handoff.write(
            path, towers=TEXT.towers(backbone, preprocess), origin={"objective": "none"}, heads={}
        )
    return found


@pytest.mark.parametrize("family", NATIVE)
def test_a_pipeline_gives_our_classes_for_every_listed_architecture(
    family: str, finetune: Finetune, handoffs: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import pipeline

    data = splits(tmp_path / "d", texts, (60, 20, 104))
    run = finetune("task=text_classification", *SHORT, f"handoff={handoffs[family]}", f"data.path={data}")
    ours = pq.read_table(run / "predictions.parquet").to_pydict()
    folder = export(load_run(run)[1], tmp_path / "exported")
    judge = pipeline("text-classification", model=str(folder), device="cpu")
    given = judge(pq.read_table(data / "test.parquet")["text"].to_pylist())
    assert len(given) == 104 and [answer["label"] for answer in given] == ours["prediction"]
    assert np.allclose([answer["score"] for answer in given], [max(row) for row in ours["scores"]], atol=1e-5)


@pytest.mark.parametrize(("task", "make"), [("tagging", tagged), ("question_answering", questions)])
@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_heads_of_tokens_are_transformers_own(
    family: str, task: str, make, finetune: Finetune, handoffs: dict[str, Path], tmp_path: Path
) -> None:
    overlap = ["task.inputs.overlap=4"] if task == "question_answering" else []
    run = finetune(
        f"task={task}",
        *SHORT,
        *overlap,
        f"handoff={handoffs[family]}",
        f"data.path={splits(tmp_path / 'd', make, (16, 8, 8))}",
    )
    transformers_model(load_run(run)[1])  # compares the scores of both


def test_a_linear_head_on_an_architecture_with_more_says_what_to_do(
    finetune: Finetune, handoffs: dict[str, Path], topics: Path
) -> None:
    run = finetune(
        "task=text_classification", *SHORT, f"handoff={handoffs['modernbert']}", f"data.path={topics}", "head=linear"
    )
    task = load_run(run)[1]
    assert "(ModernBertForSequenceClassification has more than a linear head); head=native goes there" in advice(task)
    with pytest.raises(RunError, match=r"has a head of head.dense.weight, .* finetune with head=native"):
        transformers_model(task)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mode=linear_probe", "head=native and mode=LinearProbe, which fits a linear layer alone"),
        ("pooling=mean", "head=native, which pools by first here"),
        ("head=deep", "head=deep: choose linear or native"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    override: str, message: str, finetune: Finetune, handoffs: dict[str, Path], topics: Path
) -> None:
    with pytest.raises(RunError, match=message):
        finetune("task=text_classification", *SHORT, f"handoff={handoffs['roberta']}", f"data.path={topics}", override)


def test_images_have_no_native_head_and_hear_before_training_whether_transformers_has_their_network(
    finetune: Finetune, image_handoff: Path
) -> None:
    told = "head=native for Classification on image: it is known for text on bert.*; take head=linear"
    with pytest.raises(RunError, match=f"{told}, and to=onnx in an export: transformers has no such network$"):
        finetune("task=digits", f"handoff={image_handoff}", "head=native")
    network = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, in_channels=1)
    with pytest.raises(RunError, match=f"{told}$"):
        native(network, Classification)
