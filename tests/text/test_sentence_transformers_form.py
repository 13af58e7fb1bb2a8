"""Text encoders as folders of sentence-transformers: rebuilt from modules.json by transformers alone, equal vectors."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional as F

from pretraining import handoff
from pretraining.errors import HandoffError, RunError
from pretraining.export import export
from tests.objectives.text.small_text import BART, BERT, GPT2, backbone, preprocess, sentences
from tests.text.test_transformers_form import ROBERTA, disturbed

TEXTS = [" ".join(document[:2]) for document in sentences()[:4]] + ["[MASK] and [SEP] are words here"]


def by_modules(place, texts):
    """Encode texts as modules.json says, with transformers and torch alone."""
    modules = json.loads((place / "modules.json").read_text())
    assert [module["idx"] for module in modules] == list(range(len(modules)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    longest = json.loads((place / "sentence_bert_config.json").read_text())["max_seq_length"]
    given = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    vectors = None
    for module in modules:
        folder, kind = place / module["path"], module["type"].removeprefix("sentence_transformers.models.")
        said = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
        if kind == "Transformer":
            vectors = transformers.AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state
        elif kind == "Pooling":
            (mode,) = [name for name, wanted in said.items() if name.startswith("pooling_mode") and wanted]
            real = given["attention_mask"]
            assert said["word_embedding_dimension"] == vectors.shape[2]
            if mode == "pooling_mode_mean_tokens":
                vectors = (vectors * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            elif mode == "pooling_mode_lasttoken":
                vectors = vectors[torch.arange(len(vectors)), real.sum(1) - 1]
            else:
                assert mode == "pooling_mode_cls_token"
                vectors = vectors[:, 0]
        elif kind == "Dense":
            weights = load_file(folder / "model.safetensors")
            assert said["activation_function"] == "torch.nn.modules.activation.Tanh"
            vectors = torch.tanh(F.linear(vectors, weights["linear.weight"], weights["linear.bias"]))
        else:
            assert kind == "Normalize" and folder.is_dir()
            vectors = F.normalize(vectors, dim=1)
    return vectors


def of_hand_off(network, kind, texts):
    """Encode texts as pretraining reads them, one by one."""
    known, vectors = preprocess(kind), []
    for text in texts:
        first, last = ([] if token is None else [token] for token in (known.bos_id, known.eos_id))
        ids = torch.tensor([[*first, *known.encode([text])[0].tolist(), *last]])
        vectors.append(network(input_ids=ids, document_ids=torch.ones_like(ids)).pooled[0])
    return torch.stack(vectors)


def written(network, kind, directory):
    towers = network.modality.towers(network, preprocess(kind))
    return handoff.read(str(handoff.write(directory / "step-1", towers=towers, origin={"objective": "x"}, heads={})))


@pytest.mark.parametrize(
    ("config", "kind", "options"),
    [
        (BERT, "wordpiece", {"pooling": "mean"}),
        (BERT, "wordpiece", {"pooling": "pooler"}),
        (ROBERTA, "wordpiece", {"pooling": "first"}),
        (GPT2, "byte_bpe", {"pooling": "last", "architecture": "causal"}),
    ],
    ids=["mean", "pooler", "first", "last"],
)
@torch.no_grad()
def test_a_folder_gives_the_hand_offs_vectors(config, kind, options, tmp_path):
    network = disturbed(backbone(config, kind, **options))
    place = export(written(network, kind, tmp_path), "sentence_transformers", tmp_path / "model")
    expected = of_hand_off(network, kind, TEXTS)
    torch.testing.assert_close(by_modules(place, TEXTS), expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 0.05  # or anything would do
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return
    theirs = SentenceTransformer(str(place), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_vectors_of_length_one_are_an_option(tmp_path):
    network = disturbed(backbone(BERT, "wordpiece"))
    given = written(network, "wordpiece", tmp_path)
    place = export(given, "sentence_transformers", tmp_path / "model", normalize="true")
    assert json.loads((place / "modules.json").read_text())[-1]["path"] == "2_Normalize"
    expected = F.normalize(of_hand_off(network, "wordpiece", TEXTS), dim=1)
    torch.testing.assert_close(by_modules(place, TEXTS), expected, rtol=0, atol=1e-5)
    with pytest.raises(RunError, match="normalize=yes: choose true or false"):
        export(given, "sentence_transformers", tmp_path / "other", normalize="yes")


def test_encoder_decoders_are_refused(tmp_path):
    network = backbone(BART, "wordpiece", architecture="seq2seq")
    with pytest.raises(HandoffError, match=r"takes encoders and decoders of transformers, not .*architecture=seq2seq"):
        export(written(network, "wordpiece", tmp_path), "sentence_transformers", tmp_path / "model")
