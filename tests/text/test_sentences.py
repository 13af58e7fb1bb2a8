"""Where sentences end, in English and in Chinese."""

import functools

import pytest

from pretraining.text.corpus.sentences import LineSplitter, PysbdSplitter, RuleSplitter, describe


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One ends. Two ends! Three?", ["One ends.", "Two ends!", "Three?"]),
        (
            "Dr. Smith met J. Doe at 5 p.m. on Monday. It was e.g. fine.",
            ["Dr. Smith met J. Doe at 5 p.m. on Monday.", "It was e.g. fine."],
        ),
        ("See Fig. 3 of No. 5. Version 3.5 is new. ok", ["See Fig. 3 of No. 5.", "Version 3.5 is new. ok"]),
        ('"Is it?" he asked. (Yes.) "No!" She left.', ['"Is it?" he asked.', "(Yes.)", '"No!"', "She left."]),
        ("So do I. Then he left.", ["So do I.", "Then he left."]),
        (
            "A line\nbroken   here.\n\nA title without stop\n \nMore",
            ["A line broken here.", "A title without stop", "More"],
        ),
        ("你好世界。今天天气很好！“是吗？”他说。最后", ["你好世界。", "今天天气很好！", "“是吗？”", "他说。", "最后"]),
        ("これは。テスト？はい", ["これは。", "テスト？", "はい"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_rules_cut_where_a_reader_would(text, sentences):
    assert RuleSplitter()(text) == sentences


def test_nothing_but_white_space_is_lost():
    text = 'Mr. A. said: "Go (now)!" 3 times... Then. etc. And so on?! 好。的'
    assert "".join("".join(RuleSplitter()(text)).split()) == "".join(text.split())


def test_further_abbreviations_are_taken():
    assert RuleSplitter()("Art. Eins. Zwei.") == ["Art.", "Eins.", "Zwei."]
    assert RuleSplitter(abbreviations=["Art."])("Art. Eins. Zwei.") == ["Art. Eins.", "Zwei."]


def test_lines_are_sentences_for_the_line_splitter():
    assert LineSplitter()("One. Two.\n\n three \n") == ["One. Two.", "three"]


def test_splitters_with_other_settings_have_other_names():
    splitters = [RuleSplitter(), RuleSplitter(abbreviations=("x",)), LineSplitter(), PysbdSplitter(language="en")]
    splitters += [str.split, functools.partial(str.split, sep="。")]
    assert len({describe(splitter) for splitter in splitters}) == len(splitters)
    assert describe(RuleSplitter(abbreviations=["x"])) == describe(RuleSplitter(abbreviations=("x",)))


def test_pysbd_cuts_chinese():
    pytest.importorskip("pysbd", reason="the optional package pysbd is not installed")
    assert PysbdSplitter(language="zh")("你好世界。今天天气很好！") == ["你好世界。", "今天天气很好！"]
