"""Hand-offs of text as folders of transformers: heads score there as they do in the objective that trained them."""

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from pretraining import handoff
from pretraining.errors import HandoffError
from pretraining.export import export
from pretraining.objectives.init_from import continue_heads
from pretraining.objectives.text.bert import Bert
from pretraining.objectives.text.masked_language import MaskedLanguage
from pretraining.objectives.text.next_sentence import NextSentence
from pretraining.text.backbones.language_head import scores
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.objectives.text.small_text import BART, BERT, GPT2, OPTIMIZER, T5, backbone, preprocess, sentences

ROBERTA = {**BERT, "model_type": "roberta"}
PRE_NORM = {**BERT, "model_type": "roberta-prelayernorm", "type_vocab_size": 1}
MODERN = {
    **{name: BERT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    **{"model_type": "modernbert", "local_attention": 8},
}
DISTIL = {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "dropout": 0.0}
ELECTRA = {**BERT, "model_type": "electra", "embedding_size": 32}


def disturbed(module):
    """Let no bias be zero and no two rows alike, whatever the architecture draws."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def written(objective, kind, directory, recipe=True):
    """Write the hand-off of an objective's network and heads."""
    described = {"_target_": f"{type(objective).__module__}.{type(objective).__qualname__}"}
    origin = {"objective": type(objective).__name__}
    towers = objective.backbone.modality.towers(objective.backbone, preprocess(kind))
    extra = {"heads": objective.heads(), "recipe": {"objective": described} if recipe else {}}
    return handoff.read(str(handoff.write(directory / "step-1", towers=towers, origin=origin, **extra)))


def masked(config, **more):
    return disturbed(MaskedLanguage(backbone=backbone(config, "wordpiece"), optimizer=OPTIMIZER, **more))


def rows(place, kind="wordpiece"):
    """Tokenise texts of unequal length by the folder's own tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer([" ".join(document) for document in sentences()[:4]], padding=True, return_tensors="pt",
                     truncation=True, max_length=60)  # fmt: skip


def loaded(loader, place):
    model, report = getattr(transformers, loader).from_pretrained(place, output_loading_info=True)
    return model.eval(), report


@pytest.mark.parametrize(
    "config", [BERT, ROBERTA, PRE_NORM, MODERN, DISTIL, ELECTRA], ids=lambda each: each["model_type"]
)
@torch.no_grad()
def test_a_masked_language_model_scores_tokens_as_ours_and_comes_back(config, tmp_path):
    objective = masked(config)
    place = export(written(objective, "wordpiece", tmp_path), "transformers", tmp_path / "model")
    model, report = loaded("AutoModelForMaskedLM", place)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    given = rows(place)
    assert ("token_type_ids" in given) == (config.get("type_vocab_size", 2) > 1 and config not in (MODERN, DISTIL))
    real = given["attention_mask"]
    states = objective.head(objective.backbone(input_ids=given["input_ids"], document_ids=real).positions)
    ours = F.linear(states, objective.backbone.input_embeddings.weight, objective.head.bias)
    torch.testing.assert_close(model(**given).logits[real > 0], ours[real > 0], rtol=0, atol=1e-5)
    assert (real == 0).any() and ours.std() > 0.1  # or anything would do
    again = MaskedLanguage(backbone=TransformersBackbone(config=None, init_from=str(place)), optimizer=OPTIMIZER).eval()
    assert continue_heads(again, str(place)).endswith("continues with head")
    states = again.head(again.backbone(input_ids=given["input_ids"], document_ids=real).positions)
    scored = F.linear(states, again.backbone.input_embeddings.weight, again.head.bias)
    torch.testing.assert_close(scored[real > 0], ours[real > 0], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config", [BERT, MODERN], ids=lambda each: each["model_type"])
def test_fill_mask_says_what_our_evaluation_predicts(config, tmp_path):
    objective = masked(config)
    place = export(written(objective, "wordpiece", tmp_path), "transformers", tmp_path / "model")
    fill = transformers.pipeline("fill-mask", model=str(place), top_k=3)
    known = preprocess("wordpiece")
    for document in sentences()[:4]:
        _, _, rest = document[0].partition(" ")
        ids = torch.tensor([[known.bos_id, known.mask_id, *known.encode([rest])[0].tolist(), known.eos_id]])
        batch = {"inputs": {"input_ids": ids, "document_ids": torch.ones_like(ids)}}
        hidden = objective.backbone.at(torch.tensor([1]), **batch["inputs"])
        scored = F.linear(objective.head(hidden), objective.backbone.input_embeddings.weight, objective.head.bias)[0]
        found = fill(f"[MASK] {rest}")
        assert [one["token"] for one in found] == scored.topk(3).indices.tolist()
        np.testing.assert_allclose([one["score"] for one in found], scored.softmax(0).topk(3).values, rtol=1e-4)


@torch.no_grad()
def test_bert_has_both_heads_and_each_alone(tmp_path):
    known = preprocess("wordpiece")
    objective = disturbed(Bert(backbone=backbone(BERT, "wordpiece", pooling="pooler"), optimizer=OPTIMIZER,
                               mlm_weight=1.0, nsp_weight=1.0))  # fmt: skip
    place = export(written(objective, "wordpiece", tmp_path), "transformers", tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    first, second = ([" ".join(document[:1]) for document in sentences()[begin : begin + 3]] for begin in (0, 3))
    given = tokenizer(first, second, padding=True, return_tensors="pt")
    assert given["token_type_ids"].sum() > 0
    features = objective.backbone(input_ids=given["input_ids"], document_ids=given["attention_mask"],
                                  token_type_ids=given["token_type_ids"])  # fmt: skip
    pairs = objective.pair_head.output(features.pooled)
    table, head = objective.backbone.input_embeddings.weight, objective.token_head
    tokens = F.linear(head(features.positions), table, head.bias)[given["attention_mask"] > 0]
    both, report = loaded("BertForPreTraining", place)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert type(loaded("AutoModelForPreTraining", place)[0]) is type(both)
    output = both(**given)
    torch.testing.assert_close(output.seq_relationship_logits, pairs, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.prediction_logits[given["attention_mask"] > 0], tokens, rtol=0, atol=1e-5)
    for loader, expected in (("AutoModelForMaskedLM", tokens), ("AutoModelForNextSentencePrediction", pairs)):
        model, report = loaded(loader, place)
        assert not report["missing_keys"]
        found = model(**given).logits
        found = found if found.shape == expected.shape else found[given["attention_mask"] > 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    alone = disturbed(NextSentence(backbone=backbone(BERT, "wordpiece", pooling="pooler"), optimizer=OPTIMIZER))
    place = export(written(alone, "wordpiece", tmp_path / "alone"), "transformers", tmp_path / "pairs")
    model, report = loaded("AutoModelForNextSentencePrediction", place)
    assert not report["missing_keys"]
    features = alone.backbone(input_ids=given["input_ids"], document_ids=given["attention_mask"],
                              token_type_ids=given["token_type_ids"])  # fmt: skip
    torch.testing.assert_close(model(**given).logits, alone.head.output(features.pooled), rtol=0, atol=1e-5)
    assert known.mask_id == tokenizer.mask_token_id


@torch.no_grad()
def test_a_head_without_a_class_is_left_out_beside_one_with_and_said(tmp_path, capsys):
    objective = masked(BERT, boundary_weight=1.0)
    place = export(written(objective, "wordpiece", tmp_path / "a"), "transformers", tmp_path / "spanbert")
    assert "transformers has no class for boundary_head: left out" in capsys.readouterr().err
    model, report = loaded("AutoModelForMaskedLM", place)
    assert not report["missing_keys"] and torch.equal(
        model.cls.predictions.transform.dense.weight, objective.head.dense.weight
    )
    for name, config, pooling, why in (
        ("roberta", ROBERTA, "pooler", "RobertaForMaskedLM has no place for the head's output"),
        ("mean", BERT, "mean", "BertForPreTraining scores pairs by its pooler, not by backbone.pooling=mean"),
    ):
        both = disturbed(Bert(backbone=backbone(config, "wordpiece", pooling=pooling), optimizer=OPTIMIZER,
                              mlm_weight=1.0, nsp_weight=1.0))  # fmt: skip
        place = export(written(both, "wordpiece", tmp_path / name), "transformers", tmp_path / f"{name}-model")
        assert f"{why}: written as " in capsys.readouterr().err
        model, report = loaded("AutoModelForMaskedLM", place)
        assert not report["missing_keys"]


@torch.no_grad()
def test_what_transformers_has_no_class_for_is_refused_and_says_what_does(tmp_path):
    objective = masked(BERT)
    given = written(objective, "wordpiece", tmp_path / "a", recipe=False)
    with pytest.raises(HandoffError, match=r"holds no head that transformers has a class for: .*AutoModel\.from_pret"):
        export(given, "transformers", tmp_path / "x")
    given = handoff.read(f"random:{written(objective, 'wordpiece', tmp_path / 'b').path}")
    with pytest.raises(HandoffError, match=r"a hand-off of random holds no head .*: take to=onnx, which writes the"):
        export(given, "transformers", tmp_path / "x")
    act = masked({**BERT, "hidden_act": "relu"})
    with pytest.raises(HandoffError, match="BertForMaskedLM scores tokens in another way than this network's head"):
        export(written(act, "wordpiece", tmp_path / "c"), "transformers", tmp_path / "x")
    pairs = disturbed(NextSentence(backbone=backbone(ROBERTA, "wordpiece", pooling="pooler"), optimizer=OPTIMIZER))
    with pytest.raises(HandoffError, match="has no AutoModelForNextSentencePrediction of roberta: the network alone"):
        export(written(pairs, "wordpiece", tmp_path / "d"), "transformers", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "kind", "architecture", "loader"),
    [
        (GPT2, "byte_bpe", "causal", "AutoModelForCausalLM"),
        (BART, "wordpiece", "seq2seq", "AutoModelForSeq2SeqLM"),
        (T5, "sentinel_bpe", "seq2seq", "AutoModelForSeq2SeqLM"),
    ],
    ids=["gpt2", "bart", "t5"],
)
def test_decoders_keep_their_language_model_head(config, kind, architecture, loader, tmp_path):
    network = disturbed(backbone(config, kind, architecture=architecture))
    origin, towers = {"objective": "CausalLanguage"}, network.modality.towers(network, preprocess(kind))
    given = handoff.read(str(handoff.write(tmp_path / "step-1", towers=towers, origin=origin, heads={})))
    place = export(given, "transformers", tmp_path / "model")
    model, report = loaded(loader, place)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    batch = rows(place, kind)
    assert set(batch) == {"input_ids", "attention_mask"}
    real = batch["attention_mask"]
    memory = network(input_ids=batch["input_ids"], document_ids=real)
    if architecture == "causal":
        ours, theirs = scores(network, memory.positions), model(**batch).logits
        ours, theirs = ours[real > 0], theirs[real > 0]
    else:
        start = torch.full((len(real), 1), network.model.config.decoder_start_token_id)
        written_so_far = torch.cat([start, batch["input_ids"][:, :5]], 1)
        ours = scores(network, network.decode(written_so_far, memory))
        theirs = model(**batch, decoder_input_ids=written_so_far).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert ours.std() > 0.1


def test_a_tower_of_several_that_cannot_be_written_names_its_own_folder(tmp_path):
    network = backbone(BERT, "wordpiece")
    towers = network.modality.towers(network, preprocess("wordpiece"))
    both = {"text": next(iter(towers.values())), "other": next(iter(towers.values()))}
    place = handoff.write(tmp_path / "step-1", towers=both, origin={"objective": "Clip"}, heads={})
    given = handoff.read(str(place), tower="text")
    with pytest.raises(HandoffError, match=r"AutoModel\.from_pretrained") as refused:
        export(given, "transformers", tmp_path / "x")
    folder = str(refused.value).split("'")[1]
    assert transformers.AutoModel.from_pretrained(folder).num_parameters() == network.model.num_parameters()
