"""Continued pretraining: backbone and heads go on from a checkpoint or a hand-off; nothing half-fitting is loaded."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, RobertaConfig, RobertaForMaskedLM

from pretraining.cli.configuration import compose
from pretraining.launch import main
from pretraining.objectives.init_from import continue_heads
from pretraining.objectives.text.bert import Bert
from pretraining.objectives.text.masked_language import NO_LABEL, MaskedLanguage
from pretraining.objectives.text.next_sentence import NextSentence
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.objectives.text.small_text import BERT, OPTIMIZER, preprocess
from tests.runs import text_overrides, write_corpus

SHAPE = {name: value for name, value in BERT.items() if name != "model_type"}


def saved(kind, config, directory):
    torch.manual_seed(3)
    model = kind(config).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name:
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    model.save_pretrained(directory)
    return model


def started_from(directory, pooling="mean"):
    return TransformersBackbone(config=None, init_from=str(directory), pooling=pooling)


def batch(ids):
    labels = torch.full_like(ids, NO_LABEL)
    labels[:, 3:6] = ids[:, 4:7]
    target_positions = (labels != NO_LABEL).flatten().nonzero()[:, 0]
    return {
        "inputs": {"input_ids": ids, "document_ids": torch.ones_like(ids)},
        "target_positions": target_positions,
        "labels": labels[labels != NO_LABEL],
    }, labels


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BertForMaskedLM, BertConfig(vocab_size=90, **SHAPE)),
        (BertForPreTraining, BertConfig(vocab_size=90, **SHAPE)),
        (RobertaForMaskedLM, RobertaConfig(vocab_size=90, **SHAPE)),
    ],
    ids=["BertForMaskedLM", "BertForPreTraining", "RobertaForMaskedLM"],
)
@torch.no_grad()
def test_the_loss_goes_on_where_the_checkpoint_was(kind, config, tmp_path):
    peer = saved(kind, config, tmp_path)
    objective = MaskedLanguage(backbone=started_from(tmp_path), optimizer=OPTIMIZER).eval()
    assert "continues with head" in continue_heads(objective, str(tmp_path))
    ids = torch.randint(5, 90, (4, 12), generator=torch.Generator().manual_seed(0))
    ours, labels = batch(ids)
    output = peer(input_ids=ids)
    scores = output.prediction_logits if kind is BertForPreTraining else output.logits
    expected = torch.nn.functional.cross_entropy(scores[labels != NO_LABEL], labels[labels != NO_LABEL])
    term = objective.loss(ours).terms["mlm"]
    assert abs(float(term.total / term.count) - float(expected)) < 1e-5


def test_a_pair_head_is_loaded_where_the_checkpoint_has_one(tmp_path):
    peer = saved(BertForPreTraining, BertConfig(vocab_size=90, **SHAPE), tmp_path)
    for objective in (
        Bert(backbone=started_from(tmp_path, "pooler"), optimizer=OPTIMIZER, mlm_weight=1.0, nsp_weight=1.0),
        NextSentence(backbone=started_from(tmp_path, "pooler"), optimizer=OPTIMIZER),
    ):
        assert "starts anew" not in continue_heads(objective, str(tmp_path))
        head = objective.pair_head if isinstance(objective, Bert) else objective.head
        assert torch.equal(head.output.weight, peer.cls.seq_relationship.weight)


def test_a_head_that_the_checkpoint_lacks_starts_anew_and_says_so(tmp_path):
    saved(BertForMaskedLM, BertConfig(vocab_size=90, **SHAPE), tmp_path)
    objective = Bert(backbone=started_from(tmp_path, "pooler"), optimizer=OPTIMIZER, mlm_weight=1.0, nsp_weight=1.0)
    before = objective.pair_head.output.weight.clone()
    assert continue_heads(objective, str(tmp_path)).endswith("continues with token_head; pair_head starts anew")
    assert torch.equal(objective.pair_head.output.weight, before)


def test_a_bert_shaped_checkpoint_directory_is_continued_and_then_our_own_hand_off(tmp_path, cache_dir):
    given, corpus = preprocess("wordpiece"), write_corpus(tmp_path)
    directory = tmp_path / "bert-base-uncased"
    saved(BertForMaskedLM, BertConfig(vocab_size=given.vocab_size, pad_token_id=given.pad_id, **SHAPE), directory)
    given.save(directory)

    def continued(checkpoint, run_dir):
        changes = {"preprocess.vocab_size", "backbone.config", "backbone", "trainer.max_steps"}
        base = [one for one in text_overrides(corpus, cache_dir) if not one.startswith(tuple(changes))]
        chosen = [
            "preprocess=pretrained_tokenizer",
            f"preprocess.path={checkpoint}",
            f"backbone.init_from={checkpoint}",
        ]
        return main(compose([*base, *chosen, "trainer.max_steps=3", "optimizer.peak_lr=1e-9", f"run_dir={run_dir}"]))

    first = continued(directory, tmp_path / "first") / "handoff" / "last"
    second = continued(first, tmp_path / "second") / "handoff" / "last"
    heads = [BertForMaskedLM.from_pretrained(directory).cls.predictions.transform.dense.weight.detach()]
    from safetensors.torch import load_file

    heads += [load_file(path / "heads.safetensors")["head.dense.weight"] for path in (first, second)]
    assert torch.allclose(heads[0], heads[1], atol=1e-6) and torch.allclose(heads[1], heads[2], atol=1e-6)
