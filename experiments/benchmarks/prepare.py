"""How fast text becomes token shards, beside `datasets.map` as run_mlm-style scripts use it, on the same text.

    python -m experiments.benchmarks.prepare --megabytes 200 1000 --workers 1 --tokenizer byte_bpe

The text is generated: sentences of the standard library's documentation, drawn into documents that are all different.
Each side runs in a process of its own; memory is the anonymous memory of that process and all its children (mapped
files are the page cache's), sampled. The last line is one JSON object: `ratio_speed` is ours over theirs in processor
time at the first size, `ratio_wall_speed` in elapsed time, `ratio_memory` the peaks, and `ratio_memory_growth` our peak
at the last size over that at the first.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.turns import read_options

ROW_TOKENS = 128
SENTENCES_PER_DOCUMENT = (4, 40)


def write_text(path: Path, megabytes: float, sentences: list[str]) -> int:
    """Write documents as lines of JSON until they make so many megabytes of text; returns their bytes."""
    rng, written = np.random.default_rng(0), 0
    with path.open("w") as file:
        while written < megabytes * 1e6:
            drawn = rng.integers(0, len(sentences), rng.integers(*SENTENCES_PER_DOCUMENT))
            text = " ".join(sentences[number] for number in drawn)
            written += len(text.encode())
            file.write(json.dumps({"text": text}) + "\n")
    return written


def ours(source: Path, tokenizer: Path, scratch: Path, workers: int) -> int:
    """Prepare with this package; returns the tokens."""
    from pretraining.text.corpus.prepare import Preparation, prepare_split
    from pretraining.text.data.base import TextFiles
    from pretraining.text.tokenizer import TextPreprocess

    part = Preparation(workers=workers, validation_share=0.0, test_share=0.0)
    shape: dict[str, Any] = {"max_tokens": ROW_TOKENS, "batch_size": 1, "eval_batch_size": 1, "workers": 0}
    data = TextFiles(path=str(source), cache_dir=str(scratch), preparation=part, **shape)
    return prepare_split(data, "train", TextPreprocess.load(tokenizer)).num_tokens


def theirs(source: Path, tokenizer: Path, scratch: Path, workers: int) -> int:
    """Tokenize a column, then chain and cut it into rows, both with `datasets.map` in batches of its default size."""
    import datasets
    from transformers import AutoTokenizer

    load = AutoTokenizer.from_pretrained(str(tokenizer))
    options: dict[str, Any] = {"batched": True, "num_proc": workers if workers > 1 else None}

    def tokenize(batch: dict[str, list[str]]) -> Any:
        return load(batch["text"], return_special_tokens_mask=True)

    def chain(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: [item for part in parts for item in part] for name, parts in batch.items()}
        end = len(joined["input_ids"]) // ROW_TOKENS * ROW_TOKENS
        rows = range(0, end, ROW_TOKENS)
        return {name: [items[at : at + ROW_TOKENS] for at in rows] for name, items in joined.items()}

    raw = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=str(scratch))
    rows = raw.map(tokenize, remove_columns=["text"], **options).map(chain, **options)
    return len(rows) * ROW_TOKENS


def tree(process: int) -> Iterator[int]:
    """List a process and all that it started."""
    yield process
    try:
        children = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:  # it ended
        return
    for child in itertools.chain.from_iterable(children):
        yield from tree(int(child))


def anonymous_bytes(process: int) -> int:
    """Add up the anonymous memory of a process and its children, what they share counted once."""
    total = 0
    for member in tree(process):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total


def measure(side: str, source: Path, tokenizer: Path, workers: int) -> dict[str, float]:
    """Run one side in a process of its own; seconds are of the work alone, without imports."""
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        command = [sys.executable, "-m", __spec__.name, "--side", side]
        command += [str(source), str(tokenizer), scratch, str(workers)]
        quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | quiet)
        peak = 0
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        told = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{side} failed with exit code {process.returncode}")
    return {**json.loads(told.splitlines()[-1]), "peak_megabytes": peak / 1e6}


def carry_out(side: str, source: str, tokenizer: str, scratch: str, workers: str) -> None:
    """Be one side: do the work, print what it took."""
    work, library = {"ours": (ours, "pretraining.text.data.base"), "theirs": (theirs, "datasets")}[side]
    for module in (library, "transformers"):
        importlib.import_module(module)  # is not part of what is timed
    started, cpu = time.perf_counter(), sum(os.times()[:4])
    tokens = work(Path(source), Path(tokenizer), Path(scratch), int(workers))
    taken = {"seconds": time.perf_counter() - started, "cpu_seconds": sum(os.times()[:4]) - cpu}
    print(json.dumps({**taken, "tokens": tokens}))


def train_tokenizer(name: str, directory: Path) -> tuple[Path, list[str]]:
    """Train a tokenizer of 8,192 pieces on the built-in text; returns its directory, and the text's sentences."""
    from pretraining.text.data.stdlib_docs import StdlibDocs
    from pretraining.text.tokenizer_recipes import ByteBPE, WordPiece

    data = StdlibDocs(max_tokens=ROW_TOKENS, batch_size=1, eval_batch_size=1, workers=0, cache_dir=str(directory))
    kind = {"byte_bpe": ByteBPE, "wordpiece": WordPiece}[name]
    kind(vocab_size=8192, lowercase=name == "wordpiece", sample_bytes=10**8).fit(data).save(directory / "tokenizer")
    return directory / "tokenizer", [sentence for document in data.documents("train") for sentence in document]


def main() -> None:
    """Measure both sides at each size."""
    tokenizers, hidden = ("wordpiece", ["wordpiece", "byte_bpe"]), {"nargs": 5, "help": argparse.SUPPRESS}
    given = read_options(__doc__, megabytes=[200.0], workers=1, tokenizer=tokenizers, side=hidden)
    if given.side:
        return carry_out(*given.side)
    found: dict[str, Any] = {name: getattr(given, name) for name in ("workers", "tokenizer", "megabytes")}
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, sentences = train_tokenizer(given.tokenizer, Path(scratch))
        peaks = []
        for number, megabytes in enumerate(given.megabytes):
            source = Path(scratch) / f"text-{number}.jsonl"
            size = write_text(source, megabytes, sentences) / 1e6
            for side in ("ours", "theirs") if number == 0 else ("ours",):
                result = measure(side, source, tokenizer, given.workers)
                seconds, peak = result["seconds"], result["peak_megabytes"]
                print(f"{side:<7}{size:8.0f} MB {seconds:8.1f} s {peak:8.0f} MB at most", flush=True)
                if number == 0:
                    found[f"{side}_seconds_mb_per_second_per_core"] = size / seconds / given.workers
                    found[f"{side}_cpu_seconds_mb_per_second_per_core"] = size / result["cpu_seconds"]
                    found[f"{side}_peak_megabytes"] = peak
                if side == "ours":
                    peaks.append(peak)
            source.unlink()
    rates = {"speed": "cpu_seconds_mb_per_second_per_core", "wall_speed": "seconds_mb_per_second_per_core"}
    for name, key in {**rates, "memory": "peak_megabytes"}.items():
        found[f"ratio_{name}"] = found[f"ours_{key}"] / found[f"theirs_{key}"]
    if len(peaks) > 1:
        found["ratio_memory_growth"] = peaks[-1] / peaks[0]
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}))


if __name__ == "__main__":
    main()
