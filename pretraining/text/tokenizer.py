"""Text to token ids: what travels in the hand-off. A recipe (tokenizer_recipes.py) makes one from data."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pretraining.modality import Preprocess
from pretraining.text.modality import TEXT


class TextPreprocess(Preprocess):
    """A fast `transformers` tokenizer and the ids that objectives ask for.

    `bos_id` opens and `eos_id` closes a document; a tokenizer without such a token has None there. `eos_id` is the
    end-of-text token where there is no separator (GPT-2, T5).
    """

    modality = TEXT

    def __init__(self, *, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        self.pad_id: int | None = tokenizer.pad_token_id
        self.cls_id: int | None = tokenizer.cls_token_id
        self.sep_id: int | None = tokenizer.sep_token_id
        self.mask_id: int | None = tokenizer.mask_token_id
        begin = tokenizer.bos_token_id if tokenizer.bos_token_id != tokenizer.eos_token_id else None
        self.bos_id: int | None = begin if self.cls_id is None else self.cls_id
        self.eos_id: int | None = tokenizer.eos_token_id if self.sep_id is None else self.sep_id
        self.special_ids: np.ndarray = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Name the constructor arguments that the saved files do not hold: none."""
        return {}

    def describe(self) -> str:
        """Say how many tokens there are."""
        return f"vocabulary {self.vocab_size:,}"

    @property
    def specials_per_document(self) -> int:
        """Count the tokens that `bos_id` and `eos_id` add to a document."""
        return (self.bos_id is not None) + (self.eos_id is not None)

    @functools.cached_property
    def ordinary_ids(self) -> np.ndarray:
        """List the ids of all but the special tokens. int64, ascending."""
        return np.setdiff1d(np.arange(self.vocab_size), self.special_ids)

    @functools.cached_property
    def sentinel_ids(self) -> np.ndarray:
        """List the ids of <extra_id_0>, <extra_id_1>, ...; empty where there are none. int64."""
        known, sentinels = self.tokenizer.get_vocab(), list[int]()
        while (name := f"<extra_id_{len(sentinels)}>") in known:
            sentinels.append(known[name])
        return np.array(sentinels, dtype=np.int64)

    @functools.cached_property
    def digest(self) -> str:
        """Identify the mapping from text to ids, and the ids of special tokens."""
        special = json.dumps(self.tokenizer.special_tokens_map, sort_keys=True, default=str)
        return hashlib.sha256((self.tokenizer.backend_tokenizer.to_str() + special).encode()).hexdigest()

    @functools.cached_property
    def starts_word(self) -> np.ndarray:
        """Mark the tokens that open a word. bool [vocabulary].

        By the token's own spelling: not "##…" in WordPiece, a leading space in byte-level BPE and SentencePiece.
        Special tokens are words of their own. A scheme without such marks has a word per token.
        """
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(self.vocab_size)))
        if described["model"]["type"] == "WordPiece":
            prefix = described["model"]["continuing_subword_prefix"]
            marks = [not token.startswith(prefix) for token in tokens]
        else:
            steps = json.dumps([described["pre_tokenizer"], described["decoder"]])
            spaces = ("Ġ", "Ċ", "ĉ") if '"ByteLevel"' in steps else ("▁",) if '"Metaspace"' in steps else ("",)
            marks = [token.startswith(spaces) for token in tokens]
        table = np.array(marks, dtype=bool)
        table[self.special_ids] = True
        return table

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Encode texts without special tokens: "[MASK]" in a text is six characters of it."""
        return [np.array(ids, dtype=np.int64) for ids in encode_plain(self.tokenizer.backend_tokenizer, texts)]

    def framed(self, texts: list[str], max_tokens: int) -> tuple[list[list[int]], int]:
        """Encode texts as `tokenize` does, cut to `max_tokens`, special ones included; tells how many were cut."""
        backend = self.tokenizer.backend_tokenizer
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        backend.no_padding()
        backend.enable_truncation(max_tokens, direction=self.tokenizer.truncation_side)
        encoded = backend.encode_batch_fast(texts)
        backend.no_truncation()
        backend.encode_special_tokens = before
        return [one.ids for one in encoded], sum(bool(one.overflowing) for one in encoded)

    def tokenize(self, *texts: Any, **options: Any) -> Any:
        """Call the tokenizer, which frames texts with special tokens; the name of one in a text is text, here too."""
        return self.tokenizer(*texts, split_special_tokens=True, **options)

    def save(self, directory: Path) -> None:
        """Write the files that `transformers.AutoTokenizer.from_pretrained(directory)` reads."""
        self.tokenizer.save_pretrained(directory)

    @classmethod
    def load(cls, directory: Path | str, **kwargs: Any) -> TextPreprocess:
        """Read a saved tokenizer; also any directory or hub name that holds one."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory), use_fast=True)
        except OSError:
            raise
        except Exception as error:  # tokenizers raises nothing narrower
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"the tokenizer in {directory} cannot be read ({reason}): write its tokenizer.json again, or name "
                "another"
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            told = f"preprocess: the tokenizer in {directory} has no fast version (tokenizer.json)"
            raise ValueError(f"{told}: convert it with transformers first")
        return cls(tokenizer=reading_names_as_text(tokenizer))


def longest_text(preprocess: TextPreprocess, backbone: Any) -> int | None:
    """Tell how many tokens the rows of training had, or else the network has positions for; None: any number."""
    taught, positions = preprocess.trained_with.get("max_tokens"), getattr(backbone, "max_tokens", None)
    return min((number for number in (taught, positions) if number is not None), default=None)


def reading_names_as_text(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Keep names of special tokens in texts from being such where they are among the model's own pieces (T5, XLM-R).

    Cut behind its first character, no text has one whole.
    """
    backend, known = tokenizer.backend_tokenizer, [*dict.fromkeys(tokenizer.all_special_tokens)]
    own, read = {name: tokenizer.convert_tokens_to_ids(name) for name in known}, encode_plain(backend, known)
    whole = [name for name, ids in zip(known, read, strict=True) if own[name] in ids and len(name) > 1]
    names = [name for name in whole if name != tokenizer.unk_token]
    if names:
        opening = Regex("|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names))
        steps = [
            step for step in (backend.pre_tokenizer, pre_tokenizers.Split(opening, "isolated")) if step is not None
        ]
        backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def encode_plain(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Encode texts as nothing but text, whatever names of special tokens they hold."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()  # a pretrained tokenizer's file, or an earlier call, may have set either
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    tokenizer.encode_special_tokens = before
    return [one.ids for one in encoded]
