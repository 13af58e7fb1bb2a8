"""Regression, tagging and question answering, from a hand-off to metrics.json, against independent computations."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import stats
from seqeval.metrics import f1_score
from sklearn import metrics as sk

from finetuning.export import transformers_model
from finetuning.launch import load_run
from finetuning.metrics import squad, tagging
from pretraining.errors import RunError
from tests.finetuning.conftest import WORDS, Finetune, write

SHORT = ["task.inputs.max_tokens=32", "trainer.val_every=20", "trainer.log_every=20", "optimizer.peak_lr=3e-3"]
NAMES, PLACES = WORDS[:20], WORDS[20:40]


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


def tagged(count: int, seed: int) -> dict[str, list]:
    """Make sentences in which a name is one word and a place is one or two."""
    generator, tokens, tags = np.random.default_rng(seed), [], []
    for _ in range(count):
        name, place = [str(generator.choice(NAMES))], generator.choice(PLACES, generator.integers(1, 3)).tolist()
        fill = generator.choice(WORDS[50:], 4).tolist()
        tokens.append([*fill[:2], *name, *fill[2:], *place])
        tags.append(["O", "O", "B-PER", "O", "O", "B-LOC", *["I-LOC"] * (len(place) - 1)])
    return {"tokens": tokens, "tags": tags}


def questions(count: int, seed: int, unanswerable: bool = False) -> dict[str, list]:
    """Ask for the word after a marked one."""
    generator = np.random.default_rng(seed)
    table: dict[str, list] = {"question": [], "context": [], "answers": []}
    for number in range(count):
        words = generator.choice(WORDS[:40], 9).tolist()
        words[3], words[4] = WORDS[90], str(generator.choice(WORDS[60:80]))
        none = unanswerable and number % 3 == 0
        context = " ".join(words[5:] if none else words)
        table["question"].append(f"what {WORDS[90]}")
        table["context"].append(context)
        table["answers"].append(
            {"text": [] if none else [words[4]], "answer_start": [] if none else [context.index(words[4])]}
        )
    return table


def splits(directory: Path, make, counts=(96, 24, 30)) -> Path:
    for seed, (split, count) in enumerate(zip(("train", "validation", "test"), counts, strict=True)):
        write(directory / f"{split}.parquet", make(count, seed))
    return directory


def test_regression_reports_the_correlations_that_scipy_gives(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    def make(count: int, seed: int) -> dict[str, list]:
        share = np.random.default_rng(seed).random(count)
        rows = [np.random.default_rng([seed, n]).random(12) < s for n, s in enumerate(share)]
        return {"text": [" ".join(np.where(row, WORDS[1], WORDS[2])) for row in rows], "label": (share * 5).tolist()}

    run = finetune(
        "task=text_regression",
        *SHORT,
        f"handoff={text_handoff}",
        f"data.path={splits(tmp_path / 'd', make)}",
        "trainer.max_steps=60",
    )
    table, values = pq.read_table(run / "predictions.parquet"), numbers(run)
    labels, predictions = table["label"].to_pylist(), table["prediction"].to_pylist()
    assert (
        values["test/pearson"] == pytest.approx(stats.pearsonr(labels, predictions)[0]) and values["test/pearson"] > 0.7
    )
    assert values["test/spearman"] == pytest.approx(stats.spearmanr(labels, predictions)[0])
    assert values["test/mse"] == pytest.approx(np.mean((np.array(labels) - np.array(predictions)) ** 2))
    probed = finetune(
        "task=text_regression",
        *SHORT,
        f"handoff={text_handoff}",
        f"data.path={tmp_path / 'd'}",
        "mode=linear_probe",
        name="probe",
    )
    assert numbers(probed)["test/pearson"] > 0.7


def test_several_classes_per_text_are_learnt_and_judged_as_scikit_learn_does(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    def make(count: int, seed: int) -> dict[str, list]:
        generator = np.random.default_rng(seed)
        marks = generator.random((count, 3)) < 0.5
        parts = [
            [WORDS[10 * kind + n % 10] for kind in np.flatnonzero(row) for _ in range(3)] for n, row in enumerate(marks)
        ]
        return {
            "text": [" ".join([*part, WORDS[99]]) for part in parts],
            "labels": [np.array(["x", "y", "z"])[row].tolist() for row in marks],
        }

    data = splits(tmp_path / "d", make)
    run = finetune(
        "task=text_multi_label", *SHORT, f"handoff={text_handoff}", f"data.path={data}", "trainer.max_steps=80"
    )
    table, values = pq.read_table(run / "predictions.parquet"), numbers(run)
    binary = [
        np.array([[name in row for name in "xyz"] for row in table[column].to_pylist()])
        for column in ("label", "prediction")
    ]
    assert (
        values["test/f1_macro"] == pytest.approx(sk.f1_score(*binary, average="macro"))
        and values["test/f1_macro"] > 0.8
    )
    assert values["test/accuracy"] == pytest.approx(sk.accuracy_score(*binary))


def test_text_labels_are_no_numbers(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    with pytest.raises(RunError, match="'sport' among the train labels, but numbers are needed"):
        finetune("task=text_regression", *SHORT, f"handoff={text_handoff}", f"data.path={topics}")


@pytest.mark.parametrize(
    "options", ["task.inputs.align=first", "task.inputs.align=all", "mode=frozen", "mode=linear_probe"]
)
def test_entities_are_found_and_judged_by_seqeval(
    options: str, finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    data = splits(tmp_path / "d", tagged)
    run = finetune(
        "task=tagging",
        options,
        *SHORT,
        f"handoff={text_handoff}",
        f"data.path={data}",
        "trainer.max_steps=60",
        "task.select=entity_f1",
    )
    table, values = pq.read_table(run / "predictions.parquet"), numbers(run)
    assert table["label"].to_pylist() == pq.read_table(data / "test.parquet")["tags"].to_pylist()
    assert values["test/entity_f1"] == pytest.approx(
        f1_score(table["label"].to_pylist(), table["prediction"].to_pylist())
    )
    assert values["test/entity_f1"] > (0.8 if "align" in options else 0.2)
    assert values["test/entity_f1_low"] <= values["test/entity_f1"] <= values["test/entity_f1_high"]


def test_entity_f1_equals_seqeval_on_malformed_tags() -> None:
    labels = [["B-PER", "I-PER", "O", "I-LOC"], ["O", "B-LOC", "I-PER"], ["O"]]
    guesses = [["I-PER", "I-PER", "B-LOC", "I-LOC"], ["O", "I-LOC", "I-LOC"], ["B-PER"]]
    values = tagging.entities(labels, guesses)
    assert values["entity_f1"] == pytest.approx(f1_score(labels, guesses))
    counts = np.array([tagging.tag_counts(*row, True) for row in zip(labels, guesses, strict=True)]).sum(0)
    assert 2 * counts[2] / (counts[3] + counts[4]) == pytest.approx(values["entity_f1"])


def test_words_cut_off_count_as_wrong_and_are_reported(
    finetune: Finetune, text_handoff: Path, tmp_path: Path, capfd
) -> None:
    data = splits(tmp_path / "d", tagged)
    run = finetune(
        "task=tagging", "task.inputs.max_tokens=6", f"handoff={text_handoff}", f"data.path={data}", "mode=linear_probe"
    )
    assert "were cut" in capfd.readouterr().err
    assert [len(row) for row in pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()] == [
        len(row) for row in pq.read_table(data / "test.parquet")["tags"].to_pylist()
    ]


def test_tags_that_do_not_align_are_an_error(finetune: Finetune, text_handoff: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", {"tokens": [["a", "b"]] * 20, "tags": [["O", "B-X"]] * 19 + [["O"]]})
    with pytest.raises(RunError, match=r"row 19 .* give two lists of the same length"):
        finetune("task=tagging", f"handoff={text_handoff}", f"data.path={path}", "task.inputs.max_tokens=32")


@pytest.mark.parametrize("unanswerable", [False, True])
def test_answers_are_learnt_by_heart(
    unanswerable: bool, finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    def make(count: int, seed: int) -> dict[str, list]:
        return questions(16, 5, unanswerable)

    run = finetune(
        "task=question_answering",
        *SHORT,
        "task.inputs.max_tokens=32",
        "task.inputs.overlap=4",
        f"handoff={text_handoff}",
        f"data.path={splits(tmp_path / 'd', make)}",
        "trainer.max_steps=100",
        "optimizer.peak_lr=5e-3",
    )
    values = numbers(run)
    assert values["test/exact_match"] > 0.9 and values["test/f1"] >= values["test/exact_match"]
    assert ("test/f1_unanswerable" in values) == unanswerable


def test_windows_overlap_and_find_an_answer_wherever_it_is(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    from finetuning.data.splits import Examples

    run = finetune(
        "task=question_answering",
        "task.inputs.max_tokens=24",
        "task.inputs.overlap=6",
        f"handoff={text_handoff}",
        "trainer.max_steps=1",
        f"data.path={splits(tmp_path / 'd', questions, (8, 4, 4))}",
    )
    _, task = load_run(run)
    words = [WORDS[n % 40] for n in range(60)]
    words[45] = WORDS[77]
    context = " ".join(words)
    gold = {"text": [WORDS[77]], "answer_start": [context.index(WORDS[77])]}
    windows = task.encode(Examples.of(question=["what"], context=[context], label=[gold]))
    assert windows.count(0) > 3 and max(len(row) for row in windows.ids) <= 24
    seen = np.zeros(len(context), bool)
    holding = 0
    for target, offsets in zip(windows.targets, windows.offsets, strict=True):
        for start, stop in offsets[offsets[:, 0] >= 0]:
            seen[start:stop] = True
        first, last = target[0]
        if first:
            holding += 1
            assert context[offsets[first, 0] : offsets[last, 1]] == WORDS[77]
    assert seen[[place for place, letter in enumerate(context) if letter != " "]].all() and holding >= 1


def test_an_answer_that_is_not_where_it_says_is_an_error(
    finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    table = questions(20, 0)
    table["answers"][7] = {"text": ["elsewhere"], "answer_start": [3]}
    with pytest.raises(RunError, match="'elsewhere' at 3 in row 7"):
        finetune(
            "task=question_answering", f"handoff={text_handoff}", f"data.path={write(tmp_path / 't.parquet', table)}"
        )


@pytest.mark.parametrize(
    ("golds", "prediction", "exact", "f1"),
    [
        (["The Eiffel Tower"], "eiffel tower.", 1, 1),
        (["a cat"], "the cat!", 1, 1),
        (["in 1912"], "1912", 0, 2 / 3),
        (["one two three", "two"], "two", 1, 1),
        ([], "", 1, 1),
        ([], "something", 0, 0),
        (["something"], "", 0, 0),
        (["x x y"], "x x x", 0, 2 / 3),
        (["a an the"], "", 1, 1),
    ],
)
def test_exact_match_and_f1_follow_the_official_definitions(
    golds: list[str], prediction: str, exact: float, f1: float
) -> None:
    assert squad.scores([golds], [prediction])[0].tolist() == pytest.approx([exact, f1])


def test_squad_scores_equal_torchmetrics(tmp_path: Path) -> None:
    from torchmetrics.text import SQuAD

    golds = [["The Norman Conquest"], ["10th and 11th", "in the 10th century"], ["Rollo."], ["France"]]
    guesses = ["norman conquest!", "the 10th century", "Rollo of Normandy", "England"]
    judge = SQuAD()
    judge.update(
        [{"prediction_text": text, "id": str(n)} for n, text in enumerate(guesses)],
        [{"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": str(n)} for n, texts in enumerate(golds)],
    )
    expected, ours = judge.compute(), squad.summary(golds, guesses)
    assert ours["exact_match"] * 100 == pytest.approx(float(expected["exact_match"])) and ours[
        "f1"
    ] * 100 == pytest.approx(float(expected["f1"]))


@pytest.mark.parametrize(("task", "make"), [("tagging", tagged), ("question_answering", questions)])
def test_logits_and_loss_equal_those_of_transformers(
    task: str, make, finetune: Finetune, text_handoff: Path, tmp_path: Path
) -> None:
    run = finetune(
        f"task={task}",
        *(["task.inputs.overlap=4"] if "q" in task else []),
        "task.inputs.max_tokens=32",
        f"handoff={text_handoff}",
        f"data.path={splits(tmp_path / 'd', make, (16, 8, 8))}",
        "trainer.max_steps=2",
    )
    _, module = load_run(run)
    model = transformers_model(module)
    ids = torch.randint(5, module.preprocess.vocab_size, (4, 16))
    ones = torch.ones_like(ids)
    inputs = {"input_ids": ids, "document_ids": ones}
    if task == "tagging":
        labels = torch.randint(0, 4, (4, 16))
        batch = {
            "inputs": inputs,
            "target_positions": torch.arange(64),
            "targets": labels.flatten(),
            "targets_per_row": torch.full((4,), 16),
        }
        theirs = model(input_ids=ids, attention_mask=ones, labels=labels)
        logits = theirs.logits.flatten(0, 1)
    else:
        spans = torch.randint(0, 16, (4, 2))
        batch = {"inputs": inputs, "targets": spans, "targets_per_row": torch.ones(4, dtype=torch.long)}
        theirs = model(input_ids=ids, attention_mask=ones, start_positions=spans[:, 0], end_positions=spans[:, 1])
        logits = torch.stack([theirs.start_logits, theirs.end_logits], -1)
    term = module.loss(batch).terms["cross_entropy"]
    assert torch.allclose(module.logits(batch), logits, atol=1e-5)
    assert (term.total / term.count).item() == pytest.approx(theirs.loss.item(), abs=1e-5)
