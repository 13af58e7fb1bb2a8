"""From raw text to the token rows that a backbone takes.

Shapes: B rows, T tokens, N things to predict.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from finetuning.data.splits import Examples
from finetuning.data.tables import is_text, refusal, rows_of
from finetuning.inputs.base import EncodedSplit, Features, Inputs, Unlabelled, tell_cut
from pretraining.backbones.base import Backbone
from pretraining.cli.configuration import as_run_errors
from pretraining.data.files import TABLES, find, kind_of, lines, places_of, say
from pretraining.data.tables import word_of
from pretraining.engine.batch import Batch
from pretraining.errors import RunError
from pretraining.text.collate import padded_width, padding_of, text_batch
from pretraining.text.modality import TEXT
from pretraining.text.tokenizer import TextPreprocess


@dataclass(kw_only=True, eq=False)
class Tokens(EncodedSplit):
    """Token rows, padded to the longest of their batch."""

    ids: list[np.ndarray]
    pad_id: int
    types: list[np.ndarray] | None = None  # which text of a pair each token is of
    positions: list[np.ndarray] | None = None  # which of a row's tokens the head reads, if it reads such

    def stack(self, rows: np.ndarray) -> Batch:
        """Pad to [B, T]; document_ids are 1 where a token is and 0 where none."""
        types = {} if self.types is None else {"token_type_ids": [self.types[row] for row in rows]}
        batch, width = token_batch([self.ids[row] for row in rows], self.pad_id, **types)
        if self.positions is not None:
            batch["target_positions"] = flat_positions([self.positions[row] for row in rows], width)
        return batch

    def lengths(self) -> np.ndarray:
        """Count each row's tokens."""
        return np.array([len(row) for row in self.ids])


@dataclass(kw_only=True)
class TextInputs(Inputs):
    """Texts, or pairs judged together, of at most `max_tokens` tokens with special ones; longer ones are cut."""

    modality = TEXT
    columns: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    accepts = staticmethod(is_text)  # as a value of them
    needed: ClassVar[str] = ", but text is needed"
    max_tokens: int = 128

    def encode(
        self, examples: Examples, targets: list[np.ndarray], preprocess: TextPreprocess, backbone: Backbone
    ) -> Tokens:
        """Tokenise `text`, and `text_pair` where there is one."""
        self.check_length(backbone)
        pairs = [examples.column("text_pair")] if "text_pair" in examples.columns else []
        typed = bool(pairs) and has_segments(backbone)
        texts = [examples.column("text"), *pairs]
        found = tokenized(preprocess, *texts, max_tokens=self.max_tokens, return_token_type_ids=typed)
        types = arrays(found["token_type_ids"]) if typed else None
        return Tokens(examples, targets, ids=arrays(found["input_ids"]), types=types, pad_id=padding_of(preprocess))

    def check_length(self, backbone: Backbone) -> None:
        """Refuse rows longer than the backbone has positions for."""
        limit = getattr(backbone, "max_tokens", None)
        if limit is not None and self.max_tokens > limit:
            what = f"got task.inputs.max_tokens={self.max_tokens}, but this backbone has positions for {limit}"
            raise RunError(f"{what}: lower it")

    def classical(self, train: Examples) -> Features:
        """Weigh words and word pairs by TF-IDF; of two texts also what they share and where they differ."""
        roles = [role for role in ("text", "text_pair") if role in train.columns]
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
        words.fit([text for role in roles for text in train.column(role)])

        def of(examples: Examples) -> sparse.csr_matrix:
            parts = [words.transform(examples.column(role)) for role in roles]
            if len(parts) == 2:
                parts += [parts[0].multiply(parts[1]), abs(parts[0] - parts[1])]
            return sparse.hstack(parts).tocsr()

        return Features("TF-IDF", of)

    def read(
        self, path: Path | Sequence[Any], named: Mapping[str, Any], preprocess: TextPreprocess
    ) -> Iterator[Unlabelled]:
        """Read tables with the run's columns, or a text per line, and number them by row or line."""
        names = {role: named[role] for role in self.columns if named.get(role)} or {self.columns[0]: self.columns[0]}
        if not isinstance(path, Path):
            for number, item in enumerate(path):
                columns = self._of_object(item, names, f"input {number}")
                yield Unlabelled({"id": number, **columns}, columns)
            return
        with as_run_errors():
            found = [path] if path.exists() and not path.is_dir() else find(str(path), key="input")
            for place, file in places_of(found).items():
                source = {"file": place} if len(found) > 1 else {}
                rows = self._of_table(file, names) if kind_of(file) in TABLES else self._of_lines(file, list(names))
                for number, columns in rows:
                    yield Unlabelled({**source, "id": number, **columns}, columns)

    def _of_table(self, file: Path, names: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, values in rows_of(file, {f"data.{role}": name for role, name in names.items()}):
            for (role, name), value in zip(names.items(), values, strict=True):
                if not self.accepts(value):
                    place = f"{file}, {word_of(file)} {number}"
                    raise RunError(refusal(role, name, value, type(value).__name__, self.needed, place))
            yield number, dict(zip(names, values, strict=True))

    def _of_object(self, item: Any, names: Mapping[str, str], place: str) -> dict[str, Any]:
        """Take a text as a line, several as those of the roles, and of a row the run's columns."""
        if isinstance(item, str):
            return self.from_line(item, list(names), place)
        if isinstance(item, Mapping):
            item = [item.get(name) for name in names.values()]
        elif len(names) == 1:
            item = [item]
        if not isinstance(item, (list, tuple)) or len(item) != len(names) or not all(map(self.accepts, item)):
            columns = ", ".join(names.values())
            raise RunError(f"got {place}, which is no {' and '.join(names)}: give texts, or rows with {columns}")
        return dict(zip(names, item, strict=True))

    def _of_lines(self, file: Path, roles: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        blank = 0
        for number, line in enumerate(lines(file), start=1):
            blank += line.isspace()
            if not line.isspace():
                yield number, self.from_line(line.rstrip("\r\n"), roles, f"{file}, line {number}")
        if blank:
            say(f"input={file}: {blank} blank lines left out")

    def from_line(self, line: str, roles: list[str], place: str) -> dict[str, Any]:
        """Take a text, or two with a tab between them where the run judges pairs."""
        parts = line.split("\t") if "text_pair" in roles else [line]
        if len(parts) != len(roles):
            what = f"got {place} without exactly one tab"
            raise RunError(f"{what}: this run judges pairs of texts, give text<tab>text")
        return dict(zip(roles, parts, strict=True))

    def made_up_rows(self, preprocess: TextPreprocess) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draw two rows of ordinary tokens, the second one padded."""
        ordinary = torch.from_numpy(preprocess.ordinary_ids)
        ids = ordinary[torch.randint(0, len(ordinary), (2, 12), generator=torch.Generator().manual_seed(0))]
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        ids[1, 8:] = padding_of(preprocess)  # RoBERTa reads off it which positions count
        return {"input_ids": ids, "document_ids": mask}, {"input_ids": ids, "attention_mask": mask}

    def save_for_transformers(self, directory: Path, preprocess: TextPreprocess, backbone: Backbone) -> None:
        """Write the tokenizer, which then says what a pipeline feeds to the model."""
        tokenizer = copy.deepcopy(preprocess.tokenizer)
        names = ["input_ids", *(["token_type_ids"] if has_segments(backbone) else []), "attention_mask"]
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
        tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
        tokenizer.save_pretrained(directory)


def has_segments(backbone: Backbone) -> bool:
    """Tell whether the backbone is told which text of a pair a token belongs to, as BERT is."""
    config = getattr(getattr(backbone, "model", None), "config", None)
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def tokenized(
    preprocess: TextPreprocess, *columns: list[Any], max_tokens: int, key: str = "max_tokens", **options: Any
) -> Any:
    """Tokenise; rows longer than `max_tokens`, task.inputs.`key`, are cut (of a pair, the longer text) and counted."""
    specials = preprocess.tokenizer.num_special_tokens_to_add(pair=len(columns) > 1)
    if max_tokens <= specials:
        what = f"got task.inputs.{key}={max_tokens}, which leaves no room for text beside {specials} special tokens"
        raise RunError(f"{what}: raise it")
    whole = preprocess.tokenize(*columns, verbose=False, **options)
    if not report_cut(whole["input_ids"], max_tokens, key, max_tokens):
        return whole
    return preprocess.tokenize(*columns, truncation=True, max_length=max_tokens, **options)


def report_cut(rows: list[list[int]], room: int, key: str, limit: int) -> bool:
    """Say how many rows have more than `room` tokens, which `key`=`limit` leaves them; tells whether any has."""
    over = sum(len(row) > room for row in rows)
    tell_cut(over, len(rows), f"texts have more than task.inputs.{key}={limit} tokens")
    return over > 0


def token_batch(rows: list[np.ndarray], pad_id: int, **inputs: list[np.ndarray]) -> tuple[Batch, int]:
    """Pad token rows, and `inputs` of the same lengths, to [B, T]: a batch, and T."""
    width = padded_width(max(map(len, rows)))
    document_ids = padded([np.ones_like(row) for row in rows], width, 0)
    more = {name: padded(each, width, 0) for name, each in inputs.items()}
    return text_batch(padded(rows, width, pad_id), document_ids, **more), width


def flat_positions(places: list[np.ndarray], width: int) -> Tensor:
    """Turn places in each of B rows into places in the flat [B * width]. [N]"""
    return torch.from_numpy(np.concatenate([row * width + place for row, place in enumerate(places)]))


def padded(rows: list[np.ndarray], width: int, value: int) -> np.ndarray:
    """Stack rows of different lengths, filled up with `value` on the right. int64 [B, width]"""
    return np.stack([np.pad(row, (0, width - len(row)), constant_values=value) for row in rows])


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    """Turn rows of ids into int64 arrays."""
    return [np.array(row, np.int64) for row in rows]
