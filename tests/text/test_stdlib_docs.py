"""The built-in text: what is kept of docstrings, the splits, and the labelled task."""

import re
from collections import Counter

import pytest

from pretraining.text.data.docs_topic import ALIASES, FAMILIES, LARGEST_CLASS, docs_topic, masked
from pretraining.text.data.docstrings import Docstring, clean, language_topics, library_docstrings
from pretraining.text.data.stdlib_docs import StdlibDocs, stdlib_documents, stdlib_split

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def data(cache_dir):
    return StdlibDocs(max_tokens=64, batch_size=8, eval_batch_size=8, workers=0, cache_dir=str(cache_dir))


def test_doctests_signatures_code_and_markup_are_removed():
    docstring = """split(text, sep=None) -> list of words

    Cut ``text`` at each *sep*, see :func:`~os.path.join`::

        for word in split(text):
            print(word)

    =====  ======
    >>> split("a b")
    ['a', 'b']

    - the first item
      goes on
    - the second
    """
    assert clean(docstring).split("\n\n") == [
        "Cut text at each sep, see os.path.join:",
        "the first item goes on",
        "the second",
    ]


def test_a_signature_before_its_description_leaves_the_description():
    assert clean("find(sub) -- Return the lowest index.") == "Return the lowest index."
    assert clean("Return f(x) for each x.") == "Return f(x) for each x."


def test_sources_are_read_without_being_run_and_broken_ones_are_passed_over(tmp_path):
    (tmp_path / "loud.py").write_text('"""One two three four."""\nraise SystemExit("imported")\n')
    (tmp_path / "broken.py").write_text('"""Not to be read at all."""\nif:\n')
    (tmp_path / "pkg").mkdir()
    nested = 'class A:\n    """Five six seven."""\n    async def f(self):\n        """Eight nine ten."""\n'
    (tmp_path / "pkg" / "__init__.py").write_text(nested)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "hidden.py").write_text('"""Never to be seen here."""\n')
    found = [(document.module, document.text) for document in library_docstrings(tmp_path)]
    assert found == [("loud", "One two three four."), ("pkg", "Five six seven."), ("pkg", "Eight nine ten.")]


def test_topics_become_a_document_per_section(tmp_path):
    topic = "First title\n***********\n\nSome prose here.\n\n\nSecond title\n============\n\nOther prose there.\n"
    (tmp_path / "topics.py").write_text(f"topics = {{'a': {topic!r}}}\n")
    texts = [document.text for document in language_topics(tmp_path / "topics.py")]
    assert texts == ["First title\n\nSome prose here.", "Second title\n\nOther prose there."]


def test_there_are_thousands_of_distinct_documents_of_prose(cache_dir):
    documents = stdlib_documents(cache_dir)
    texts = [document.text for document in documents]
    assert len(texts) > 5000
    assert sum(len(text.split()) for text in texts) > 200_000
    assert len({" ".join(text.casefold().split()) for text in texts}) == len(texts)
    assert not any(line.startswith(">>>") for text in texts for line in text.splitlines())
    assert {document.module for document in documents} >= {"asyncio.events", "pydoc_data.topics", "email.message"}


def test_each_document_is_in_one_split_and_the_shares_are_as_said(data, cache_dir):
    parts = {split: list(data.texts(split)) for split in SPLITS}
    total = sum(map(len, parts.values()))
    assert total == len(stdlib_documents(cache_dir)) == len(set().union(*parts.values()))
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        deviation = 4 * (share * (1 - share) / total) ** 0.5  # four standard deviations of a fair hash
        assert abs(len(parts[split]) / total - share) < deviation


def test_documents_have_sentence_boundaries(data):
    documents = list(data.documents("validation"))
    assert sum(map(len, documents)) > 2 * len(documents)
    assert all(sentence and sentence == sentence.strip() for sentences in documents for sentence in sentences)


def test_topic_examples_come_from_the_same_split_of_the_documents(cache_dir):
    by_masked_text = {}
    for document in stdlib_documents(cache_dir):
        if any(document.module.split(".")[0] in modules.split() for modules in FAMILIES.values()):
            by_masked_text.setdefault(masked(document), set()).add(stdlib_split(document))
    for split in SPLITS:
        texts = docs_topic(split, cache_dir=str(cache_dir)).texts
        assert texts
        assert all(split in by_masked_text[text] for text in texts)


def test_topic_classes_are_many_and_none_dominates(cache_dir):
    train, validation, test = (docs_topic(split, cache_dir=str(cache_dir)) for split in SPLITS)
    assert 10 <= len(train.class_names) <= 20
    assert len(test.texts) >= 600
    counts = Counter(train.labels + validation.labels + test.labels)
    assert set(counts) == set(range(len(train.class_names)))
    assert max(counts.values()) == LARGEST_CLASS
    assert min(counts.values()) > 200
    assert docs_topic("test", cache_dir=str(cache_dir)) == test


def test_no_topic_example_holds_the_name_of_its_module_or_family(cache_dir):
    checked = 0
    for document in stdlib_documents(cache_dir):
        parts = document.module.split(".")
        family = next((modules.split() for modules in FAMILIES.values() if parts[0] in modules.split()), None)
        if family:
            names = {*parts, *family, *ALIASES.get(parts[0], ()), parts[0].strip("_")}
            words = set(re.findall(r"\w+", masked(document).casefold()))
            assert not words & {name.casefold() for name in names}, document
            checked += 1
    assert checked > 5000


def test_names_are_masked_in_every_spelling_and_other_words_are_kept():
    document = Docstring(
        "http.client", "HTTPConnection of http.client, an HTTPS client; https and clients. Clientele, close."
    )
    assert masked(document) == "XConnection of X, an X X; X and X. Clientele, close."
    assert masked(Docstring("os", "Close the os.path of posixpath; cost")) == "Close the X.path of X; cost"
