"""How fast short texts become vectors here, beside sentence-transformers' `encode` of the same model.

    python -m experiments.benchmarks.embed_texts                                # 8,000 texts a block, 2 blocks a side
    python -m experiments.benchmarks.embed_texts --texts 1000000 --blocks 1

The texts are sentences of the built-in text (again from the start where there are more texts than sentences), in memory
as a list of str; what is timed goes from there to one array of vectors in their order. The model is a BERT (`--shape`,
mini by default; vocabulary 8,192) with random weights, a text's vector the mean over its tokens; both sides read the
same folder. Each side has a process of its own, with as many threads for torch and for tokenizers as the other, and
sleeps while another works: A B C A B C ..., after a small warm-up.

Sides: this package (`ours_fp32`, `ours_bf16`), sentence-transformers as it is by default, in fp32 and batches of 32
(`peer`), and with its weights in bf16 and batches as large as ours (`peer_bf16`).

The last line is one JSON object. `ratio_sentence_transformers` is this package at the precision that it chooses for
this machine (`precision=auto`) over `encode` as it is by default, `ratio_fp32` its fp32 over the same, `ratio_bf16` its
bf16 over `peer_bf16`. `cosine_fp32` and `cosine_bf16` are the least cosine of a text's vector
here and that of `peer`, over the first texts; `cosine_others` is the median cosine of different texts.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.mlm_text import SHAPES
from experiments.benchmarks.turns import CACHE, CORES, Turn, ratios, read_options, show_rates, take_turns

WARM = 256  # texts of the warm-up, whose vectors are compared
LONGEST = 128  # tokens of a text, on all sides
VOCABULARY = 8192
PAIRS = {
    "ratio_sentence_transformers": ("ours_auto", "peer"),
    "ratio_fp32": ("ours_fp32", "peer"),
    "ratio_bf16": ("ours_bf16", "peer_bf16"),
}


class Setting(NamedTuple):
    """What a side embeds, and how."""

    folder: str  # of the model
    texts: str  # a file of json
    size: int
    precision: Any
    batch: int
    threads: int
    device: str = "cpu"
    seed: int = 1

    def read(self) -> list[str]:
        """Read the texts, as many times as it takes."""
        known = json.loads(Path(self.texts).read_text("utf-8"))
        return (known * -(-self.size // len(known)))[: self.size]


def ours(turn: Turn, setting: Setting) -> None:
    """Embed with this package."""
    from pretraining import load
    from pretraining.engine.memory import keep_freed_memory

    keep_freed_memory()
    model = load(setting.folder, precision=setting.precision, max_tokens=LONGEST)
    carry_on(turn, setting, lambda texts: model.embed(texts, batch_size=setting.batch))


def peer(turn: Turn, setting: Setting) -> None:
    """Embed with sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    network = Transformer(setting.folder, max_seq_length=LONGEST)
    width = network.get_embedding_dimension()
    model: Any = SentenceTransformer(modules=[network, Pooling(width, "mean")], device=setting.device)
    if setting.precision == "bf16":
        model = model.bfloat16()

    def encode(texts: list[str]) -> np.ndarray:
        return np.asarray(model.encode(texts, batch_size=setting.batch, show_progress_bar=False), np.float32)

    carry_on(turn, setting, encode)


def carry_on(turn: Turn, setting: Setting, embed: Any) -> None:
    """Embed the first texts, tell their vectors, then all texts in each block."""
    texts = setting.read()
    turn.tell({"precision": setting.precision, "vectors": embed(texts[:WARM])})
    turn.step(len(embed(texts[:WARM])))
    while True:
        turn.step(len(embed(texts)))


def make_model(shape: str, cache_dir: str, folder: Path) -> list[str]:
    """Write a hand-off of a BERT that was never trained; returns the sentences of the built-in text, shuffled."""
    import torch

    from pretraining import handoff
    from pretraining.text.backbones.transformers_model import TransformersBackbone
    from pretraining.text.data.stdlib_docs import StdlibDocs
    from pretraining.text.modality import TEXT
    from pretraining.text.tokenizer_recipes import WordPiece

    data = StdlibDocs(max_tokens=LONGEST, batch_size=1, eval_batch_size=1, workers=0, cache_dir=cache_dir)
    tokenizer = WordPiece(vocab_size=VOCABULARY, lowercase=True, sample_bytes=10**8).fit(data)
    torch.manual_seed(1)
    config = {"model_type": "bert", "initializer_range": 0.05, **SHAPES[shape]}
    backbone = TransformersBackbone(config=config, vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id)
    handoff.write(folder, towers=TEXT.towers(backbone, tokenizer), origin={"objective": "none"}, heads={})
    parts = [part for text in data.texts("train") for part in re.split(r"(?<=[.!?])\s+", " ".join(text.split()))]
    known = sorted({part for part in parts if 3 <= len(part.split()) <= 40})
    return [known[place] for place in np.random.default_rng(1).permutation(len(known))]


def sides_of(given: argparse.Namespace, folder: Path, texts: Path) -> dict[str, Any]:
    """List the sides that are asked for."""
    shared = {"folder": str(folder), "texts": str(texts), "size": given.texts, "threads": given.threads}
    found: dict[str, Any] = {
        f"ours_{precision}": (ours, Setting(**shared, precision=precision, batch=given.batch))
        for precision in ("fp32", "bf16")
    }
    found["peer"] = peer, Setting(**shared, precision="fp32", batch=32)
    found["peer_bf16"] = peer, Setting(**shared, precision="bf16", batch=given.batch)
    return {name: side for name, side in found.items() if name in given.sides}


def cosines(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Compare the vectors that the sides told."""
    told = {name: side.pop("vectors") for name, side in found.items()}
    unit = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in told.items()}
    if "peer" not in unit:
        return {}
    mine = {name.removeprefix("ours_"): (rows * unit["peer"]).sum(1).min() for name, rows in unit.items()}
    others = np.median((unit["peer"] @ unit["peer"].T)[np.triu_indices(WARM, 1)])
    named = {f"cosine_{name}": value for name, value in mine.items() if not name.startswith("peer")}
    return {name: round(float(value), 7) for name, value in {**named, "cosine_others": others}.items()}


def main() -> None:
    """Measure and print."""
    names = ["ours_fp32", "ours_bf16", "peer", "peer_bf16"]
    work = {"texts": (8_000, "of a block"), "blocks": 2, "shape": ("mini", sorted(SHAPES)), "batch": (64, "rows, ours")}
    given = read_options(__doc__, **work, sides=(names, names), threads=CORES, cache_dir=CACHE)
    if any(name.startswith("peer") for name in given.sides) and not importlib.util.find_spec("sentence_transformers"):
        raise SystemExit(
            "sentence-transformers is not installed: pip install '.[bench]', or --sides ours_fp32 ours_bf16"
        )
    from pretraining.engine.precision import choose_precision

    given.seconds = given.warmup = 0.0  # a block is one call
    os.environ |= {name: str(given.threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts = Path(scratch) / "step-0000001", Path(scratch) / "texts.json"
        sentences = make_model(given.shape, given.cache_dir, folder)
        texts.write_text(json.dumps(sentences), encoding="utf-8")
        found = take_turns(sides_of(given, folder, texts), given)
    chosen = choose_precision("auto", "cpu", convolves=False)
    near = cosines(found)
    show_rates(found, "texts/s")
    if f"ours_{chosen}" in found:
        found["ours_auto"] = found[f"ours_{chosen}"]
    about = {name: getattr(given, name) for name in ("texts", "shape", "batch", "threads")}
    about |= {"sentences": len(sentences), "words": round(np.mean([len(text.split()) for text in sentences]), 1)}
    rates = {name: round(side["per_second"], 1) for name, side in found.items()}
    print(json.dumps({**about, "auto": chosen, **ratios(found, PAIRS), **near, "per_second": rates}))


if __name__ == "__main__":
    main()
