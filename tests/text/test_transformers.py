"""Text backbones: packed documents are separate documents, in every family; ids come from the tokenizer."""

import pytest
import torch

from pretraining.cli.configuration import compose, instantiate
from pretraining.text.backbones.transformers_model import TransformersBackbone

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
FAMILIES = {
    "bert": ({"model_type": "bert", **SMALL}, "encoder"),
    "roberta": ({"model_type": "roberta", **SMALL, "max_position_embeddings": 66}, "encoder"),
    "roberta-prelayernorm": ({"model_type": "roberta-prelayernorm", **SMALL, "max_position_embeddings": 66}, "encoder"),
    "electra": ({"model_type": "electra", **SMALL, "embedding_size": 32}, "encoder"),
    "modernbert": (
        {
            "model_type": "modernbert",
            **SMALL,
            "num_hidden_layers": 4,
            "local_attention": 8,
            "global_attn_every_n_layers": 3,
        },
        "encoder",
    ),
    "gpt2": (
        {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.2},
        "causal",
    ),
    "llama": ({"model_type": "llama", **SMALL, "num_key_value_heads": 1}, "causal"),
}
FRAME = {"bos": 3, "eos": 4}


def built(family):
    torch.manual_seed(0)
    config, architecture = FAMILIES[family]
    options = {"vocab_size": 90, "pad_id": 1, "frame_ids": FRAME}
    return TransformersBackbone(config=config, architecture=architecture, **options).double().eval()


def packed_rows():
    """Three rows: two documents and padding, three documents, one document."""
    documents = torch.tensor([[1] * 11 + [2] * 17 + [0] * 4, [1] * 5 + [2] * 9 + [3] * 18, [1] * 32])
    ids = torch.randint(5, 90, documents.shape, generator=torch.Generator().manual_seed(1))
    return torch.where(documents > 0, ids, 1), documents


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_documents_are_separate_ones(family):
    backbone, (ids, documents) = built(family), packed_rows()
    packed = backbone(input_ids=ids, document_ids=documents).positions
    assert torch.isfinite(packed).all()
    for row, number in [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1)]:
        here = documents[row] == number
        alone = backbone(
            input_ids=ids[row, here][None], document_ids=torch.ones(1, int(here.sum()), dtype=torch.int64)
        ).positions[0]
        assert torch.allclose(packed[row, here], alone, atol=1e-9)
        plain = backbone.base(input_ids=ids[row, here][None]).last_hidden_state[0]
        assert torch.allclose(alone, plain, atol=1e-9), "a lone document is what transformers makes of it by itself"


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2"])
@torch.no_grad()
def test_another_document_of_the_row_changes_nothing(family):
    backbone, (ids, documents) = built(family), packed_rows()
    before = backbone(input_ids=ids, document_ids=documents).positions
    other = torch.where(documents == 2, (ids + 7) % 85 + 5, ids)
    after = backbone(input_ids=other, document_ids=documents).positions
    assert torch.equal(before[documents == 1], after[documents == 1])
    assert not torch.allclose(before[documents == 2], after[documents == 2])


def test_modernbert_frames_texts_with_the_tokenizers_ids():
    """Its own are beyond a small vocabulary, of which transformers warns, and a hand-off would carry them on."""
    config = built("modernbert").model.config
    assert (config.cls_token_id, config.sep_token_id, config.bos_token_id, config.eos_token_id) == (3, 4, 3, 4)


@torch.no_grad()
def test_roberta_counts_positions_from_the_one_behind_padding():
    backbone = built("roberta")
    assert backbone._position_ids(torch.tensor([[1, 1, 1, 2, 2, 0]])).tolist() == [[2, 3, 4, 2, 3, 2]]


@pytest.mark.parametrize(
    ("name", "objective", "vocabulary", "millions"),
    [
        ("bert_base", "masked_language", 30522, 109.5),
        ("roberta_base", "masked_language", 50265, 124.6),
        ("modernbert_base", "masked_language", 50368, 149.0),
        ("bert_large_prenorm", "masked_language", 30522, 335.1),
    ],
)
def test_encoders_have_the_published_size(name, objective, vocabulary, millions):
    with torch.device("meta"):
        backbone = instantiate(
            compose([f"objective={objective}", f"backbone={name}"]).backbone, vocab_size=vocabulary, pad_id=1
        )
    assert abs(sum(parameter.numel() for parameter in backbone.parameters()) / 1e6 - millions) < 0.5


def test_any_configuration_of_transformers_builds_from_the_command_line():
    shape = "{model_type: electra, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, embedding_size: 32}"
    config = compose(["backbone=transformers", f"backbone.config={shape}"])
    backbone = instantiate(config.backbone, vocab_size=90, pad_id=0)
    assert backbone.model.config.model_type == "electra" and backbone.dim == 32


@pytest.mark.parametrize(
    ("model_type", "shape", "start"),
    [
        (
            "bart",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 1,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
            },
            4,
        ),
        ("t5", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}, 1),
    ],
)
def test_a_decoder_s_ids_are_the_tokenizer_s(model_type, shape, start):
    options = {"architecture": "seq2seq", "vocab_size": 90, "pad_id": 1, "frame_ids": FRAME}
    config = TransformersBackbone(config={"model_type": model_type, **shape}, **options).model.config
    assert (config.bos_token_id, config.eos_token_id, config.decoder_start_token_id, config.pad_token_id) == (
        3,
        4,
        start,
        1,
    )


def test_a_tokenizer_with_one_token_for_both_ends_gives_it_twice():
    options = {"architecture": "causal", "vocab_size": 90, "frame_ids": {"bos": None, "eos": 7}}
    config = TransformersBackbone(config=FAMILIES["gpt2"][0], **options).model.config
    assert (config.bos_token_id, config.eos_token_id) == (7, 7)
