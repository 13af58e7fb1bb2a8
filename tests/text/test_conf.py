"""conf/ and the constructors of text data and tokenizers say the same."""

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate

from pretraining.text.corpus.prepare import Preparation

CONF = str(Path(__file__).parents[2] / "conf")
NAMES = ["data/stdlib_docs", "data/text_files", "data/hub_text", "data/preparation/default"]
NAMES += ["preprocess/wordpiece", "preprocess/byte_bpe", "preprocess/pretrained_tokenizer"]


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_constructors_parameters(name):
    with initialize_config_dir(CONF, version_base=None):
        node = compose(name)
    for group in name.split("/")[:-1]:
        node = node[group]
    keys = set(node) - {"_target_"}
    assert keys == set(inspect.signature(get_class(node["_target_"])).parameters)
    assert 0 < len(keys) <= 8


def test_a_preparation_without_configuration_is_the_configured_one():
    with initialize_config_dir(CONF, version_base=None):
        assert instantiate(compose("data/preparation/default").data.preparation) == Preparation()
