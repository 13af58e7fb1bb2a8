"""Several text sources as one, in given shares: each row of an epoch comes from one of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pretraining.data.mixture import MixedRows
from pretraining.text.corpus.corpus import Corpus, entropy, expand_runs
from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.base import TextData, TextFiles
from pretraining.text.data.hub import HubText
from pretraining.text.data.stdlib_docs import StdlibDocs
from pretraining.text.plan import PlannedText, Rows, take_rows
from pretraining.text.tokenizer import TextPreprocess

HUB_BYTES = 10_000_000_000  # of a source from the hub, where it does not say max_bytes


@dataclass(kw_only=True, eq=False)
class Mixture(TextData):
    """Sources with weights: a weight is a source's share of the rows of every epoch.

    A source is {path: …} (local files), {name: …} (of the hub, with max_bytes where wanted) or {builtin: stdlib_docs},
    each with a `weight`; weights are divided by their sum. An epoch is as long as it can be without repeating a row of
    any source; larger sources go on where they were in the next one.
    """

    sources: Sequence[Any]  # settings of each, in whose place the opened ones come
    preparation: Preparation = TextData.preparation

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = np.array([_weight(number, source) for number, source in enumerate(self.sources)])
        if not len(weights):
            raise ValueError("data.sources is empty: list at least one source, like {path: corpus.txt, weight: 1.0}")
        self.weights = weights / weights.sum()
        shared = {field.name: getattr(self, field.name) for field in fields(TextData)}
        self.sources = [_opened(number, source, shared, self.preparation) for number, source in enumerate(self.sources)]

    def texts(self, split: str) -> Iterator[str]:
        """Read the documents of a split, source after source; weights do not matter here."""
        return itertools.chain.from_iterable(source.texts(split) for source in self.sources)

    def sample(self, split: str, max_bytes: int) -> Iterator[str]:
        """Read documents of a split until they make `max_bytes`, each source its share."""
        for source, weight in zip(self.sources, self.weights, strict=True):
            yield from source.sample(split, int(max_bytes * weight))

    def identity(self) -> dict[str, Any]:
        """Name all that the documents depend on, and their shares."""
        return {"sources": [source.fingerprint() for source in self.sources], "weights": self.weights.tolist()}

    def corpora(self, split: str, preprocess: TextPreprocess) -> list[Corpus]:
        """Open the sources' tokens."""
        return [source.corpus(split, preprocess) for source in self.sources]

    def source(
        self, split: str, preprocess: TextPreprocess, plan: Callable[[Corpus, int, int], Rows], *, seed: int
    ) -> MixedText:
        """Open a split as rows of each source's plan, mixed."""
        corpora = self.corpora(split, preprocess)
        planned = [PlannedText(corpus, functools.partial(plan, corpus, seed)) for corpus in corpora]
        mixed = MixedText(planned, self.weights, seed=seed)
        cure = "give the smallest source more text or less weight (data.sources=), or lower data.batch_size"
        self.refuse_too_few(split, mixed.count(0), "rows of this mixture in an epoch", cure)
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
    cure = "give path (local files), name and perhaps max_bytes (hub), or builtin: stdlib_docs, beside weight"
    raise ValueError(f"data.sources[{number}] has the keys {sorted(given)}: {cure}")


class MixedText(MixedRows):
    """Serves the rows of several plans."""

    def __init__(self, sources: Sequence[PlannedText], weights: np.ndarray, *, seed: int) -> None:
        super().__init__(sources, weights, seed=seed, take=take_rows)
        self.corpus = MixedCounts([source.corpus for source in sources], self.shares / self.shares.sum())

    def rows(self, epoch: int) -> Rows:
        """List the lengths of an epoch's rows, for statistics: `starts` count within each source."""
        sizes, starts, lengths = [], [], []
        for part in self.parts(epoch, np.arange(self.count(epoch))):
            plan = self.sources[part.source].rows(part.epoch)
            first = np.asarray(plan.offsets)[part.rows]
            sizes.append(np.asarray(plan.offsets)[part.rows + 1] - first)
            pieces = expand_runs(first, sizes[-1])
            starts.append(np.asarray(plan.starts)[pieces])
            lengths.append(np.asarray(plan.lengths)[pieces])
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        return Rows(offsets, np.concatenate(starts), np.concatenate(lengths), {})


class MixedCounts:
    """How often tokens occur in a mixture."""

    def __init__(self, corpora: Sequence[Corpus], shares: np.ndarray) -> None:
        self.corpora, self.shares = list(corpora), shares

    def unigram_entropy(self) -> float:
        """Compute the entropy of the mixed distribution of tokens, in nats per token."""
        each = [corpus.counts() for corpus in self.corpora]
        return entropy(np.sum([share * one / one.sum() for share, one in zip(self.shares, each, strict=True)], axis=0))
