"""What a hand-off of pairs knows of pictures and their captions: which belong together, and whether word order counts.

Shapes: N examples, M captions, D width of the shared space.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetuning.data.splits import Examples
from finetuning.inputs.base import EncodedSplit, Inputs
from finetuning.metrics import retrieval
from finetuning.metrics.bootstrap import Intervals, Numbers, bootstrap
from finetuning.task import Predictions, Task, TaskParts
from pretraining.data.files import say
from pretraining.data.unlabelled import tell_some
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.pairs.space import Space

ALIKE = "the network reads all captions (by the words that it knows, and up to its cut)"


class InSpace(nn.Module):
    """Brings pooled vectors into the shared space."""

    def __init__(self, projection: nn.Linear) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, vectors: Tensor) -> Tensor:
        """Project to unit length. [N, D]"""
        return F.normalize(self.projection(vectors).float(), dim=-1)


class AsGiven(Task):
    """What the vectors of a hand-off are like among others: nothing trains, and a single example has no answer."""

    given_head = True
    learns = False
    cacheable = False
    reads_layers = False

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        if self.mode.trains:
            raise RunError(f"got mode={type(self.mode).__name__} for {type(self).__name__}: set mode=as_is")
        (name,) = parts.handoff.towers
        self.instead = f"handoff={parts.handoff.reference} tower={name}"

    def placeholder_label(self, example: dict[str, Any]) -> Any:
        """Refuse an example without a label, and say what tells which others are near."""
        what = f"got a run of {type(self).__name__}, which ranks labelled examples and predicts nothing of others"
        cure = f"python -m pretraining.embed {self.instead} input=… output=near.parquet neighbours=10"
        raise RunError(f"{what}: for the nearest of them, {cure}")

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Give each example its vector."""
        return list(logits.float().cpu().numpy())


class Captions(AsGiven):
    """Examples whose label is what is said of them, true first. Its loss is 1 - the cosine between an example and its
    first true caption.
    """

    term = "cosine_distance"

    def __init__(self, parts: TaskParts, *, inputs: Inputs, select: str) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.space = Space.read(parts.handoff)
        self.head = InSpace(self.space.projection)

    @abstractmethod
    def said(self, label: Any) -> list[str]:
        """List what is said of an example, something true first."""

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Bring what is said of each example into the space. [captions of the example, D]"""
        labels = [self.said(label) for label in examples.column("label")]
        texts = list(dict.fromkeys(text for own in labels for text in own))
        vectors, places = self.space.texts(texts).numpy(), {text: place for place, text in enumerate(texts)}
        return [vectors[[places[text] for text in own]] for own in labels]

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum the cosine distances."""
        counts = batch["targets_per_row"]
        first = counts.cumsum(0) - counts
        return (1.0 - (logits * batch["targets"][first.to(logits.device)]).sum(1)).sum()

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the examples."""
        return {self.term: torch.tensor(float(len(batch["targets_per_row"])), device=batch["targets"].device)}

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Give each example the vector zero."""
        return [np.zeros_like(own[0]) for own in split.targets]


class Found(NamedTuple):
    """Where right ones were found: for each example the rank of a caption, for each caption that of an example."""

    by_example: tuple[np.ndarray, np.ndarray]  # first rank and average precision, [N] each
    by_caption: tuple[np.ndarray, np.ndarray]  # [M] each
    places: dict[str, int]  # of texts among the different captions


class ImageTextRetrieval(Captions):
    """Among all captions of a split those of each example are looked for, and among all examples those of a caption.

    Captions that the network reads alike are one, which belongs to all examples that have it.
    """

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """See `Captions.targets`; say how many different captions the network cannot tell apart."""
        vectors = super().targets(examples)
        texts = list(dict.fromkeys(text for own in examples.column("label") for text in own))
        different = len(set(self.space.identify(texts)))
        if different == 1 and examples.size > 1:
            say(f"{ALIKE} of {examples.size} examples as one: recall is 1 whatever was learnt")
        elif different < len(texts):
            told = "different captions are read as another one is by this network"
            tell_some(len(texts) - different, len(texts), told)
        return vectors

    def said(self, label: Any) -> list[str]:
        """List an example's captions."""
        if not isinstance(label, list):
            raise _odd(self, label, "lists of captions: set data.label=caption, or take task=captioned_files")
        return label

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Rank captions for each example, and examples for each caption."""
        labels = split.examples.column("label")
        every = list(dict.fromkeys(text for own in labels for text in own))
        read = self.space.identify(every)
        column = {number: place for place, number in enumerate(dict.fromkeys(read))}
        places = {text: column[number] for text, number in zip(every, read, strict=True)}
        texts = {place: text for text, place in reversed(places.items())}
        right = np.zeros((len(labels), len(texts)), bool)
        vectors = np.zeros((len(texts), len(outputs[0])), np.float32)
        for row, (own, known) in enumerate(zip(labels, split.targets, strict=True)):
            columns = [places[text] for text in own]
            right[row, columns], vectors[columns] = True, known
        scores = np.stack(outputs) @ vectors.T
        found = Found(retrieval.ranks(scores, right), retrieval.ranks(scores.T, right.T), places)
        return Predictions(labels, [texts[place] for place in scores.argmax(1)], found)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute recall, median rank and mean average precision, both ways, and count what was looked for."""
        found: Found = predictions.scores
        counts = {"image_to_text": len(found.by_example[0]), "text_to_image": len(found.by_caption[0])}
        queries = {f"{way}_queries": float(count) for way, count in counts.items()}
        return self._both(retrieval.retrieval, found) | queries

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap them over queries."""
        return self._both(retrieval.intervals, predictions.scores)

    def _both(self, measure: Any, found: Found) -> dict[str, Any]:
        ways = (("image_to_text", found.by_example), ("text_to_image", found.by_caption))
        return {f"{way}_{name}": value for way, ranks in ways for name, value in measure(*ranks).items()}

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """List each example's captions, the most similar one, the rank of a right one, and its own for each of them."""
        found: Found = predictions.scores
        ranks = found.by_caption[0].tolist()
        return {
            "label": predictions.labels,
            "prediction": predictions.predictions,
            "rank": found.by_example[0],
            "caption_ranks": [[ranks[found.places[text]] for text in own] for own in predictions.labels],
        }


class Compositional(Captions):
    """A true caption against false ones of the same words: one who sees which words there are, but not their order,
    is right half of the time (Yuksekgonul et al. 2023, "When and why vision-language models behave like
    bags-of-words").
    """

    def said(self, label: Any) -> list[str]:
        """List the true caption and the false ones."""
        if not isinstance(label, dict):
            raise _odd(self, label, "a true caption and false ones: set data.label=swap, or take task=compositional")
        return [label["true"], *label["false"].values()]

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Tell for each false caption whether the true one is more similar: 1, 0, or 0.5 where both are alike."""
        labels = split.examples.column("label")
        decisions, guesses = [], []
        for vector, captions, label in zip(outputs, split.targets, labels, strict=True):
            scores = captions @ vector
            wins = np.where(scores[0] > scores[1:], 1.0, np.where(scores[0] < scores[1:], 0.0, 0.5))
            decisions.append(dict(zip(label["false"], wins.tolist(), strict=True)))
            guesses.append(self.said(label)[int(scores.argmax())])
        return Predictions(labels, guesses, decisions)

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute the share of false captions that are told from the true one: of all, and of each kind of change."""
        return swap_accuracy(predictions.scores)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap it over examples."""
        decisions = predictions.scores
        return bootstrap(lambda drawn: swap_accuracy([decisions[row] for row in drawn]), len(decisions))

    def table(self, predictions: Predictions) -> dict[str, Any]:
        """List the true caption, the most similar one, and how each false one was judged."""
        kinds = sorted({kind for own in predictions.scores for kind in own})
        judged = {kind: [own.get(kind) for own in predictions.scores] for kind in kinds}
        truth = [label["true"] for label in predictions.labels]
        return {"label": truth, "prediction": predictions.predictions, **judged}


def _odd(task: Task, label: Any, wanted: str) -> RunError:
    return RunError(f"got labels such as {label!s:.60} for {type(task).__name__}, which reads {wanted}")


def swap_accuracy(decisions: Sequence[dict[str, float]]) -> Numbers:
    """Average decisions over all false captions, and over those of each kind."""
    kinds = sorted({kind for own in decisions for kind in own})
    by_kind = {kind: [own[kind] for own in decisions if kind in own] for kind in kinds}
    every = [value for values in by_kind.values() for value in values]
    return {"swap_accuracy": float(np.mean(every))} | {
        f"swap_accuracy_{kind}": float(np.mean(values)) for kind, values in by_kind.items()
    }
