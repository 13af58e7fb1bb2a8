"""Several text sources as one, in given shares: each row of an epoch comes from one of them.

Shapes: B rows of a batch, R rows of an epoch, V vocabulary.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pretraining.cache import key
from pretraining.data.loader import joined
from pretraining.random import permuted
from pretraining.text.corpus.corpus import Corpus
from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextData, TextFiles
from pretraining.text.data.hub import HubText
from pretraining.text.data.stdlib_docs import StdlibDocs
from pretraining.text.plan import PlannedText, Rows, TextExamples, take_rows
from pretraining.text.tokenizer import TextPreprocess

HUB_BYTES = 10_000_000_000  # of a source from the hub, where it does not say max_bytes


class Mixture(TextData):
    """Sources with weights: a weight is a source's share of the rows of every epoch.

    A source is {path: …} (local files), {name: …} (of the hub, with max_bytes where wanted) or {builtin: stdlib_docs}, each with a
    `weight`; weights are divided by their sum. An epoch is as long as it can be without repeating a row of any source; larger sources
    go on where they were in the next one.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Mapping[str, Any]],
        max_tokens: int,
        batch_size: int,
        eval_batch_size: int,
        workers: int,
        cache_dir: str,
        preparation: Preparation | None = None,
    ) -> None:
        shared: dict[str, Any] = {
            "max_tokens": max_tokens,
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "workers": workers,
            "cache_dir": cache_dir,
        }
        super().__init__(**shared, preparation=preparation)
        weights = np.array([_weight(number, source) for number, source in enumerate(sources)])
        if not len(weights):
            raise ValueError("data.sources is empty: list at least one source, like {path: corpus.txt, weight: 1.0}")
        self.weights = weights / weights.sum()
        self.sources = [_opened(number, source, shared, self.preparation) for number, source in enumerate(sources)]

    def texts(self, split: str) -> Iterator[str]:
        """Give the documents of a split, source after source; weights do not matter here."""
        return itertools.chain.from_iterable(source.texts(split) for source in self.sources)

    def sample(self, split: str, max_bytes: int) -> Iterator[str]:
        """Give documents of a split until they make `max_bytes`, each source its share."""
        for source, weight in zip(self.sources, self.weights, strict=True):
            yield from source.sample(split, int(max_bytes * weight))

    def fingerprint(self) -> str:
        """Identify all that the documents depend on, and their shares."""
        return key({"sources": [source.fingerprint() for source in self.sources], "weights": self.weights.tolist()})

    def corpora(self, split: str, preprocess: TextPreprocess) -> list[Corpus]:
        """Open the sources' tokens."""
        return [source.corpus(split, preprocess) for source in self.sources]

    def source(
        self, split: str, preprocess: TextPreprocess, plan: Callable[[Corpus, int, int], Rows], *, seed: int
    ) -> PlannedText:
        """Open a split as rows of each source's plan, mixed."""
        planned = [
            PlannedText(corpus, functools.partial(plan, corpus, seed)) for corpus in self.corpora(split, preprocess)
        ]
        mixed = MixedText(planned, self.weights, seed=seed)
        if split == "train" and mixed.count(0) < self.batch_size:
            raise ValueError(
                f"an epoch of this mixture has {mixed.count(0)} rows, less than one batch of data.batch_size={self.batch_size}: give the "
                "smallest source more text or less weight (data.sources=), or lower data.batch_size"
            )
        return mixed


def _weight(number: int, source: Mapping[str, Any]) -> float:
    weight = source.get("weight")
    if not isinstance(weight, (int, float)) or not weight > 0:
        raise ValueError(f"data.sources[{number}] has weight {weight}: give each source a weight above 0")
    return float(weight)


def _opened(number: int, source: Mapping[str, Any], shared: dict[str, Any], preparation: Preparation) -> TextData:
    given = {name: value for name, value in source.items() if name != "weight"}
    if set(given) == {"path"}:
        return TextFiles(**given, **shared, preparation=preparation)
    if "name" in given and set(given) <= {"name", "max_bytes"}:
        return HubText(**{"max_bytes": HUB_BYTES} | given, **shared, preparation=preparation)
    if given == {"builtin": "stdlib_docs"}:
        return StdlibDocs(**shared)
    raise ValueError(
        f"data.sources[{number}] has the keys {sorted(given)}: give path (local files), name and perhaps max_bytes (hub), or "
        "builtin: stdlib_docs, beside weight"
    )


class MixedText(PlannedText):
    """Serves the rows of several plans. Row numbers of an epoch are blocks, one per source, which the loader's order mixes.

    A source's own epochs follow one another, each in a keyed order, and a mixed epoch takes the next rows of that sequence.
    """

    def __init__(self, sources: Sequence[PlannedText], weights: np.ndarray, *, seed: int) -> None:
        self.sources, self.seed = list(sources), seed
        self._sizes = np.array([source.count(0) for source in sources])
        rows = float((self._sizes / weights).min())
        self._shares = np.maximum(np.floor(weights * rows + 1e-6), 1).astype(np.int64)  # of each source in an epoch
        self._begins = np.cumsum(self._shares) - self._shares
        self.corpus = MixedCounts([source.corpus for source in sources], self._shares / self._shares.sum())  # type: ignore[assignment]

    def count(self, epoch: int) -> int:
        """Count the rows of an epoch; all have the same number."""
        return int(self._shares.sum())

    def places(self, epoch: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find rows: in which source, its epoch, and the row there. int64 [B] each."""
        which = np.searchsorted(self._begins, rows, side="right") - 1
        position = epoch * self._shares[which] + rows - self._begins[which]
        turn, place = position // self._sizes[which], position % self._sizes[which]
        found = np.empty_like(place)
        for source, number in sorted(set(zip(which.tolist(), turn.tolist(), strict=True))):
            here = (which == source) & (turn == number)
            size = self.sources[source].count(number)  # plans that are drawn anew may differ a little in length
            found[here] = permuted(place[here] % size, size, seed=self.seed, epoch=number, stream=f"mixture.{source}")
        return which, turn, found

    def read(self, epoch: int, rows: np.ndarray) -> TextExamples:
        """Read rows by number."""
        which, turn, found = self.places(epoch, rows)
        groups = sorted(set(zip(which.tolist(), turn.tolist(), strict=True)))
        members = [np.flatnonzero((which == source) & (turn == number)) for source, number in groups]
        parts = [
            self.sources[source].read(number, found[here])
            for (source, number), here in zip(groups, members, strict=True)
        ]
        order = np.argsort(np.concatenate(members))
        return take_rows(joined(parts), order)

    def rows(self, epoch: int) -> Rows:
        """Give the lengths of an epoch's rows, for statistics: `starts` count within each source."""
        which, turn, found = self.places(epoch, np.arange(self.count(epoch)))
        offsets, starts, lengths = [np.zeros(1, np.int64)], [], []
        for source, number in sorted(set(zip(which.tolist(), turn.tolist(), strict=True))):
            plan, here = self.sources[source].rows(number), found[(which == source) & (turn == number)]
            first = np.asarray(plan.offsets)[here]
            pieces = np.asarray(plan.offsets)[here + 1] - first
            behind = np.cumsum(pieces)
            places = np.repeat(first - behind + pieces, pieces) + np.arange(pieces.sum())
            offsets.append(offsets[-1][-1] + behind)
            starts.append(np.asarray(plan.starts)[places])
            lengths.append(np.asarray(plan.lengths)[places])
        return Rows(np.concatenate(offsets), np.concatenate(starts), np.concatenate(lengths), {})


class MixedCounts:
    """How often tokens occur in a mixture."""

    def __init__(self, corpora: Sequence[Corpus], shares: np.ndarray) -> None:
        self.corpora, self.shares = list(corpora), shares

    def unigram_entropy(self) -> float:
        """Compute the entropy of the mixed distribution of tokens, in nats per token."""
        each = [np.load(corpus.directory / "counts.npy") for corpus in self.corpora]
        mixed = np.sum([share * counts / counts.sum() for share, counts in zip(self.shares, each, strict=True)], axis=0)
        return float(-(mixed[mixed > 0] * np.log(mixed[mixed > 0])).sum())
