"""From documents to a corpus: read, split into sentences, tokenize in parallel, write shards; once per distinct input.

One process reads; others cut units of about a megabyte into sentences and tokens; the units are written in the order in
which they were read. So the bytes do not depend on the number of processes, and memory does not grow with the corpus.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from pretraining.cache import build_once, key
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.duplicates import NearDuplicates, Seen
from pretraining.text.corpus.sentences import LineSplitter, RuleSplitter, SentenceSplitter, describe
from pretraining.text.corpus.shards import ShardWriter, Tokenized
from pretraining.text.corpus.word_cache import WordCache
from pretraining.text.tokenizer import TextPreprocess

FORMAT = 1  # raised when the same input would give other bytes
UNIT_BYTES = 2**20
FEW_UNITS = 8  # up to here other processes and a progress bar are not worth their start


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How records become documents, and documents tokens.

    `workers`: tokenizing processes, None for one per core. `text_column`: of tables. `layout`: of .txt files, see
    `files.py`. `sentence_splitter`: see `sentences.py`. `deduplicate`: keep the first of documents that are equal but
    for white space at their ends. `near_duplicates`: drop documents of about this similarity to an earlier one, see
    `duplicates.py`. `validation_share`, `test_share`: of documents, for sources that come without such a split.
    """

    workers: int | None = None
    text_column: str = "text"
    layout: str = "paragraphs"
    sentence_splitter: SentenceSplitter = dataclasses.field(default_factory=RuleSplitter)
    deduplicate: bool = True
    near_duplicates: float | None = None
    validation_share: float = 0.05
    test_share: float = 0.05

    def __post_init__(self) -> None:
        """Refuse shares that leave nothing."""
        if self.near_duplicates is not None and not 0 < self.near_duplicates < 1:
            near = f"data.preparation.near_duplicates={self.near_duplicates}"
            raise ValueError(f"{near} must be a similarity between 0 and 1, or null")
        validation, test = self.validation_share, self.test_share
        if not 0 <= validation + test < 1 or min(validation, test) < 0:
            told = f"data.preparation.validation_share={validation} and test_share={test}"
            raise ValueError(f"{told}: both must be 0 or more and leave something for training")

    @property
    def splitter(self) -> SentenceSplitter:
        """What cuts documents into sentences."""
        return LineSplitter() if self.layout == "sentences" else self.sentence_splitter


class DocumentSet(Protocol):
    """What preparation needs of a data set."""

    cache_dir: Path
    preparation: Preparation

    def fingerprint(self) -> str:
        """Identify all that the documents depend on."""

    def texts(self, split: str) -> Iterator[str]:
        """Read a split's documents in a fixed order."""

    def num_bytes(self, split: str) -> int | None:
        """Estimate a split's size for the progress bar."""


def prepare_split(data: DocumentSet, split: str, preprocess: TextPreprocess) -> Corpus:
    """Open a split's corpus; where the cache has none for exactly this input, make it."""
    part, facts = data.preparation, {"format": FORMAT, "split": split, "preprocess": preprocess.digest}
    near = {} if part.near_duplicates is None else {"near_duplicates": part.near_duplicates}
    cleaning = {"sentence_splitter": describe(part.splitter), "deduplicate": part.deduplicate, **near}
    fingerprint = key({"data": data.fingerprint(), **facts, **cleaning})
    facts = {"fingerprint": fingerprint, **facts}
    directory = data.cache_dir / "corpora" / fingerprint
    return Corpus(build_once(directory, lambda partial: _build(partial, data, split, preprocess, facts)))


def _build(partial: Path, data: DocumentSet, split: str, preprocess: TextPreprocess, facts: dict[str, Any]) -> None:
    if (partial / "manifest.json").exists():  # killed between the last write and the renaming
        return
    dtype = "uint16" if preprocess.vocab_size <= 2**16 else "uint32"
    encoder = _Encoder(preprocess.tokenizer.backend_tokenizer, data.preparation.splitter, dtype)
    writer = ShardWriter(partial, dtype=dtype, vocab_size=preprocess.vocab_size)
    units = itertools.islice(_units(data.texts(split), data.preparation), writer.units, None)
    head = list(itertools.islice(units, FEW_UNITS))
    many = len(head) == FEW_UNITS
    workers = data.preparation.workers or len(os.sched_getaffinity(0))
    size, hidden = data.num_bytes(split), None if many else True  # None: hidden where there is no terminal
    with tqdm(desc=f"preparing {split}", total=size, unit="B", unit_scale=True, disable=hidden) as progress:
        progress.update(writer.units * UNIT_BYTES)
        for encoded in _encoded(encoder, itertools.chain(head, units), workers if many else 1):
            writer.add(encoded)
            progress.update(UNIT_BYTES)
    if not writer.finished and not writer.pending_tokens:
        remedy = "give more text" if split == "train" else f"give more text or a larger data.preparation.{split}_share"
        raise ValueError(f"the {split} split of the data has no documents: {remedy} (data.path=)")
    writer.finish(facts)


def _units(texts: Iterable[str], preparation: Preparation) -> Iterator[list[str]]:
    """Cut documents into units of about `UNIT_BYTES`, and drop those that were there before."""
    seen = Seen()
    similar = None if preparation.near_duplicates is None else NearDuplicates(preparation.near_duplicates)
    unit: list[str] = []
    digests: list[int] = []
    size = 0

    def kept() -> list[str]:
        remaining = unit
        if preparation.deduplicate:
            remaining = list(itertools.compress(unit, seen.add(np.array(digests, dtype=np.uint64))))
        return remaining if similar is None else list(itertools.compress(remaining, similar.add(remaining)))

    for text in texts:
        data = text.strip().encode()
        unit.append(text)
        digests.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
        size += len(data) + 1
        if size >= UNIT_BYTES:
            yield kept()
            unit, digests, size = [], [], 0
    if unit:
        yield kept()


class _Encoder:
    """Documents to tokens; the part that runs in other processes."""

    def __init__(self, tokenizer: Tokenizer, splitter: SentenceSplitter, dtype: str) -> None:
        self.encode, self.splitter, self.dtype = WordCache(tokenizer), splitter, dtype

    def __call__(self, texts: list[str]) -> Tokenized:
        """Tokenize sentence by sentence; what has no tokens is left out."""
        documents = [self.splitter(text) for text in texts]
        tokens, lengths = self.encode(list(itertools.chain.from_iterable(documents)), self.dtype)
        owner = np.repeat(np.arange(len(documents)), np.array([len(part) for part in documents], dtype=np.int64))
        sentences = np.bincount(owner[lengths > 0], minlength=len(documents)).astype(np.int32)
        return Tokenized(tokens, lengths[lengths > 0].astype(np.int32), sentences[sentences > 0])


_encoder: _Encoder  # of a worker process


def _start(encoder: _Encoder, parent: int) -> None:
    global _encoder
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    _encoder = encoder


def _leave_with(parent: int) -> None:
    """End this process when its parent was killed: it would wait for ever, and hold the lock that it inherited."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _encode(texts: list[str]) -> Tokenized:
    return _encoder(texts)


def _encoded(encoder: _Encoder, units: Iterable[list[str]], workers: int) -> Iterator[Tokenized]:
    """Encode units, in order, with at most two per process in flight."""
    if workers == 1:
        yield from map(encoder, units)
        return
    context = multiprocessing.get_context("fork")  # hands over the tokenizer and any splitter without pickling them
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(encoder, os.getpid())) as pool:
        waiting: deque[Future[Tokenized]] = deque()
        for unit in units:
            waiting.append(pool.submit(_encode, unit))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
