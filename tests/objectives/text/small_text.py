"""A corpus in memory, three small tokenizers and tiny backbones: what tests of text objectives share."""

import functools
import random
from pathlib import Path

import numpy as np
import torch

from pretraining.random import Keys
from pretraining.text.backbones.transformers_model import TransformersBackbone
from pretraining.text.plan import PlannedText
from pretraining.text.tokenizer import TextPreprocess
from pretraining.text.tokenizer_recipes import ByteBPE, SentinelBPE, WordPiece
from tests.one_step import plain_sgd

OPTIMIZER = plain_sgd()
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}
BART = {
    "model_type": "bart",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
    "init_std": 0.2,
    "max_position_embeddings": 128,
}
T5 = {
    "model_type": "t5",
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 128,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


@functools.cache
def sentences():
    """Documents of 1 to 9 sentences of 3 to 12 made-up words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(300)]
    return [
        [" ".join(draw.choices(words, k=draw.randint(3, 12))) + "." for _ in range(draw.randint(1, 9))]
        for _ in range(120)
    ]


@functools.cache
def preprocess(kind):
    """A small tokenizer: "wordpiece", "byte_bpe" or "sentinel_bpe"."""
    options = {"vocab_size": 500, "lowercase": False, "sample_bytes": 10**6}
    recipe = {
        "wordpiece": lambda: WordPiece(**options),
        "byte_bpe": lambda: ByteBPE(**options),
        "sentinel_bpe": lambda: SentinelBPE(**options, sentinels=100),
    }[kind]()
    return TextPreprocess(tokenizer=recipe.train(sentence for document in sentences() for sentence in document))


class MemoryCorpus:
    """What plans and readers ask of a corpus."""

    def __init__(self, documents, directory):
        lengths = [len(sentence) for document in documents for sentence in document]
        self.tokens = np.concatenate([sentence for document in documents for sentence in document]).astype(np.uint16)
        self.sentence_offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.document_offsets = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
        self.num_documents, self.num_sentences, self.num_tokens = len(documents), len(lengths), len(self.tokens)
        self.directory, self.fingerprint = Path(directory), "memory"

    def read(self, starts, lengths):
        return np.concatenate(
            [self.tokens[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        )


def corpus(kind, directory):
    """The sentences as tokens of a tokenizer."""
    return MemoryCorpus([preprocess(kind).encode(document) for document in sentences()], directory)


def keys_of(rows, epoch=0):
    index = np.asarray(rows, dtype=np.int64)
    return Keys(1, "train", np.full_like(index, epoch), index)


def batches(collate, source, rows, parts=1):
    """Collate `rows` of epoch 0, in equal parts."""
    text = PlannedText(source, functools.partial(collate.plan, source, 1))
    return [collate(text.read(0, part), keys_of(part)) for part in np.split(np.asarray(rows), parts)]


def backbone(config, kind, **options):
    torch.manual_seed(0)
    return TransformersBackbone(
        config=config, vocab_size=preprocess(kind).vocab_size, pad_id=preprocess(kind).pad_id, **options
    )


def mean_of(loss, name):
    term = loss.terms[name]
    return (term.total / term.count).item()
