"""A mixture serves each source in its share, all of it before any of it again, wherever it is continued."""

import json

import numpy as np
import pytest

from pretraining.text.corpus.prepare import Preparation
from pretraining.text.data.mixture import Mixture
from pretraining.text.plan import TextExamples, one_document_per_row, take_rows
from pretraining.text.tokenizer_recipes import WordPiece


def write(path, word, count):
    path.write_text("".join(json.dumps({"text": f"{word} number {i} is here."}) + "\n" for i in range(count)))
    return {"path": str(path)}


def mixture(tmp_path, sources):
    part = Preparation(workers=1, validation_share=0.1, test_share=0.0)
    return Mixture(
        sources=sources,
        max_tokens=32,
        batch_size=4,
        eval_batch_size=4,
        workers=0,
        cache_dir=str(tmp_path / "cache"),
        preparation=part,
    )


@pytest.fixture
def opened(tmp_path):
    small, large = write(tmp_path / "small.jsonl", "apple", 60), write(tmp_path / "large.jsonl", "pear", 600)
    data = mixture(tmp_path, [{**small, "weight": 7}, {**large, "weight": 3}])
    preprocess = WordPiece(vocab_size=200, lowercase=True, sample_bytes=10**5).fit(data)
    return data, preprocess, data.source("train", preprocess, plan, seed=1)


def plan(corpus, seed, epoch):
    return one_document_per_row(corpus, 32)


def texts(preprocess, examples):
    return [
        preprocess.tokenizer.decode(row) for row in np.split(examples.tokens, np.cumsum(examples.piece_lengths)[:-1])
    ]


def test_an_epoch_has_each_source_in_its_share_and_repeats_nothing(opened):
    _, preprocess, source = opened
    found = texts(preprocess, source.read(0, np.arange(source.count(0))))
    assert len(set(found)) == len(found)
    assert sum("apple" in text for text in found) / len(found) == pytest.approx(0.7, abs=0.02)


def test_a_large_source_goes_on_in_the_next_epoch_until_all_of_it_was_served(opened):
    data, preprocess, source = opened
    total = data.sources[1].corpus("train", preprocess).num_documents
    epochs = [texts(preprocess, source.read(epoch, np.arange(source.count(epoch)))) for epoch in range(40)]
    served = [text for epoch in epochs for text in epoch if "pear" in text][:total]
    assert len(served) == total == len(set(served))


def test_a_row_is_the_same_however_it_is_asked_for(opened):
    _, preprocess, source = opened
    rows = np.random.default_rng(0).permutation(source.count(3))
    together = texts(preprocess, source.read(3, rows))
    assert together == [texts(preprocess, source.read(3, rows[[place]]))[0] for place in range(len(rows))]
    assert together != texts(preprocess, source.read(4, rows))


def test_rows_tell_the_lengths_of_an_epoch(opened):
    _, _, source = opened
    examples, rows = source.read(0, np.arange(source.count(0))), source.rows(0)
    assert len(rows.offsets) == source.count(0) + 1
    assert sorted(rows.lengths) == sorted(examples.piece_lengths)


def test_the_entropy_is_that_of_the_mixed_distribution(opened):
    _, _, source = opened
    counts = [np.load(corpus.directory / "counts.npy") for corpus in source.corpus.corpora]
    shares = source.shares / source.shares.sum()
    mixed = sum(share * count / count.sum() for share, count in zip(shares, counts, strict=True))
    expected = -sum(p * np.log(p) for p in mixed if p)
    assert source.corpus.unigram_entropy() == pytest.approx(expected)


def test_rows_of_examples_are_taken_with_their_pieces_and_columns():
    examples = TextExamples(np.arange(10), np.array([1, 2, 3, 4]), np.array([2, 1, 1]), {"label": np.array([5, 6, 7])})
    taken = take_rows(examples, np.array([2, 0]))
    assert taken.tokens.tolist() == [6, 7, 8, 9, 0, 1, 2] and taken.piece_lengths.tolist() == [4, 1, 2]
    assert taken.row_pieces.tolist() == [1, 2] and taken.columns["label"].tolist() == [7, 5]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "x.txt"}, r"data\.sources\[0\] has weight None: give each source a weight above 0"),
        ({"path": "x.txt", "weight": 0}, r"weight 0: give each source a weight above 0"),
        ({"folder": "x", "weight": 1}, r"data\.sources\[0\] has the keys \['folder'\]: give path"),
    ],
)
def test_a_source_that_says_too_little_is_refused(tmp_path, source, message):
    with pytest.raises(ValueError, match=message):
        mixture(tmp_path, [source])


def test_a_mixture_trains_from_the_command_line(tmp_path, cache_dir):
    from pretraining.cli.configuration import compose
    from pretraining.launch import main
    from tests.runs import text_overrides, write_corpus

    corpus = write_corpus(tmp_path)
    base = [
        one for one in text_overrides(corpus, cache_dir) if not one.startswith("data.path") and one != "data=text_files"
    ]
    sources = f"data.sources=[{{path: {corpus}, weight: 0.7}}, {{builtin: stdlib_docs, weight: 0.3}}]"
    run_dir = main(
        compose(
            [
                "data=mixture",
                sources,
                *base,
                "trainer.max_steps=2",
                "trainer.val_every=0",
                f"run_dir={tmp_path / 'run'}",
            ]
        )
    )
    assert (run_dir / "handoff" / "last" / "handoff.json").is_file()
