"""Carry out a fixed list of short runs with a checkout and write down what they computed, or compare two such records.

python tests/record_runs.py record CHECKOUT OUT.json [--only NAME,...]
python tests/record_runs.py compare BEFORE.json AFTER.json [--ignore REGEX]
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

# In commands, WORK is the directory of this recording, and @NAME the run directory of an earlier run.
QUIET = "trainer.precision=fp32 trainer.log_every=5 logger.wandb.mode=disabled logger.progress=false"
SHORT = f"pretraining {QUIET} trainer.max_steps=10 trainer.val_every=5 optimizer.warmup_steps=4"
SMALL = f"{SHORT} data.max_tokens=32 data.batch_size=8 preprocess.vocab_size=400"
TEXT = f"{SMALL} data=text_files data.path=WORK/corpus.txt data.preparation.validation_share=0.1"
BERT = f"{TEXT} backbone=bert_tiny"
IMAGE = f"{SHORT} data.batch_size=64"
DDP = "trainer=ddp trainer.accelerator=cpu trainer.devices=2"
TUNE = f"finetuning {QUIET} trainer.max_steps=10 trainer.val_every=5"
DOCS = f"{TUNE} task=docs_topic task.max_tokens=32 shots=10 handoff=@masked_language/handoff/last"
DIGITS = f"{TUNE} task=digits shots=10 handoff=@simclr/handoff/last"
ROWS = f"{TUNE} data.path=WORK/rows.jsonl task.max_tokens=32"
MODES = ("full", "frozen", "gradual_unfreezing", "knn", "linear_probe", "linear_sgd epochs=3", "partial")
RUNS = {
    **{name: f"{BERT} objective={name}" for name in ("masked_language", "spanbert", "bert", "next_sentence")},
    "masked_words": f"{BERT} collate.unit=whole_word 'collate.fraction={{start: 0.3, end: 0.15}}'",
    "masked_spans": f"{BERT} collate.unit=span",
    "masked_boundary": f"{BERT} collate.unit=span objective.boundary_weight=1.0",
    "masked_static": f"{BERT} collate.static_shapes=true trainer.recompute=true data.workers=1",
    "masked_fast": f"{BERT} backbone.impl=fast",
    "masked_fast_modernbert": f"{TEXT} backbone=modernbert_tiny backbone.impl=fast trainer.accumulate=2",
    "sentence_order": f"{BERT} objective=next_sentence collate.negatives=swapped trainer.accumulate=2",
    **{name: f"{TEXT} objective={name}" for name in ("causal_language", "denoising_bart", "denoising_t5")},
    "supervised_text": f"{SMALL} objective=supervised_text backbone=bert_tiny",
    "labelled_text": f"{SMALL} objective=supervised_text data=labelled_text data.path=WORK/rows.csv backbone=bert_tiny",
    "docs": f"{SMALL} data=stdlib_docs backbone=bert_tiny",
    "csv": f"{SMALL} data=text_files data.path=WORK/rows.csv data.preparation.near_duplicates=0.7 backbone=bert_tiny",
    "mixture": f"{SMALL} data=mixture backbone=bert_tiny "
               "'data.sources=[{path: WORK/corpus.txt, weight: 0.7}, {builtin: stdlib_docs, weight: 0.3}]'",
    "budget_flops": f"{BERT} budget.flops=5e9",
    "budget_tokens": f"{BERT} budget.tokens=2500",
    "ema": f"{BERT} ema=0.9",
    "overfit": f"{BERT} overfit_batches=1 optimizer=sgd",
    "continued": f"{BERT} objective=bert backbone.init_from=@masked_language/handoff/last",
    "repeated": "pretraining from_run=@spanbert trainer.max_steps=6",
    "resumed": f"{BERT} ema=0.9 run_dir=@ema resume=auto trainer.max_steps=20",
    "masked_ddp": f"{BERT} {DDP}",
    "masked_fsdp": f"{BERT} {DDP.replace('ddp', 'fsdp')}",
    **{name: f"{IMAGE} objective={name}" for name in (
       "simclr", "supervised", "denoising_image", "denoising_image_mae")},
    "simclr_labels": f"{IMAGE} objective=simclr objective.supervised=true optimizer=lars ema=0.9 probe=none",
    "simclr_decoupled": f"{IMAGE} objective=simclr objective.decoupled=true augment.impl=tensors",
    "simclr_accumulate": f"{IMAGE} objective=simclr trainer.accumulate=2",
    "simclr_ddp": f"{IMAGE} objective=simclr {DDP}",
    "folder": f"{SHORT} objective=simclr data=image_folder data.path=WORK/images augment=small_natural "
              "preprocess.size=16 data.decoding.size=16 data.batch_size=16 data.eval_batch_size=4",
    **{name: f"{SHORT} experiment={name}" for name in (
       "simclr_digits", "denoising_digits", "mae_digits", "bart_base_smoke", "bert_24h_smoke", "bert_base_smoke",
       "gpt2_small_smoke", "roberta_base_smoke", "t5_small_smoke")},
    "simclr_resumed": f"{SHORT} experiment=simclr_digits run_dir=@simclr_digits resume=auto trainer.max_steps=20",
    "evaluate_text": "pretraining.evaluate handoff=@bert/handoff/last data=text_files data.path=WORK/rows.csv",
    "evaluate_images": "pretraining.evaluate handoff=@denoising_image/handoff/last data=digits split=test",
    **{f"docs_topic_{mode.split()[0]}": f"{DOCS} mode={mode}" for mode in (*MODES, "lora")},
    **{f"digits_{mode.split()[0]}": f"{DIGITS} mode={mode}" for mode in MODES},
    "digits_lora": DIGITS.replace("@simclr", "@denoising_image_mae") + " mode=lora",  # SimCLR's has no linear layers
    **{f"docs_topic_{kind}": DOCS.replace("handoff=", f"handoff={kind}:") for kind in ("random", "hf")},
    "digits_random": DIGITS.replace("handoff=", "handoff=random:"),
    "docs_topic_early": f"{DOCS} mode.layer_decay=0.8 fraction=0.1 shots=null early_stopping=1 trainer.val_every=1",
    "docs_topic_ddp": f"{DOCS} {DDP}",
    **{words.split()[0]: f"{ROWS} handoff=@bert/handoff/last task={words}" for words in (
       "text_classification data.path=WORK/rows.csv", "text_pair_classification pooling=pooler mode.head_steps=4",
       "text_regression data.label=score", "text_multi_label", "tagging task.select=entity_f1",
       "question_answering task.overlap=4")},
    "native": f"{ROWS} handoff=@bert/handoff/last task=text_classification head=native task.class_weights=balanced",
    **{f"generation_{name}": f"{ROWS} handoff=@{name}/handoff/last task=generation task.decoding.max_new_tokens=8"
       for name in ("causal_language", "denoising_bart", "denoising_t5")},
    "image_classification": f"{TUNE} task=image_classification data.path=WORK/images handoff=@folder/handoff/last",
    "predict_text": "finetuning.predict run_dir=@text_classification input=WORK/rows.csv",
    "predict_images": "finetuning.predict run_dir=@image_classification input=WORK/images",
    "evaluate_finetuned": "finetuning.evaluate run_dir=@text_classification data.path=WORK/rows.jsonl",
    "export": "finetuning.export run_dir=@native output=WORK/runs/export",
}  # fmt: skip
PASSING = re.compile(r"time.*|throughput/.*|.*seconds.*|.*memory.*|handoff|digest")  # differ from run to run


def write_data(work: Path) -> None:
    """Write the texts and images that the runs read, the same each time."""
    draw, rows = random.Random(0), []
    words = [a + b for a in ("ba", "ke", "lo", "mi", "nu", "pa", "re") for b in ("da", "fe", "go", "hi", "ju", "ka")]
    texts = [[draw.choices(words, k=draw.randint(5, 10)) for _ in range(draw.randint(2, 5))] for _ in range(240)]
    paragraphs = [" ".join(" ".join(sentence).capitalize() + "." for sentence in text) for text in texts]
    for text, (first, second, *rest) in zip(paragraphs, texts, strict=True):
        one, two = " ".join(first), " ".join(second)
        row = {"text": text, "label": draw.choice(["art", "sport", "trade"]), "score": 5 * draw.random(), "target": two}
        row |= {"labels": draw.sample("xyz", len(rest)), "source": one, "sentence1": one, "sentence2": two}
        row |= {"tokens": first, "tags": draw.choices(["O", "B-A", "I-A"], k=len(first)), "question": second[1]}
        rows.append(row | {"context": f"{one} {two}", "answers": {"text": second[:1], "answer_start": [len(one) + 1]}})
    (work / "corpus.txt").write_text("\n\n".join(paragraphs) + "\n")
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    for number in range(90):
        path = work / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (16, 16), draw.randbytes(16 * 16 * 3)).save(path)


def values_of(run: Path) -> dict[str, object]:
    """Gather what a run directory holds, by the file and the column that it stands in."""
    found = {}
    if (run / "metrics.csv").exists():
        rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        found |= {f"metrics.csv: {name}": [row[name] for row in rows] for name in rows[0]}
        found |= {f"metrics.json: {k}": repr(v) for k, v in json.loads((run / "metrics.json").read_text()).items()}
    if (run / "predictions.parquet").exists():
        columns = pq.read_table(run / "predictions.parquet").to_pydict()
        found |= {f"predictions: {k}": hashlib.sha256(repr(v).encode()).hexdigest() for k, v in columns.items()}
    for path in [*run.glob("*/last/*.safetensors"), *run.glob("*.safetensors")]:
        found[f"weights: {path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def carry_out(name: str, checkout: Path, work: Path) -> dict[str, object]:
    """Carry out one run in a process of its own and give what it computed."""
    module, *words = shlex.split(re.sub(r"@(\w+)", r"WORK/runs/\1", RUNS[name]).replace("WORK", str(work)))
    run = work / "runs" / name
    if "." not in module:  # it trains: in a new directory, or in that of the run that it continues
        words = [f"run_dir={run}", *words]
        run = Path([word for word in words if word.startswith("run_dir=")][-1].removeprefix("run_dir="))
    # Some settings name the home directory's cache and others the variable: here, both are one place.
    places = {"PYTHONPATH": str(checkout), "HOME": str(work), "PRETRAINING_CACHE": f"{work}/.cache/pretraining"}
    env = os.environ | places | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=checkout, env=env, capture_output=True, text=True)
    if done.returncode:
        error = (done.stderr.strip().splitlines() or [""])[-1]
        return {"exit": done.returncode, "error": error.replace(str(work), "WORK").replace(str(checkout), "CHECKOUT")}
    printed = json.loads(done.stdout) if module.endswith("evaluate") else {"lines": done.stdout.splitlines()}
    found = values_of(run) | {f"printed: {k}": repr(v).replace(str(work), "WORK") for k, v in printed.items()}
    return {"exit": 0} | {key: value for key, value in found.items() if not PASSING.fullmatch(key.split(": ", 1)[1])}


def record(checkout: Path, output: Path, only: set[str]) -> int:
    """Carry out the runs of a checkout and write what they computed."""
    for name in reversed(RUNS):  # also those that the chosen ones start from, which stand before them
        only |= set(re.findall(r"@(\w+)", RUNS[name] if name in only else ""))
    if only - RUNS.keys():
        sys.exit(f"there are no runs {', '.join(only - RUNS.keys())}: choose from {', '.join(RUNS)}")
    found, began = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        write_data(Path(work))
        for name in (name for name in RUNS if name in only or not only):
            found[name] = carry_out(name, checkout.resolve(), Path(work))
            print(f"{time.monotonic() - began:.0f} s {name}: {found[name].get('error', 'done')}", file=sys.stderr)
            output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    failed = sum(values["exit"] != 0 for values in found.values())
    print(f"{len(found)} runs, {failed} failed, {time.monotonic() - began:.0f} s")
    return 0


def compare(before: Path, after: Path, ignored: re.Pattern[str]) -> int:
    """Print for each run whether two records agree on it, and what differs."""
    ours, theirs = (json.loads(path.read_text("utf-8")) for path in (before, after))
    verdicts = []
    for name in ours | theirs:
        first, second = ours.get(name, {}), theirs.get(name, {})
        keys = [key for key in first | second if not ignored.fullmatch(key.split(": ", 1)[-1])]
        differing = [key for key in keys if first.get(key) != second.get(key)]
        verdicts.append(not differing)
        print(f"{name}:", f"different ({', '.join(differing)})" if differing else "same")
    print(f"{sum(verdicts)} same, {len(verdicts) - sum(verdicts)} different")
    return int(not all(verdicts))


def main() -> int:
    """Read the command line and do what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("paths", type=Path, nargs=2)
    parser.add_argument("--only", default="", help="names of runs to record, with commas")
    parser.add_argument("--ignore", default="", help="a regular expression of the whole names of columns to leave out")
    given = parser.parse_args()
    if given.command == "compare":
        return compare(*given.paths, re.compile(given.ignore))
    return record(*given.paths, set(filter(None, given.only.split(","))))


if __name__ == "__main__":
    sys.exit(main())
