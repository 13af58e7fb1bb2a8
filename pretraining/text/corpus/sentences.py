"""Where sentences end: a splitter is any callable `text -> list of sentences` (`preparation.sentence_splitter`)."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

SentenceSplitter = Callable[[str], list[str]]

ABBREVIATIONS = (
    "mr mrs ms dr prof st jr sr rev gen col capt lt sgt hon vs cf eg ie e.g i.e viz al fig figs eq eqs sec secs ch vol "
    "vols no nos pp p ed eds inc ltd co corp dept univ approx ca jan feb mar apr jun jul aug sep sept oct nov dec"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")
# A full stop and closing marks, where a space and then a capital, a digit or an opening mark follow; a Chinese or
# Japanese full stop with its closing marks, always; the full stops of Devanagari, Arabic and relatives before a space.
_END = re.compile(r"""[.!?]+["'”’»)\]]*(?=\s+["'“‘«(\[]*[^\W_a-z])|[。！？｡]+["'”’」』）)]*|[।॥؟۔](?=\s)""")
_LAST_WORD = re.compile(r"([^\s(\[\"'“‘]+)\.$")


@dataclasses.dataclass(frozen=True)
class RuleSplitter:
    """Cuts at blank lines and after sentence-final punctuation, unless an abbreviation or an initial stands before it.

    Made for English, fits languages with the same punctuation, and cuts Chinese and Japanese at their own full stops.
    `abbreviations` come on top of the English ones, without their last full stop.
    """

    abbreviations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "abbreviations", tuple(self.abbreviations))  # yaml has lists only

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(ABBREVIATIONS.split()) | {word.lower().rstrip(".") for word in self.abbreviations}

    def __call__(self, text: str) -> list[str]:
        """List the sentences of a text, white space collapsed."""
        return [sentence for block in _BLANK_LINE.split(text) for sentence in self._of_block(" ".join(block.split()))]

    def _of_block(self, block: str) -> list[str]:
        sentences, start = [], 0
        for match in _END.finditer(block):
            end = match.end()
            if match[0] == "." and self._abbreviated(block[max(start, end - 24) : end]):
                continue
            sentences.append(block[start:end].lstrip())
            start = end
        sentences.append(block[start:].lstrip())
        return [sentence for sentence in sentences if sentence]

    def _abbreviated(self, ending: str) -> bool:
        last = _LAST_WORD.search(ending)
        if last is None:
            return False
        word = last[1]
        return word.lower() in self._known or (len(word) == 1 and word.isalpha() and word.isupper() and word != "I")


@dataclasses.dataclass(frozen=True)
class LineSplitter:
    """One sentence per line."""

    def __call__(self, text: str) -> list[str]:
        """List the lines that are not blank."""
        return [line for line in map(str.strip, text.split("\n")) if line]


@dataclasses.dataclass(frozen=True)
class PysbdSplitter:
    """The rules of `pysbd` for one of its languages ("en", "de", "zh", …): more careful, some seventy times slower."""

    language: str

    @functools.cached_property
    def _segmenter(self) -> Any:
        import pysbd  # an optional dependency, needed by nothing else

        return pysbd.Segmenter(language=self.language, clean=False)

    def __call__(self, text: str) -> list[str]:
        """List the sentences of a text, white space collapsed."""
        blocks = (" ".join(block.split()) for block in _BLANK_LINE.split(text))
        return [part for block in blocks if block for part in map(str.strip, self._segmenter.segment(block)) if part]


def describe(splitter: SentenceSplitter) -> str:
    """Name a splitter and its settings, so that a cache can tell it from others."""
    if dataclasses.is_dataclass(splitter):
        return repr(splitter)
    if isinstance(splitter, functools.partial):
        return f"{describe(splitter.func)}{splitter.args}{sorted(splitter.keywords.items())}"
    named = splitter if hasattr(splitter, "__qualname__") else type(splitter)
    settings = sorted(getattr(splitter, "__dict__", {}).items())
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}({settings})"
