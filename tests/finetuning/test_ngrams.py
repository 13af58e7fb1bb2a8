"""A language for the decoder: an n-gram model by its definition, and a search that is exact beside brute force."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from finetuning.launch import load_run
from finetuning.tasks.ctc import CtcDecoding, prefix_beam_search
from finetuning.tasks.ngrams import CharacterNgrams, count_ngrams
from pretraining.errors import RunError
from tests.finetuning.conftest import Finetune
from tests.finetuning.test_audio import audio_handoff as audio_handoff
from tests.finetuning.test_audio import by_all_alignments, drawn_chances, numbers

TEXTS, CHARACTERS = ["abba", "abc", "ab", "cab", "b a"], [" ", "a", "b", "c", "d"]


def written_out(context: str, following: str, order: int) -> float:
    """Witten and Bell's chance, by looking through the texts: `$` is a border, before a text and behind it."""
    lower = 1 / 6 if not context else written_out(context[1:], following, order)
    framed = ["$" * (order - 1) + text + "$" for text in TEXTS]
    found = [
        text[place]
        for text in framed
        for place in range(order - 1, len(text))
        if text[place - len(context) : place] == context
    ]
    kinds = len(set(found))
    return (found.count(following) + kinds * lower) / (len(found) + kinds) if found else lower


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_chances_are_those_of_witten_and_bell_and_add_up_to_one(order):
    model = CharacterNgrams(count_ngrams(TEXTS, order), CHARACTERS)
    for count in range(4):
        for text in itertools.product(CHARACTERS, repeat=count):
            context = ("$" * order + "".join(text))[-(order - 1) :] if order > 1 else ""
            said = np.exp(model([1 + CHARACTERS.index(character) for character in text]))
            assert said.sum() == pytest.approx(1.0)
            expected = [written_out(context, following, order) for following in ["$", *CHARACTERS]]
            np.testing.assert_allclose(said, expected)


def test_a_wide_search_finds_the_text_that_is_worth_most_of_all():
    """Against every text that any alignment makes, each with the language's word on all of it, its end included."""
    differ = 0
    for seed in range(30):
        chances = drawn_chances(seed, sharpness=1.0)
        decoding = CtcDecoding(beam=2000, ngram=3, alpha=0.7, beta=0.4)
        decoding.language = CharacterNgrams(count_ngrams(TEXTS[:4], 3), CHARACTERS[1:4])  # 3 symbols beside blank
        worth = {}
        for text, chance in by_all_alignments(chances).items():
            said = sum(decoding.language(text[:place])[symbol] for place, symbol in enumerate(text))
            worth[text] = math.log(chance) + 0.7 * (said + decoding.language(text)[0]) + 0.4 * len(text)
        found = tuple(decoding(chances))
        assert found == max(worth, key=worth.get)
        differ += found != tuple(prefix_beam_search(chances, 2000))
    assert differ > 5


def test_a_run_learns_its_transcripts_language_and_keeps_it(finetune: Finetune, audio_handoff: Path, tmp_path: Path):
    words = ["task=spoken_letters", f"handoff={audio_handoff}", "data.size=24", "trainer.max_steps=2"]
    words += ["trainer.val_every=2", "task.decoding.beam=4", "task.decoding.ngram=3"]
    run = finetune(*words)
    assert math.isfinite(numbers(run)["test/wer"])
    _, task = load_run(run)
    kept = json.loads((run / "model" / "task.json").read_text())["labels"]["ngrams"]
    assert sum(kept.values()) > 24 * 4 and {len(stretch) for stretch in kept} == {3}
    chances = np.log(np.random.default_rng(0).dirichlet(np.ones(1 + len(task.characters)), 12))
    assert task.decoding(chances) != prefix_beam_search(chances, 4)
    texts = tmp_path / "own.txt"
    texts.write_text("SEA sea\nSea-sea!\n")
    other = finetune(*words, f"task.decoding.texts={texts}", name="texts")
    assert json.loads((other / "model" / "task.json").read_text())["labels"]["ngrams"] == count_ngrams(
        ["sea sea"] * 2, 3
    )
    for changes, told in (
        (["task.decoding.beam=1"], r"ngram=3 and beam=1, which searches no texts: set task\.decoding\.beam=16"),
        (["task.decoding.ngram=0", f"task.decoding.texts={texts}"], "ngram=0, which learns nothing of them"),
        ([f"task.decoding.texts={tmp_path / 'no.txt'}"], r"no\.txt, which is no file: give one of texts"),
    ):
        with pytest.raises(RunError, match=told):
            finetune(*words, *changes, name="refused")
