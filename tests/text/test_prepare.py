"""Preparation: what is written is the text, whoever writes it, however often it is killed, and only once."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from pretraining.cache import sha256
from pretraining.data.splits import SPLITS
from pretraining.text.corpus import prepare as preparing
from pretraining.text.corpus import shards
from pretraining.text.corpus.prepare import Preparation, Seen, prepare_split
from pretraining.text.data.base import TextFiles
from pretraining.text.tokenizer_recipes import ByteBPE, WordPiece

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu"]


def documents(count, seed=0):
    """Make documents of one to six sentences of three to nine words."""
    rng = np.random.default_rng(seed)

    def sentences():
        return [" ".join(rng.choice(WORDS, rng.integers(3, 9))).capitalize() + "." for _ in range(rng.integers(1, 7))]

    return [" ".join([*sentences(), f"Number {i}."]) for i in range(count)]


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(1500)))
    return path


@pytest.fixture
def small(monkeypatch):
    """Make units and shards small enough that there are many."""
    monkeypatch.setattr(preparing, "UNIT_BYTES", 2000)
    monkeypatch.setattr(preparing, "FEW_UNITS", 2)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 3000)


def files(path, cache_dir, **preparation):
    settings = {"validation_share": 0.1, "test_share": 0.1, "workers": 1} | preparation
    part = Preparation(**settings)
    return TextFiles(
        path=str(path),
        max_tokens=32,
        batch_size=4,
        eval_batch_size=4,
        workers=0,
        cache_dir=str(cache_dir),
        preparation=part,
    )


@pytest.fixture(scope="module")
def preprocess(corpus_file, tmp_path_factory):
    return WordPiece(vocab_size=300, lowercase=True, sample_bytes=10**6).fit(
        files(corpus_file, tmp_path_factory.mktemp("tokenizer"))
    )


def prepare(data, preprocess):
    return {split: prepare_split(data, split, preprocess) for split in SPLITS}


def bytes_of(corpus):
    return {name: (corpus.directory / name).read_bytes() for name in corpus.manifest["sha256"]}


def test_a_corpus_holds_exactly_the_tokens_of_its_sentences(small, corpus_file, preprocess, tmp_path):
    data = files(corpus_file, tmp_path)
    corpora = prepare(data, preprocess)
    assert sum(corpus.num_documents for corpus in corpora.values()) == 1500
    assert len(corpora["train"].shards) > 3
    for split, corpus in corpora.items():
        expected = list(data.documents(split))
        assert corpus.num_documents == len(expected)
        assert np.diff(corpus.document_offsets).tolist() == [len(sentences) for sentences in expected]
        encoded = preprocess.encode([sentence for sentences in expected for sentence in sentences])
        assert np.diff(corpus.sentence_offsets).tolist() == [len(ids) for ids in encoded]
        lengths = np.diff(corpus.sentence_offsets)
        assert np.array_equal(corpus.read(corpus.sentence_offsets[:-1], lengths), np.concatenate(encoded))
        assert np.array_equal(corpus.read(corpus.sentence_offsets[7:8], lengths[7:8]), encoded[7])
        assert all(sha256(corpus.directory / name) == digest for name, digest in corpus.manifest["sha256"].items())


def test_runs_are_read_in_the_order_asked_for_from_one_shard_and_from_many(
    small, corpus_file, preprocess, tmp_path, monkeypatch
):
    many = prepare_split(files(corpus_file, tmp_path / "many"), "train", preprocess)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 10**9)
    one = prepare_split(files(corpus_file, tmp_path / "one"), "train", preprocess)
    assert len(many.shards) > len(one.shards) == 1
    order = np.random.default_rng(0).permutation(one.num_sentences)[:200]
    starts, lengths = one.sentence_offsets[order], np.diff(one.sentence_offsets)[order]
    expected = np.concatenate(
        [one.shards[0][start : start + length] for start, length in zip(starts, lengths, strict=True)]
    )
    assert np.array_equal(one.read(starts, lengths), expected)
    assert np.array_equal(many.read(starts, lengths), expected)
    assert one.read(starts[:0], lengths[:0]).shape == many.read(starts[:0], lengths[:0]).shape == (0,)


def test_one_and_four_processes_write_the_same_bytes(small, corpus_file, preprocess, tmp_path):
    one = prepare_split(files(corpus_file, tmp_path / "one", workers=1), "train", preprocess)
    four = prepare_split(files(corpus_file, tmp_path / "four", workers=4), "train", preprocess)
    assert one.fingerprint == four.fingerprint
    assert bytes_of(one) == bytes_of(four)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_preparation_goes_on_after_its_last_finished_shard(
    small, corpus_file, preprocess, tmp_path, monkeypatch, workers
):
    whole = prepare_split(files(corpus_file, tmp_path / "whole"), "train", preprocess)
    assert len(whole.shards) >= 5
    close = shards.ShardWriter._close_shard

    def build_and_die():
        def close_and_die(writer):
            close(writer)
            if writer.finished == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(shards.ShardWriter, "_close_shard", close_and_die)
        prepare_split(files(corpus_file, tmp_path / "killed", workers=workers), "train", preprocess)

    child = multiprocessing.get_context("fork").Process(target=build_and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    left = sorted((tmp_path / "killed").glob("corpora/*.partial/shard-*.bin"))
    assert len(left) == 3
    times = {path.name: path.stat().st_mtime_ns for path in left}
    encoded = []
    monkeypatch.setattr(
        preparing, "_encoded", lambda encoder, units, _: (encoded.append(1) or encoder(unit) for unit in units)
    )
    resumed = prepare_split(files(corpus_file, tmp_path / "killed"), "train", preprocess)
    assert {name: (resumed.directory / name).stat().st_mtime_ns for name in times} == times
    assert bytes_of(resumed) == bytes_of(whole)
    units = -(-sum(len(text) + 1 for text in files(corpus_file, tmp_path).texts("train")) // 2000)
    assert 0 < len(encoded) <= units * (len(whole.shards) - 3) / len(whole.shards) + 2


def test_two_processes_that_build_at_once_build_once(small, corpus_file, preprocess, tmp_path, monkeypatch, capfd):
    context = multiprocessing.get_context("fork")
    barrier, log = context.Barrier(2), tmp_path / "log"
    build = preparing._build

    def logged(*arguments):
        with log.open("a") as file:
            file.write("built\n")
        build(*arguments)

    monkeypatch.setattr(preparing, "_build", logged)

    def run(queue):
        barrier.wait()
        queue.put(prepare_split(files(corpus_file, tmp_path / "cache"), "train", preprocess).num_tokens)

    queue = context.Queue()
    children = [context.Process(target=run, args=(queue,)) for _ in range(2)]
    for child in children:
        child.start()
    tokens = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    assert tokens[0] == tokens[1]
    assert log.read_text() == "built\n"
    assert "another process is building" in capfd.readouterr().err


def test_the_cache_is_reused_and_rebuilt_when_anything_that_matters_changes(
    corpus_file, preprocess, tmp_path, monkeypatch
):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(corpus_file.read_bytes())
    first = prepare_split(files(path, tmp_path), "validation", preprocess)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_build", None)  # not to be called
        assert prepare_split(files(path, tmp_path), "validation", preprocess).fingerprint == first.fingerprint
        assert (
            prepare_split(files(path, tmp_path, workers=3), "validation", preprocess).fingerprint == first.fingerprint
        )
    other = ByteBPE(vocab_size=300, lowercase=True, sample_bytes=10**6).fit(files(path, tmp_path))
    fingerprints = {
        first.fingerprint,
        prepare_split(files(path, tmp_path), "test", preprocess).fingerprint,
        prepare_split(files(path, tmp_path, deduplicate=False), "validation", preprocess).fingerprint,
        prepare_split(files(path, tmp_path, validation_share=0.2), "validation", preprocess).fingerprint,
        prepare_split(files(path, tmp_path), "validation", other).fingerprint,
    }
    path.write_bytes(path.read_bytes().replace(b"alpha", b"omega"))
    fingerprints.add(prepare_split(files(path, tmp_path), "validation", preprocess).fingerprint)
    assert len(fingerprints) == 6


def test_equal_documents_are_kept_once_unless_asked_otherwise(tmp_path, preprocess, small):
    texts = documents(200)
    path = tmp_path / "twice.jsonl"
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in [*texts, *(f" {text} \n" for text in texts), texts[0]])
    )
    assert sum(corpus.num_documents for corpus in prepare(files(path, tmp_path), preprocess).values()) == 200
    assert (
        sum(corpus.num_documents for corpus in prepare(files(path, tmp_path, deduplicate=False), preprocess).values())
        == 401
    )


def test_seen_digests_are_a_set():
    rng = np.random.default_rng(0)
    seen, reference = Seen(), set()
    for _ in range(50):
        digests = rng.integers(0, 3000, 100).astype(np.uint64)
        expected = [not (digest in reference or reference.add(digest)) for digest in digests.tolist()]
        assert seen.add(digests).tolist() == expected
    assert len(seen._runs) < 12


def test_the_unigram_entropy_is_that_of_the_split(tmp_path, preprocess):
    (tmp_path / "a.txt").write_text("alpha alpha beta gamma")
    corpus = prepare_split(files(tmp_path / "a.txt", tmp_path, validation_share=0, test_share=0), "train", preprocess)
    counts = np.unique(corpus.read(np.array([0]), np.array([corpus.num_tokens])), return_counts=True)[1]
    assert sorted(counts.tolist()) == [1, 1, 2]
    assert corpus.unigram_entropy() == pytest.approx(1.5 * np.log(2))


def test_large_vocabularies_take_four_bytes_per_token(tmp_path):
    writer = shards.ShardWriter(tmp_path, dtype="uint32", vocab_size=70_000)
    writer.add(shards.Tokenized(np.array([5, 69_999], np.uint32), np.array([2], np.int32), np.array([1], np.int32)))
    writer.finish({"fingerprint": "x"})
    corpus = preparing.Corpus(tmp_path)
    assert corpus.read(np.array([0]), np.array([2])).tolist() == [5, 69_999]
    assert (tmp_path / "shard-00000.bin").stat().st_size == 8


def test_an_empty_split_and_cut_shards_are_refused(tmp_path, preprocess):
    (tmp_path / "a.txt").write_text("alpha beta gamma")
    with pytest.raises(
        ValueError, match=r"the validation split of the data has no documents: .*data\.preparation\.validation_share"
    ):
        prepare_split(files(tmp_path / "a.txt", tmp_path, validation_share=0, test_share=0), "validation", preprocess)
    corpus = prepare_split(files(tmp_path / "a.txt", tmp_path, validation_share=0, test_share=0), "train", preprocess)
    shard = corpus.directory / "shard-00000.bin"
    shard.write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"holds 1 bytes where its manifest says 6: delete"):
        preparing.Corpus(corpus.directory)


def test_fewer_rows_than_a_batch_are_refused(tmp_path, preprocess):
    from pretraining.text.plan import pack_documents

    (tmp_path / "a.txt").write_text("alpha beta gamma")
    data = files(tmp_path / "a.txt", tmp_path, validation_share=0, test_share=0)
    with pytest.raises(
        ValueError, match=r"has 1 rows of data\.max_tokens=32 .*data\.batch_size=4: give more text \(data\.path=\)"
    ):
        data.source("train", preprocess, lambda corpus, seed, epoch: pack_documents(corpus, 32), seed=0)
