"""Near duplicates: signatures estimate Jaccard's similarity, close copies go, different texts stay."""

import json

import numpy as np
import pytest

from pretraining.text.corpus.duplicates import BINS, SHINGLE, NearDuplicates, signatures
from pretraining.text.corpus.prepare import Preparation, prepare_split
from pretraining.text.data.base import TextFiles
from pretraining.text.tokenizer_recipes import WordPiece

RNG = np.random.default_rng(0)


def text(words):
    return " ".join("".join(RNG.choice(list("abcdefghijklmnop"), RNG.integers(3, 9))) for _ in range(words))


def shingles(content):
    return {content[start : start + SHINGLE] for start in range(len(content) - SHINGLE + 1)}


def test_agreement_of_signatures_estimates_the_similarity():
    errors = []
    for kept in (50, 120, 160, 190):
        first = text(200)
        second = " ".join(first.split()[:kept]) + " " + text(200 - kept)
        contents = [part.encode() for part in (first, second)]
        left, right = map(shingles, contents)
        one, other = signatures(contents)
        errors.append((one == other).mean() - len(left & right) / len(left | right))
    assert max(map(abs, errors)) < 4 * 0.5 / np.sqrt(BINS)


def test_the_signature_of_a_text_does_not_depend_on_its_neighbours():
    contents = [text(60).encode() for _ in range(5)]
    together = signatures(contents)
    for place, content in enumerate(contents):
        assert (signatures([content])[0] == together[place]).all()


def test_close_copies_go_and_different_texts_stay():
    texts = [text(120) for _ in range(100)]
    copies = [" ".join([*one.split()[:-3], "changed", "at", "end"]).upper() for one in texts]
    found = NearDuplicates(0.7)
    assert found.add(texts).all()
    assert found.add(copies).mean() <= 0.02  # of similarity 0.95
    assert found.add([text(120) for _ in range(100)]).all()
    assert found.add(["short"] * 3).all(), "a text of few words is left to the exact comparison"


def test_preparation_drops_near_duplicates_when_asked(tmp_path):
    texts = [text(100) for _ in range(40)]
    lines = [*texts, *(f"{one} And a word more." for one in texts)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))

    def corpus(**options):
        part = Preparation(workers=1, validation_share=0.0, test_share=0.0, **options)
        data = TextFiles(
            path=str(tmp_path / "a.jsonl"),
            max_tokens=32,
            batch_size=1,
            eval_batch_size=1,
            workers=0,
            cache_dir=str(tmp_path),
            preparation=part,
        )
        return prepare_split(data, "train", WordPiece(vocab_size=100, lowercase=True, sample_bytes=10**4).fit(data))

    assert corpus().num_documents == 80
    assert 40 <= corpus(near_duplicates=0.7).num_documents <= 42
    with pytest.raises(ValueError, match=r"near_duplicates=1\.5 must be a similarity between 0 and 1"):
        Preparation(near_duplicates=1.5)
