"""Texts without labels: read from tables and lines of text, or held by Python code, and made rows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pretraining.cli.configuration import as_run_errors
from pretraining.data.columns import is_text, named_rows, own_id, refusal
from pretraining.data.files import TABLES, find, kind_of, lines, places_of, say
from pretraining.data.tables import word_of
from pretraining.data.unlabelled import Encoded, Reading, Unlabelled, tell_cut
from pretraining.errors import RunError
from pretraining.text.collate import padding_of, token_batch
from pretraining.text.tokenizer import TextPreprocess, longest_text

AT_ONCE = 1024  # texts that are tokenised together, by the tokenizer's own threads
LONGEST = 512  # tokens of a text, where neither the user nor the network's positions say how many


@dataclass(frozen=True, kw_only=True)
class Lines:
    """How tables and lines become values of `names`: {role: column}, of which `key` + role is the setting.

    `accepts` tells whether a cell holds such a value, which `needed` words; `parse` makes the roles' values of a line,
    of which it is told the place, too.
    """

    names: Mapping[str, str]
    parse: Callable[[str, list[str], str], dict[str, Any]]
    key: str = "data."
    accepts: Callable[[Any], bool] = is_text
    needed: str = ", but text is needed"

    def read(self, given: Path | Sequence[Any]) -> Iterator[Unlabelled]:
        """Read tables by their columns, or a value per line, or take what a list holds.

        Rows are named by their `id`, where tables have it, others by the number of their row or line.
        """
        if not isinstance(given, Path):
            for number, item in enumerate(given):
                columns = self._of_item(item, f"input {number}")
                yield Unlabelled({"id": own_id(item, number), **columns}, columns)
            return
        with as_run_errors():
            found = [given] if given.exists() and not given.is_dir() else find(str(given), key="input")
            for place, file in places_of(found).items():
                source = {"file": place} if len(found) > 1 else {}
                for name, columns in self._of_table(file) if kind_of(file) in TABLES else self._of_lines(file):
                    yield Unlabelled({**source, "id": name, **columns}, columns)

    def _of_table(self, file: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
        for own, number, values in named_rows(file, {f"{self.key}{role}": name for role, name in self.names.items()}):
            for (role, name), value in zip(self.names.items(), values, strict=True):
                if not self.accepts(value):
                    place = f"{file}, {word_of(file)} {number}"
                    kind = type(value).__name__
                    raise RunError(refusal(f"{self.key}{role}", name, value, kind, self.needed, place))
            yield own, dict(zip(self.names, values, strict=True))

    def _of_item(self, item: Any, name: str) -> dict[str, Any]:
        """Take a text as a line, several as those of the roles, and of a row its columns."""
        if isinstance(item, str):
            refuse_halves(item, name)
            return self.parse(item, list(self.names), name)
        if isinstance(item, Mapping):
            item = [item.get(column) for column in self.names.values()]
        elif len(self.names) == 1:
            item = [item]
        if not isinstance(item, (list, tuple)) or len(item) != len(self.names) or not all(map(self.accepts, item)):
            columns = ", ".join(self.names.values())
            raise RunError(f"got {name}, which is no {' and '.join(self.names)}: give texts, or rows with {columns}")
        return dict(zip(self.names, item, strict=True))

    def _of_lines(self, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        blank, roles = 0, list(self.names)
        for number, line in enumerate(lines(file), start=1):
            blank += line.isspace()
            if not line.isspace():
                yield number, self.parse(line.rstrip("\r\n"), roles, f"{file}, line {number}")
        if blank:
            say(f"input={file}: {blank} blank lines left out")


def _whole(line: str, roles: list[str], place: str) -> dict[str, Any]:
    return {roles[0]: line}


def refuse_halves(text: str, name: str) -> None:
    """Refuse a text that cannot be written as UTF-8, as no tokenizer reads it: halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"{name} holds half of a surrogate pair, which is no text"
        raise RunError(f"{what}: decode it anew, or leave it out") from error


@dataclass(kw_only=True)
class ReadTexts(Reading):
    """Texts of at most `max_tokens` tokens with special ones (null: as many as a hand-off was trained on, or as the
    network of a library has positions).

    Longer ones are cut, and counted aloud. `column` is that of tables.
    """

    ahead: ClassVar[int] = 4096
    column: str = "text"
    max_tokens: int | None = None

    def read(self, path: Path, preprocess: TextPreprocess) -> Iterator[tuple[dict[str, Any], str]]:
        """Read tables with the column, or a text per line."""
        for shown, columns in Lines(names={"column": self.column}, parse=_whole, key="inputs.").read(path):
            yield {"text" if name == "column" else name: value for name, value in shown.items()}, columns["column"]

    def take(self, item: Any, name: str, preprocess: TextPreprocess) -> str:
        """Take a text."""
        if not isinstance(item, str):
            raise RunError(f"{name} is {type(item).__name__}, and this network reads text: give a str")
        refuse_halves(item, name)
        return str(item)

    def encode(self, values: Sequence[str], names: Sequence[str], preprocess: TextPreprocess, backbone: Any) -> Encoded:
        """Tokenise with the special tokens that frame a text."""
        limit = self._limit(preprocess, backbone)
        rows, cut = list[np.ndarray](), 0
        for start in range(0, len(values), AT_ONCE):
            found, over = preprocess.framed(list(values[start : start + AT_ONCE]), limit)
            rows += [np.array(row, np.int32) for row in found]
            cut += over
        tell_cut(cut, len(rows), f"texts have more than inputs.max_tokens={limit} tokens")
        empty = next((name for name, row in zip(names, rows, strict=True) if not len(row)), None)
        if empty is not None:
            raise RunError(f"{empty} has a text of which this tokenizer makes no token: leave it out")
        pad_id = padding_of(preprocess)

        def stack(chosen: np.ndarray) -> dict[str, Any]:
            return token_batch([rows[row] for row in chosen], pad_id, most=limit)[0]["inputs"]

        return Encoded(np.array(list(map(len, rows))), stack)

    def _limit(self, preprocess: TextPreprocess, backbone: Any) -> int:
        """Decide how many tokens a text may have."""
        positions, specials = getattr(backbone, "max_tokens", None), preprocess.tokenizer.num_special_tokens_to_add()
        wanted = longest_text(preprocess, backbone) or LONGEST if self.max_tokens is None else self.max_tokens
        if wanted <= specials or (positions is not None and wanted > positions):
            most = "" if positions is None else f" and at most {positions}, the positions that this network has"
            raise RunError(f"got inputs.max_tokens={wanted}: give more than its {specials} special tokens{most}")
        return wanted
