"""Texts of recordings, letter by letter: connectionist temporal classification.

Shapes: B rows, T frames, V symbols: blank, then the characters of the alphabet.
"""

from __future__ import annotations

import json
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetuning.data.splits import Examples, Splits
from finetuning.inputs.audio import AudioInputs, Waves
from finetuning.inputs.base import EncodedSplit
from finetuning.metrics import recognition
from finetuning.metrics.bootstrap import Intervals, Numbers
from finetuning.task import Predictions, Task, TaskParts
from finetuning.tasks.ctc import BLANK, CtcDecoding, needed_frames
from finetuning.tasks.ngrams import CharacterNgrams, count_ngrams
from pretraining.backbones.base import Features
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import lines
from pretraining.engine.batch import Batch
from pretraining.errors import RunError

PAD, WORD_BORDER = "<pad>", "|"  # as transformers' tokenizers of speech have them
SLASHES = "/\u2044"  # of which the second is in fractions
KEPT = "'"  # beside letters, digits and spaces, where no alphabet is given


class SpeechRecognition(Task):
    """A linear layer on each frame, trained by CTC; judged by word and character error rates.

    References and what is learnt are normalised alike: NFKC, lower case, white space as single spaces, and only
    characters of `alphabet` (null: letters, digits and apostrophes). A character that training has not seen is never
    predicted, and counts as an error. Recordings with fewer frames than their text needs are learnt nothing from, and
    counted.
    """

    term = "ctc"  # per character
    cacheable = False
    per_position = True
    transformers_class = "AutoModelForCTC"
    placeholder: Any = ""
    inputs: AudioInputs

    def __init__(
        self,
        parts: TaskParts,
        *,
        inputs: AudioInputs,
        select: str,
        dropout: float = 0.1,
        alphabet: str | None = None,
        decoding: CtcDecoding = CtcDecoding(),
    ) -> None:
        super().__init__(parts, inputs=inputs, select=select)
        self.alphabet = alphabet
        known = alphabet if alphabet is not None else "".join(self.labels["characters"])
        self.characters = sorted({*normalised(known, alphabet), " "})
        if len(self.characters) < 2:
            raise RunError(f"got no characters to learn (task.alphabet={alphabet}): give data with transcripts")
        self.numbers = {character: number for number, character in enumerate(self.characters, start=1)}
        self.decoding = decoding
        if decoding.ngram and "ngrams" in self.labels:
            decoding.language = CharacterNgrams(self.labels["ngrams"], self.characters)
        self.head = self.layers.head(1 + len(self.characters), dropout)

    @classmethod
    def collect_labels(cls, splits: Splits) -> dict[str, Any]:
        """Collect the characters of the training texts."""
        texts = splits.train.column("label")
        odd = next((text for text in texts if not isinstance(text, str)), None)
        if odd is not None:
            raise RunError(f"got {str(odd)[:60]!r} as a transcript: name a column of texts with data.label")
        characters = sorted({character for text in texts for character in normalised(text, None)})
        if not characters:
            raise RunError("got no transcript with a letter in training: name another data.label")
        return {"characters": characters}

    def encode(self, examples: Examples) -> EncodedSplit:
        """Decode the recordings, and say which are too short for their text."""
        split = super().encode(examples)
        assert isinstance(split, Waves)
        needed = needed_frames(*(torch.from_numpy(part) for part in _flat(split.targets))).numpy()
        short = int((split.frames < needed).sum())
        if short:
            told = f"{short} of {examples.size} recordings have fewer frames than their text needs"
            if short == examples.size:
                raise RunError(f"{told}: take a backbone with a shorter hop, or check the transcripts")
            print(f"{told}: nothing is learnt from them", file=sys.stderr)
        return split

    def learn_beforehand(self, train: Examples) -> None:
        """Count the n-grams of the decoding's language."""
        if not self.decoding.ngram:
            return
        texts, given = train.column("label"), self.decoding.texts
        if given is not None:
            if not Path(given).is_file():
                raise RunError(f"got task.decoding.texts={given}, which is no file: give one of texts, one a line")
            with as_run_errors():
                texts = list(lines(Path(given)))
        self.labels["ngrams"] = count_ngrams(filter(None, map(self.known, texts)), self.decoding.ngram)
        if not self.labels["ngrams"]:
            raise RunError(f"got task.decoding.texts={given}, of which no line has a letter to learn: give texts")
        self.decoding.language = CharacterNgrams(self.labels["ngrams"], self.characters)

    def known(self, text: str) -> str:
        """Normalise a text, and leave out what cannot be predicted."""
        return "".join(character for character in normalised(text, self.alphabet) if character in self.numbers)

    def targets(self, examples: Examples) -> list[np.ndarray]:
        """Number the characters of each text."""
        texts = map(self.known, examples.column("label"))
        return [np.array([self.numbers[character] for character in text], np.int64) for text in texts]

    def score(self, features: Features, batch: Batch) -> Tensor:
        """Score the symbols at each frame. [B, T, V]"""
        return self.head(features.positions)

    def criterion(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum -log of the probability of each text, in single precision; 0 where it does not fit into its frames."""
        chances = logits.float().log_softmax(-1).transpose(0, 1)
        lengths = batch["frames"], batch["targets_per_row"]
        return F.ctc_loss(chances, batch["targets"], *lengths, blank=BLANK, reduction="sum", zero_infinity=True)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Count the characters of texts that fit into their frames."""
        fits = needed_frames(batch["targets"], batch["targets_per_row"]) <= batch["frames"]
        return {self.term: (batch["targets_per_row"] * fits).sum().double()}

    def by_row(self, logits: Tensor, batch: Batch) -> Iterable[np.ndarray]:
        """Take each row's log probabilities, without padding. [T, V] each"""
        chances = logits.float().log_softmax(-1).cpu().numpy()
        return [row[:count] for row, count in zip(chances, batch["frames"].tolist(), strict=True)]

    def transformers_config(self, outputs: int) -> dict[str, Any]:
        """Count the symbols; transformers takes padding for blank."""
        return {"vocab_size": outputs, "pad_token_id": BLANK}

    def save_vocabulary(self, directory: Path) -> None:
        """Write a tokenizer that joins symbols to a text as greedy decoding does, in one with the feature extractor."""
        symbols = {PAD: BLANK} | {WORD_BORDER if c == " " else c: number for c, number in self.numbers.items()}
        if len(symbols) <= len(self.numbers):
            raise RunError(f"got an alphabet with {WORD_BORDER}, which transformers takes for a space: leave it out")
        import transformers

        with tempfile.TemporaryDirectory() as place:
            vocabulary = Path(place) / "vocab.json"
            vocabulary.write_text(json.dumps(symbols), encoding="utf-8")
            tokens = {"pad_token": PAD, "unk_token": PAD, "bos_token": None, "eos_token": None}
            tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary), word_delimiter_token=WORD_BORDER, **tokens)
            extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(directory)
            transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(directory)

    def zero_outputs(self, split: EncodedSplit) -> list[np.ndarray]:
        """Say nothing."""
        silence = np.full((1, 1 + len(self.characters)), -1.0)
        silence[:, BLANK] = 0.0
        return [silence for _ in split.targets]

    def predict(self, outputs: list[np.ndarray], split: EncodedSplit) -> Predictions:
        """Turn log probabilities into texts, beside the normalised references."""
        found = ("".join(self.characters[symbol - 1] for symbol in self.decoding(output)) for output in outputs)
        references = [normalised(text, self.alphabet) for text in split.examples.column("label")]
        return Predictions(references, [" ".join(text.split()) for text in found])

    def metrics(self, predictions: Predictions) -> Numbers:
        """Compute error rates over the corpus."""
        return recognition.summary(predictions.labels, predictions.predictions)

    def intervals(self, predictions: Predictions) -> Intervals:
        """Bootstrap error rates over utterances."""
        return recognition.intervals(predictions.labels, predictions.predictions)


def normalised(text: str, alphabet: str | None) -> str:
    """Normalise a text: NFKC, lower case, single spaces; what is not in the alphabet parts words or is left out.

    Without an alphabet letters (with their marks), digits and apostrophes stay. Hyphens, dashes and slashes part words,
    those of fractions, too: three and a half is "3 1 2".
    """
    text = "".join(" " * unicodedata.decomposition(part).startswith("<fraction>") + part for part in text)
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    kept = None if alphabet is None else set(alphabet.lower())
    characters = []
    for character in text:
        kind = unicodedata.category(character)
        stays = kind[0] in "LMN" or character in KEPT if kept is None else character in kept
        parts = character.isspace() or kind == "Pd" or character in SLASHES
        characters.append(character if stays else " " if parts else "")
    return " ".join("".join(characters).split())


def _flat(targets: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(targets), np.array([len(target) for target in targets], np.int64)
