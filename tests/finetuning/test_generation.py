"""Texts written after texts: from a hand-off to metrics.json, against transformers, sacrebleu and rouge-score."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer

from finetuning.evaluate import evaluate, with_data
from finetuning.export import export
from finetuning.inputs.text_pairs import prompts
from finetuning.launch import load_run
from finetuning.metrics import generation as overlap
from finetuning.predictions import predict, read_inputs
from finetuning.tasks.decoding import KeyedSampling
from finetuning.tasks.generation import Generation
from pretraining import handoff
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import ByteBPE, SentinelBPE
from tests.finetuning.conftest import WORDS, Finetune, write

BART = {
    "model_type": "bart",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "dropout": 0.0,
}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "dropout_rate": 0.0,
}
GPT = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
KINDS = {"bart": (BART, "seq2seq"), "t5": (T5, "seq2seq"), "gpt2": (GPT, "causal")}
SHORT = [
    "task=generation",
    "task.inputs.max_tokens=24",
    "task.inputs.max_target_tokens=16",
    "task.decoding.max_new_tokens=16",
    "trainer.val_every=1000",
    "trainer.log_every=1000",
    "optimizer.peak_lr=3e-3",
    "data.batch_size=16",
]


@pytest.fixture(scope="session")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Make hand-offs of a tiny BART, T5 and GPT-2, never trained, by name."""
    root, found = tmp_path_factory.mktemp("writers"), {}
    for name, (config, architecture) in KINDS.items():
        options = {"vocab_size": 420, "lowercase": False, "sample_bytes": 1}
        recipe = SentinelBPE(**options, sentinels=4) if name == "t5" else ByteBPE(**options)
        preprocess = TextPreprocess(tokenizer=recipe.train(iter([" ".join(WORDS)] * 3)))
        torch.manual_seed(0)
        backbone = TransformersBackbone(config=config, architecture=architecture, **TEXT.backbone_arguments(preprocess))
        found[name] = handoff.write(
            root / name / "step-0000001",
            towers=TEXT.towers(backbone, preprocess),
            origin={"objective": "none"},
            heads={},
        )
    return found


def reversals(count: int, seed: int) -> dict[str, list]:
    """Ask for the words of a text in reverse."""
    generator = np.random.default_rng(seed)
    rows = [generator.choice(WORDS, generator.integers(2, 5)).tolist() for _ in range(count)]
    return {"source": [" ".join(row) for row in rows], "target": [" ".join(row[::-1]) for row in rows]}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory of three splits of such texts; the test split has 104."""
    directory = tmp_path_factory.mktemp("pairs")
    for seed, (split, count) in enumerate((("train", 32), ("validation", 8), ("test", 104))):
        write(directory / f"{split}.parquet", reversals(count, seed))
    return directory


def numbers(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_with_numbers_that_the_libraries_give_on_its_predictions(
    kind: str, finetune: Finetune, writers: dict[str, Path], pairs: Path
) -> None:
    run = finetune(
        *SHORT, f"handoff={writers[kind]}", f"data.path={pairs}", "trainer.max_steps=4", "task.decoding.num_beams=2"
    )
    table, values = pq.read_table(run / "predictions.parquet").to_pydict(), numbers(run)
    test = pq.read_table(pairs / "test.parquet").to_pydict()
    assert table["source"] == test["source"] and table["label"] == [[text] for text in test["target"]]
    assert values["test/bleu"] == pytest.approx(sacrebleu.corpus_bleu(table["prediction"], [test["target"]]).score)
    assert values["test/chrf"] == pytest.approx(sacrebleu.corpus_chrf(table["prediction"], [test["target"]]).score)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    each = [
        scorer.score(gold, text)["rougeL"].fmeasure
        for gold, text in zip(test["target"], table["prediction"], strict=True)
    ]
    assert values["test/rougeL"] == pytest.approx(np.mean(each))
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"):
        assert values[f"test/{name}_low"] <= values[f"test/{name}"] <= values[f"test/{name}_high"]
    assert values["validation/loss"] > 0 and "validation/bleu" not in values


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_loss_equal_those_of_transformers(
    kind: str, finetune: Finetune, writers: dict[str, Path], pairs: Path
) -> None:
    _, task = load_run(
        finetune(
            *SHORT, f"handoff={writers[kind]}", f"data.path={pairs}", "trainer.max_steps=2", "task.decoding.num_beams=1"
        )
    )
    encoded = task.encode(read_pairs(pairs))
    batch = encoded.collate(encoded.read(0, np.arange(12)), None)
    model = task.backbone.model
    with torch.no_grad():
        if kind == "gpt2":
            labels = torch.full_like(batch["inputs"]["input_ids"], -100)
            end = batch["target_positions"][np.cumsum(batch["targets_per_row"]) - 1]
            ids = batch["inputs"]["input_ids"].clone()
            ids.view(-1)[end + 1] = task.preprocess.eos_id  # the batch leaves out what nothing follows
            mask = batch["inputs"]["document_ids"].clone()
            mask.view(-1)[end + 1] = 1
            labels.view(-1)[batch["target_positions"] + 1] = batch["targets"]
            theirs = model(input_ids=ids, attention_mask=mask, labels=labels)
            width = ids.shape[1]
        else:
            width = batch["decoder_input_ids"].shape[1]
            labels = torch.full((12 * width,), -100)
            labels[batch["target_positions"]] = batch["targets"]
            theirs = model(
                input_ids=batch["inputs"]["input_ids"],
                attention_mask=batch["inputs"]["document_ids"],
                labels=labels.view(12, width),
            )
        term = task.loss(batch).terms["cross_entropy"]
        assert torch.allclose(task.logits(batch), theirs.logits.flatten(0, 1)[batch["target_positions"]], atol=1e-5)
    assert float(term.total / term.count) == pytest.approx(float(theirs.loss), abs=1e-5)
    assert float(task.counts(batch)["cross_entropy"]) == float(term.count) == len(batch["targets"])


def read_pairs(directory: Path):
    from finetuning.data.splits import Examples

    table = pq.read_table(directory / "test.parquet").to_pydict()
    return Examples.of(source=table["source"], label=[[text] for text in table["target"]])


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_pairs_are_learnt_by_heart_and_transformers_writes_the_same(
    kind: str, finetune: Finetune, writers: dict[str, Path], tmp_path: Path
) -> None:
    import transformers

    for split in ("train", "validation", "test"):
        write(tmp_path / "few" / f"{split}.parquet", reversals(16, 5))
    few = [
        *SHORT,
        f"handoff={writers[kind]}",
        f"data.path={tmp_path / 'few'}",
        "trainer.max_steps=150",
        "optimizer.peak_lr=1e-2",
    ]
    run = finetune(*few, "task.decoding.num_beams=2")
    assert numbers(run)["test/exact_match"] >= 15 / 16
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    config, task = load_run(run)
    inputs = list(read_inputs(task, config.data, str(tmp_path / "few" / "test.parquet")))
    assert [record["prediction"] for record in predict(task, inputs, 3)] == table["prediction"]
    assert (
        evaluate(task, instantiate(with_data(config, {}).data))["test/exact_match"] == numbers(run)["test/exact_match"]
    )
    folder = export(task, tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    loader = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForSeq2SeqLM
    model = loader.from_pretrained(folder).eval()
    for source, ours in zip(table["source"], table["prediction"], strict=True):
        if kind == "gpt2":
            ids = [task.preprocess.bos_id, *tokenizer(source + "\n", add_special_tokens=False)["input_ids"]]
            given = {"input_ids": torch.tensor([ids])}
        else:
            given = {
                name: value
                for name, value in tokenizer(source, return_tensors="pt").items()
                if name != "token_type_ids"
            }
        written = model.generate(**given)[0, given["input_ids"].shape[1] if kind == "gpt2" else 1 :]
        assert tokenizer.decode(written, skip_special_tokens=True).strip() == ours


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_transformers_writes_what_we_wrote_for_a_hundred_examples(
    kind: str, finetune: Finetune, writers: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    import transformers

    run = finetune(
        *SHORT,
        f"handoff={writers[kind]}",
        f"data.path={pairs}",
        "trainer.max_steps=120",
        "optimizer.peak_lr=1e-2",
        "task.decoding.num_beams=1",
    )
    table = pq.read_table(run / "predictions.parquet").to_pydict()
    folder = export(load_run(run)[1], tmp_path / "exported")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left" if kind == "gpt2" else "right")
    loader = transformers.AutoModelForCausalLM if kind == "gpt2" else transformers.AutoModelForSeq2SeqLM
    texts = [f"<s>{source}\n" for source in table["source"]] if kind == "gpt2" else table["source"]
    given = tokenizer(
        texts,
        return_tensors="pt",
        padding=True,
        add_special_tokens=kind != "gpt2",
        split_special_tokens=False,  # these texts have a frame of our own
        return_token_type_ids=False,
    )
    written = (
        loader.from_pretrained(folder)
        .eval()
        .generate(**given)[:, given["input_ids"].shape[1] if kind == "gpt2" else 1 :]
    )
    assert len(written) == 104 and len(set(table["prediction"])) > 20
    assert [tokenizer.decode(row, skip_special_tokens=True).strip() for row in written] == table["prediction"]


def test_several_references_of_different_number_are_judged_as_the_libraries_do() -> None:
    references = [
        ["the cat sat on the mat today", "a cat was on the mat"],
        ["dogs bark at night"],
        ["rain falls", "it rains", "it is raining"],
    ]
    guesses = ["the cat sat on the mat", "dogs bark at the moon", "it is  raining"]
    values = overlap.summary(references, guesses)
    columns = [
        ["the cat sat on the mat today", "dogs bark at night", "rain falls"],
        ["a cat was on the mat", None, "it rains"],
        [None, None, "it is raining"],
    ]
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(guesses, columns).score)
    assert values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(guesses, columns).score)
    scorer = RougeScorer(["rouge2"], use_stemmer=True)
    best = [
        max(scorer.score(gold, text)["rouge2"].fmeasure for gold in known)
        for known, text in zip(references, guesses, strict=True)
    ]
    assert values["rouge2"] == pytest.approx(np.mean(best)) and values["exact_match"] == pytest.approx(1 / 3)


def test_intervals_are_those_of_whole_corpora_resampled() -> None:
    generator = np.random.default_rng(3)
    references = [[" ".join(generator.choice(WORDS[:12], 8))] for _ in range(25)]
    guesses = [" ".join(np.where(generator.random(8) < 0.8, known[0].split(), "x")) for known in references]
    found = overlap.intervals(references, guesses)
    each = overlap.per_example(references, guesses)["rouge1"]
    slow: dict[str, list[float]] = {"bleu": [], "chrf": [], "rouge1": []}
    for _ in range(400):
        rows = generator.integers(0, 25, 25)
        texts, known = [guesses[row] for row in rows], [[references[row][0] for row in rows]]
        slow["bleu"].append(sacrebleu.corpus_bleu(texts, known).score)
        slow["chrf"].append(sacrebleu.corpus_chrf(texts, known).score)
        slow["rouge1"].append(each[rows].mean())
    for name, values in slow.items():
        low, high = np.percentile(values, [2.5, 97.5])
        assert found[name] == pytest.approx((low, high), abs=0.25 * (high - low))


def test_one_of_several_references_is_learnt_and_all_are_judged(
    finetune: Finetune, writers: dict[str, Path], tmp_path: Path
) -> None:
    table = reversals(40, 0)
    table["all"] = [[text, "", source] for source, text in zip(table["source"], table["target"], strict=True)]
    path = write(tmp_path / "t.parquet", table)
    run = finetune(
        *SHORT, f"handoff={writers['t5']}", f"data.path={path}", "data.references=all", "trainer.max_steps=1"
    )
    rows = pq.read_table(run / "predictions.parquet").to_pydict()
    assert all(
        len(known) == 2 and source == known[1] for source, known in zip(rows["source"], rows["label"], strict=True)
    )
    encoded = load_run(run)[1].encode(read_pairs_of(table))
    assert encoded.targets[0].tolist() == load_run(run)[1].preprocess.tokenizer(table["target"][0])["input_ids"]


def read_pairs_of(table: dict[str, list]):
    from finetuning.data.splits import Examples

    return Examples.of(source=table["source"], label=table["all"])


def test_texts_are_written_at_each_evaluation_where_the_selection_asks_for_it(
    finetune: Finetune, writers: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    greedy = ["task.decoding.num_beams=1", "task.select=chrf", "trainer.max_steps=4", "trainer.val_every=2"]
    run = finetune(*SHORT, *greedy, f"handoff={writers['bart']}", f"data.path={pairs}")
    history = (run / "metrics.csv").read_text().splitlines()
    column = history[0].split(",").index("validation/chrf")
    measured = [float(line.split(",")[column]) for line in history[1:] if line.split(",")[column]]
    assert len(measured) == 2 and numbers(run)["validation/chrf"] == pytest.approx(max(measured))
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(pq.read_table(pairs / "test.parquet")["source"].to_pylist()[:9]) + "\n")
    config, task = load_run(run)
    records = list(predict(task, read_inputs(task, config.data, str(lines))))
    assert [record["prediction"] for record in records] == pq.read_table(run / "predictions.parquet")[
        "prediction"
    ].to_pylist()[:9]


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for library in ("sacrebleu.metrics", "rouge_score.rouge_scorer"):
        with monkeypatch.context() as patched, pytest.raises(RunError, match=r"pip install 'pretraining\[tasks\]'"):
            patched.setitem(sys.modules, library, None)
            Generation.collect_labels({})  # before a run begins


def test_the_step_s_gradient_does_not_depend_on_how_its_pairs_are_split(
    writers: dict[str, Path], pairs: Path, finetune: Finetune
) -> None:
    _, task = load_run(finetune(*SHORT, f"handoff={writers['bart']}", f"data.path={pairs}", "trainer.max_steps=1"))
    encoded = task.encode(read_pairs(pairs))
    gradients = []
    for parts in ([np.arange(8)], [np.arange(1), np.arange(1, 8)]):
        batches = [encoded.collate(encoded.read(0, rows), None) for rows in parts]
        counts = task.global_counts(batches)
        task.zero_grad()
        for batch in batches:
            task.objective(task.loss(batch), counts).backward()
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in task.parameters() if parameter.grad is not None])
        )
    assert torch.allclose(*gradients, atol=1e-6)


def test_label_smoothing_mixes_the_uniform_distribution_in_while_training_only(
    writers: dict[str, Path], pairs: Path, finetune: Finetune
) -> None:
    _, task = load_run(
        finetune(
            *SHORT,
            f"handoff={writers['bart']}",
            f"data.path={pairs}",
            "trainer.max_steps=1",
            "task.label_smoothing=0.2",
        )
    )
    encoded = task.encode(read_pairs(pairs))
    batch = encoded.collate(encoded.read(0, np.arange(6)), None)
    with torch.no_grad():
        log = task.logits(batch).log_softmax(-1)
        right = -log.gather(1, batch["targets"][:, None]).sum()
        assert float(task.loss(batch).terms["cross_entropy"].total) == pytest.approx(float(right), rel=1e-5)
        task.train()
        smoothed = 0.8 * right - 0.2 * log.mean(1).sum()
        assert float(task.loss(batch).terms["cross_entropy"].total) == pytest.approx(float(smoothed), rel=1e-5)


def test_a_sample_depends_on_its_own_source_and_not_on_its_batch(
    writers: dict[str, Path], pairs: Path, finetune: Finetune
) -> None:
    options = [
        "task.decoding.do_sample=true",
        "task.decoding.num_beams=1",
        "task.decoding.top_p=0.9",
        "task.decoding.temperature=0.8",
    ]
    run = finetune(*SHORT, *options, f"handoff={writers['bart']}", f"data.path={pairs}", "trainer.max_steps=5")
    saved = pq.read_table(run / "predictions.parquet")["prediction"].to_pylist()
    config, task = load_run(run)
    inputs = list(read_inputs(task, config.data, str(pairs / "test.parquet")))
    assert [record["prediction"] for record in predict(task, inputs, 7)] == saved and len(set(saved)) > 50
    task.decoding.seed = 1
    assert [record["prediction"] for record in predict(task, inputs, 7)] != saved


def test_samples_follow_the_distribution() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(20_000, 1)
    drawn = KeyedSampling(0, torch.arange(20_000), 1)(torch.zeros(20_000, 1, dtype=torch.long), scores).argmax(1)
    assert torch.allclose(
        drawn.bincount(minlength=4) / 20_000, scores[0].softmax(0), atol=0.012
    )  # three standard errors


def test_prompts_end_at_the_right() -> None:
    whole = torch.tensor([[5, 6, 7, 8], [9, 3, 1, 1]])
    batch = {"inputs": {"input_ids": whole, "document_ids": (whole > 1).long()}, "prompt_tokens": torch.tensor([3, 1])}
    read, skipped = prompts(batch, 0, torch.device("cpu"))
    assert read["input_ids"].tolist() == [[5, 6, 7], [0, 0, 9]] and skipped == 3
    assert read["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    del batch["prompt_tokens"]  # an encoder's sources stand alone
    read, skipped = prompts(batch, 0, torch.device("cpu"))
    assert read["input_ids"] is whole and skipped == 1


def test_an_encoder_cannot_write(finetune: Finetune, text_handoff: Path, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"holds an encoder .bert., which .*: give one pretrained with objective=denoising_bart, denoising_t5",
    ):
        finetune(*SHORT, f"handoff={text_handoff}", f"data.path={pairs}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mode=frozen", "mode=Frozen, which trains a head alone"),
        ("mode=linear_probe", "mode=LinearProbe for Generation, whose head reads no single vectors"),
        ("mode.head_steps=5", "mode=Full, which trains a head alone"),
        ("task.inputs.max_tokens=100", "but this backbone has positions for 64 on each side"),
        ("task.decoding.do_sample=true", "sample with num_beams=1"),
        ("task.label_smoothing=1", "give a number of at least 0 and below 1"),
        ("task.select=accuracy", "task.select=accuracy, which this task does not measure: choose one of loss, .*bleu"),
        ("data.target=de", "data.target=de, but the data has the columns source, target"),
        ("data.references=target", "a column of string: name a column of lists of texts"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    override: str, message: str, finetune: Finetune, writers: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=message):
        finetune(*SHORT, f"handoff={writers['bart']}", f"data.path={pairs}", override)
    assert not (tmp_path / "run").exists()


def test_empty_targets_are_counted_and_refused(finetune: Finetune, writers: dict[str, Path], tmp_path: Path) -> None:
    table = reversals(30, 0)
    table["target"][3] = "  "
    with pytest.raises(RunError, match="1 of 30 empty texts in column 'target'"):
        finetune(*SHORT, f"handoff={writers['bart']}", f"data.path={write(tmp_path / 't.parquet', table)}")


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
def test_texts_that_are_cut_are_counted_on_both_sides(
    kind: str, finetune: Finetune, writers: dict[str, Path], pairs: Path, capfd
) -> None:
    finetune(
        *SHORT,
        f"handoff={writers[kind]}",
        f"data.path={pairs}",
        "trainer.max_steps=1",
        "task.inputs.max_tokens=4",
        "task.inputs.max_target_tokens=3",
    )
    said = capfd.readouterr().err
    limit = "=3" if kind == "bart" else " - 1=2"
    assert "of 104 texts have more than task.inputs.max_tokens=4 tokens and were cut" in said
    assert f"of 104 texts have more than task.inputs.max_target_tokens{limit} tokens and were cut" in said


@pytest.mark.parametrize("kind", ["bart", "gpt2"])
@pytest.mark.parametrize("mode", ["lora", "partial mode.frozen_blocks=1", "gradual_unfreezing"])
def test_other_ways_of_transfer_train_what_they_should(
    kind: str, mode: str, finetune: Finetune, writers: dict[str, Path], pairs: Path
) -> None:
    from safetensors.torch import load_file

    name, *options = mode.split()
    run = finetune(
        *SHORT,
        f"handoff={writers[kind]}",
        f"data.path={pairs}",
        f"mode={name}",
        *options,
        "trainer.max_steps=30",
        "trainer.val_every=10",
    )
    history = (run / "metrics.csv").read_text().splitlines()
    column = history[0].split(",").index("validation/loss")
    losses = [float(line.split(",")[column]) for line in history[1:] if line.split(",")[column]]
    assert losses[-1] < losses[0]
    before, after = (
        load_file(writers[kind] / "model.safetensors"),
        load_file(run / "model" / "last" / "model.safetensors"),
    )
    moved = {name for name in before if not before[name].equal(after[name])}
    frozen = {
        name for name in before if any(part in name for part in ("shared", "embed_positions.weight", "wte", "wpe"))
    }
    assert before.keys() == after.keys() and moved and frozen
    if name != "gradual_unfreezing":
        assert not moved & frozen


def test_a_checkpoint_that_transformers_wrote_is_finetuned(
    finetune: Finetune, writers: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    import transformers

    folder = tmp_path / "checkpoint"
    transformers.AutoModelForSeq2SeqLM.from_pretrained(writers["bart"]).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(writers["bart"]).save_pretrained(folder)
    runs = [finetune(*SHORT, f"handoff={source}", f"data.path={pairs}", "trainer.max_steps=5", name=name)
            for name, source in (("ours", writers["bart"]), ("theirs", f"hf:{folder}"))]  # fmt: skip
    assert numbers(runs[0])["test/loss"] == pytest.approx(numbers(runs[1])["test/loss"], rel=1e-6)
