"""Exported folders: what transformers makes of them is what we predicted, example by example."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from finetuning.export import export, transformers_model
from finetuning.launch import load_run
from tests.finetuning.conftest import Finetune, texts
from tests.finetuning.test_text_tasks import questions, splits, tagged

LEARNS = ["task.inputs.max_tokens=32", "trainer.val_every=30", "trainer.log_every=30", "optimizer.peak_lr=3e-3"]
COUNTS = (60, 20, 104)


def test_a_token_pipeline_gives_each_word_our_tag(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    data = splits(tmp_path / "d", tagged, COUNTS)
    run = finetune("task=tagging", *LEARNS, f"handoff={text_handoff}", f"data.path={data}", "trainer.max_steps=60")
    folder = export(load_run(run)[1], tmp_path / "exported")
    test, ours = (pq.read_table(path).to_pydict() for path in (data / "test.parquet", run / "predictions.parquet"))
    tagger = pipeline("token-classification", model=str(folder), device="cpu", ignore_labels=[])
    theirs = []
    for words, tokens in zip(test["tokens"], tagger([" ".join(words) for words in test["tokens"]]), strict=True):
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        at = {token["start"]: token["entity"] for token in tokens}
        theirs.append([at[start] for start in starts])
    assert len(theirs) == 104 and len({tag for row in theirs for tag in row}) >= 3
    assert theirs == ours["prediction"]


def test_a_question_answering_model_gives_our_answers(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    import transformers

    def long(count: int, seed: int) -> dict[str, list]:
        table = questions(count, seed)
        table["context"] = [
            f"{context} {other}" for context, other in zip(table["context"], reversed(table["context"]), strict=True)
        ]
        return table

    data = splits(tmp_path / "d", long, COUNTS)
    windows = ["task.inputs.max_tokens=20", "task.inputs.overlap=4", "task.max_answer=5"]
    run = finetune(
        "task=question_answering",
        *LEARNS[1:],
        *windows,
        f"handoff={text_handoff}",
        f"data.path={data}",
        "trainer.max_steps=60",
    )
    folder = export(load_run(run)[1], tmp_path / "exported")
    test, ours = (pq.read_table(path).to_pydict() for path in (data / "test.parquet", run / "predictions.parquet"))
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    answers, several = [], 0
    for question, context in zip(test["question"], test["context"], strict=True):
        given = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=20,
            stride=4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            output = model(**{name: given[name] for name in ("input_ids", "attention_mask", "token_type_ids")})
        best = (-np.inf, "")
        several += len(given["input_ids"]) > 1
        for row, offsets in enumerate(given["offset_mapping"].tolist()):
            inside = [place for place, part in enumerate(given.sequence_ids(row)) if part == 1]
            for first in inside:
                for last in range(first, min(first + 5, inside[-1] + 1)):
                    score = float(output.start_logits[row, first] + output.end_logits[row, last])
                    if score > best[0] + 1e-6:
                        best = (score, context[offsets[first][0] : offsets[last][1]])
        answers.append(best[1])
    assert len(answers) == 104 and several > 100 and len(set(answers)) > 10
    assert answers == ours["prediction"]


def test_a_regression_pipeline_gives_our_numbers(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    def scored(count: int, seed: int) -> dict[str, list]:
        table = texts(count, seed)
        return {"text": table["text"], "label": [sum(map(ord, text)) % 97 / 10 for text in table["text"]]}

    data = splits(tmp_path / "d", scored, COUNTS)
    run = finetune(
        "task=text_regression",
        *LEARNS,
        f"handoff={text_handoff}",
        f"data.path={data}",
        "trainer.max_steps=30",
        "pooling=pooler",
    )
    folder = export(load_run(run)[1], tmp_path / "exported")
    test, ours = (pq.read_table(path).to_pydict() for path in (data / "test.parquet", run / "predictions.parquet"))
    given = pipeline("text-classification", model=str(folder), device="cpu")(test["text"])
    assert len(given) == 104 and np.allclose([answer["score"] for answer in given], ours["prediction"], atol=1e-5)


def test_a_pipeline_on_pairs_gives_our_classes(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    def paired(count: int, seed: int) -> dict[str, list]:
        first, second = texts(count, seed), texts(count, seed + 50)
        return {
            "sentence1": first["text"],
            "sentence2": second["text"][1:] + second["text"][:1],
            "label": first["label"],
        }

    data = splits(tmp_path / "d", paired, COUNTS)
    task = [
        "task=text_pair_classification",
        *LEARNS,
        f"handoff={text_handoff}",
        f"data.path={data}",
        "trainer.max_steps=30",
        "pooling=pooler",
    ]
    run = finetune(*task)
    module = load_run(run)[1]
    test, ours = (pq.read_table(path).to_pydict() for path in (data / "test.parquet", run / "predictions.parquet"))
    encoded = module.encode(_examples(test))
    batch = encoded.collate(encoded.read(0, np.arange(4)), None)
    separator = (batch["inputs"]["input_ids"] == module.preprocess.sep_id).int()
    assert torch.equal(
        batch["inputs"]["token_type_ids"] * batch["inputs"]["document_ids"],
        ((separator.cumsum(1) - separator) * batch["inputs"]["document_ids"]).long(),
    )
    judge = pipeline("text-classification", model=str(export(module, tmp_path / "exported")), device="cpu")
    given = judge([{"text": a, "text_pair": b} for a, b in zip(test["sentence1"], test["sentence2"], strict=True)])
    assert len(given) == 104 and [answer["label"] for answer in given] == ours["prediction"]
    best = [max(row) for row in ours["scores"]]
    assert np.allclose([answer["score"] for answer in given], best, atol=1e-5)


def _examples(table: dict[str, list]):
    from finetuning.data.splits import Examples

    return Examples.of(text=table["sentence1"], text_pair=table["sentence2"], label=table["label"])


def test_the_loss_of_classification_equals_that_of_transformers(
    finetune: Finetune, text_handoff: Path, topics: Path
) -> None:
    run = finetune(
        "task=text_classification",
        *LEARNS,
        f"handoff={text_handoff}",
        f"data.path={topics}",
        "trainer.max_steps=2",
        "pooling=pooler",
    )
    task = load_run(run)[1]
    model = transformers_model(task)
    ids, labels = torch.randint(5, task.preprocess.vocab_size, (6, 16)), torch.tensor([0, 1, 2, 2, 1, 0])
    documents = (torch.arange(16) < torch.tensor([16, 9, 12, 16, 4, 7])[:, None]).long()
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=documents, labels=labels)
        inputs = {"input_ids": ids, "document_ids": documents}
        batch = {"inputs": inputs, "targets": labels, "targets_per_row": torch.ones(6, dtype=torch.long)}
        term = task.loss(batch).terms["cross_entropy"]
        assert torch.allclose(task.logits(batch), theirs.logits, atol=1e-5)
    assert float(term.total / term.count) == pytest.approx(float(theirs.loss), abs=1e-5)


def test_a_checkpoint_of_transformers_alone_is_finetuned(
    finetune: Finetune, text_handoff: Path, topics: Path, tmp_path: Path
) -> None:
    import transformers

    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_handoff)
    torch.manual_seed(1)
    model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=len(tokenizer), **shape))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "checkpoint")
    run = finetune(
        "task=text_classification",
        *LEARNS,
        f"handoff=hf:{tmp_path / 'checkpoint'}",
        f"data.path={topics}",
        "mode=frozen",
        "trainer.max_steps=2",
    )
    base = load_run(run)[1].backbone.model.state_dict()
    assert all(base[name].equal(tensor) for name, tensor in model.bert.state_dict().items())


def test_a_lone_last_example_is_predicted_like_the_others(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    from finetuning.predictions import predict, read_inputs

    run = finetune(
        "task=text_classification",
        *LEARNS,
        f"handoff={text_handoff}",
        f"data.path={topics}",
        "mode=knn",
        "data.eval_batch_size=59",
    )
    config, task = load_run(run)
    inputs = list(read_inputs(task, config.data, str(topics / "test.parquet")))
    found = [[record["prediction"] for record in predict(task, inputs, size)] for size in (1, 59, 60)]
    assert found[0] == found[1] == found[2] == pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()
