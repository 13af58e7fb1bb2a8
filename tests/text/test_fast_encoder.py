"""The fast encoder is transformers' encoder: features, gradients, hand-offs and resumed runs are the same."""

import numpy as np
import pytest
import torch

from pretraining.kernels.attention import PLAIN_UP_TO, lay_out
from pretraining.objectives.text.masked_language import MaskedLanguage
from pretraining.text.backbones.transformers_model import TransformersBackbone
from tests.one_step import plain_sgd
from tests.runs import assert_same_end, finish, kill_group, start, text_overrides, wait_for, write_corpus
from tests.text.test_transformers import FAMILIES, SMALL, packed_rows

FAST = ("bert", "roberta", "roberta-prelayernorm", "modernbert")
TOLERANCE = {"modernbert": 3e-6}  # transformers turns queries and keys in single precision, whatever the model's


def pair(family, dtype=torch.float64, **shape):
    """The same weights behind both implementations."""
    config = {**FAMILIES[family][0], **shape}
    both = []
    for impl in ("transformers", "fast"):
        torch.manual_seed(0)
        both.append(TransformersBackbone(config=config, vocab_size=90, pad_id=1, impl=impl).to(dtype).eval())
    both[1].load_state_dict(both[0].state_dict())
    return both


def gradients(backbone, positions, documents):
    backbone.zero_grad()
    weight = torch.randn(positions.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(positions)
    (positions * weight * (documents > 0)[..., None]).sum().backward()
    return {name: parameter.grad for name, parameter in backbone.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("static", [False, True], ids=["without padding", "static shapes"])
@pytest.mark.parametrize("family", FAST)
def test_features_and_gradients_are_those_of_transformers(family, static):
    (plain, fast), (ids, documents) = pair(family), packed_rows()
    fast._fast.static = static
    expected, found = plain(input_ids=ids, document_ids=documents), fast(input_ids=ids, document_ids=documents)
    real, tolerance = documents > 0, TOLERANCE.get(family, 1e-10)
    assert torch.allclose(expected.positions[real], found.positions[real], atol=tolerance)
    assert torch.allclose(expected.pooled, found.pooled, atol=tolerance)
    theirs, ours = (gradients(*part, documents) for part in ((plain, expected.positions), (fast, found.positions)))
    assert theirs.keys() == ours.keys() and len(ours) > 10
    for name, value in theirs.items():
        assert torch.allclose(value, ours[name], atol=100 * tolerance), name


@pytest.mark.parametrize("family", FAST)
@torch.no_grad()
def test_features_agree_to_1e_5_in_single_precision(family):
    (plain, fast), (ids, documents) = pair(family, torch.float32), packed_rows()
    expected, found = (part(input_ids=ids, document_ids=documents).positions[documents > 0] for part in (plain, fast))
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()


@torch.inference_mode()
def test_without_gradients_streams_have_few_sizes_and_what_fills_them_up_is_seen_by_nobody():
    plain, fast = pair("bert")
    draw = np.random.default_rng(0)
    sizes = set()
    for rows in range(30, 60):
        lengths = torch.tensor(draw.integers(1, 30, rows))
        documents = (torch.arange(30) < lengths[:, None]).long()
        layout = lay_out(documents, 2, keep_padding=False)
        assert 0 <= len(layout.places) - int(lengths.sum()) < len(layout.places) / 4
        sizes.add(len(layout.places))
    assert len(sizes) < 8
    ids = torch.randint(5, 90, documents.shape)
    expected, found = (part(input_ids=ids, document_ids=documents) for part in (plain, fast))
    assert torch.allclose(expected.positions[documents > 0], found.positions[documents > 0], atol=1e-10)
    assert torch.allclose(expected.pooled, found.pooled, atol=1e-10)


@pytest.mark.parametrize("family", FAST)
def test_the_last_layer_is_computed_where_it_is_asked_for(family):
    (plain, fast), (ids, documents) = pair(family), packed_rows()
    places = torch.tensor([3, 40, 70, 3, 0, 0])
    expected, found = (part.at(places, input_ids=ids, document_ids=documents) for part in (plain, fast))
    assert found.shape == (6, 32) and torch.allclose(expected, found, atol=TOLERANCE.get(family, 1e-10))


@pytest.mark.parametrize("family", FAST)
@torch.no_grad()
def test_packed_documents_are_separate_ones(family):
    (_, fast), (ids, documents) = pair(family), packed_rows()
    packed = fast(input_ids=ids, document_ids=documents).positions
    for row, number in [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1)]:
        here = documents[row] == number
        alone = fast(
            input_ids=ids[row, here][None], document_ids=torch.ones(1, int(here.sum()), dtype=torch.int64)
        ).positions[0]
        assert torch.allclose(packed[row, here], alone, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@torch.no_grad()
def test_documents_beyond_the_plain_length_are_attended_to_by_the_fused_kernel(family):
    tokens = PLAIN_UP_TO + 40
    plain, fast = pair(family, max_position_embeddings=tokens)
    documents = torch.tensor([[1] * (tokens - 30) + [2] * 30, [1] * (tokens - 7) + [0] * 7])
    ids = torch.randint(5, 90, documents.shape, generator=torch.Generator().manual_seed(1))
    expected, found = (part(input_ids=ids, document_ids=documents).positions[documents > 0] for part in (plain, fast))
    assert torch.allclose(expected, found, atol=1e-5)


@torch.no_grad()
def test_segments_of_a_pair_are_told_apart():
    plain, fast = pair("bert")
    ids, documents = packed_rows()
    types = (torch.arange(32) > 12).long().expand_as(ids)
    expected, found = (
        part(input_ids=ids, document_ids=documents, token_type_ids=types).positions[documents > 0]
        for part in (plain, fast)
    )
    assert torch.allclose(expected, found, atol=1e-10)
    assert not torch.allclose(found, fast(input_ids=ids, document_ids=documents).positions[documents > 0], atol=1e-3)


def test_the_stream_holds_each_token_once_the_longest_document_first():
    _, documents = packed_rows()
    layout = lay_out(documents, 2, keep_padding=False)
    assert sorted(layout.places.tolist()) == (documents > 0).flatten().nonzero()[:, 0].tolist()
    assert torch.equal(layout.back[layout.places], torch.arange(len(layout.places)))
    assert layout.places[:32].tolist() == list(range(64, 96))  # the document of 32 tokens
    assert [group.size for group in layout.groups] == [(1, 32), (2, 18), (3, 11)]


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_has_its_rate_its_scale_and_one_draw_for_both_passes(rate):
    from pretraining.kernels.dropout import dropout

    torch.manual_seed(3)
    values = torch.ones(1000, 1001, requires_grad=True)
    found = dropout(values, rate)
    found.sum().backward()
    zero = found == 0
    assert abs(zero.double().mean() - rate) < 4 * (rate * (1 - rate) / 1e6) ** 0.5
    assert torch.allclose(found[~zero], torch.tensor(1 / (1 - rate))) and torch.equal(found.detach(), values.grad)
    torch.manual_seed(3)
    assert torch.equal(dropout(values, rate), found) and not torch.equal(dropout(values, rate), found)


def test_dropped_attention_has_the_derivative_that_it_computes():
    """Draws repeat under the same seed, so that finite differences see one function."""
    from pretraining.kernels.attention import attend

    _, documents = packed_rows()
    layout = lay_out(documents, 2, keep_padding=False)

    def run(projected):
        torch.manual_seed(5)
        return attend(projected, layout, heads=2, window=4, rate=0.3)

    projected = torch.randn(len(layout.places), 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, projected, fast_mode=True)


@pytest.mark.parametrize("family", FAST)
def test_layers_compile_whole_and_once(family):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    (plain, fast), (ids, documents) = pair(family), packed_rows()
    counter = CompileCounter()
    fast._fast.static = True
    for layer in fast._fast.layers:
        layer.compile(fullgraph=True, backend=counter)  # a graph break would raise
    expected, found = (part(input_ids=ids, document_ids=documents).positions for part in (plain, fast))
    assert torch.allclose(expected[documents > 0], found[documents > 0], atol=TOLERANCE.get(family, 1e-10))
    frames = counter.frame_count
    other = torch.where(documents == 2, 1, documents)  # the same shapes: nothing is compiled again
    fast(input_ids=ids, document_ids=other)
    assert counter.frame_count == frames <= len(set(FAMILIES[family][0].get("layer_types", "ab"))) + 1


def test_activation_checkpointing_gives_the_same_gradient():
    (plain, fast), (ids, documents) = (
        pair("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        packed_rows(),
    )
    fast.train()
    fast.set_compute(compiled=False, activation_checkpointing=True, sharded=False)
    expected, found = (
        gradients(part, part(input_ids=ids, document_ids=documents).positions, documents) for part in (plain, fast)
    )
    assert all(torch.allclose(value, found[name], atol=1e-10) for name, value in expected.items())


def test_what_it_cannot_compute_is_refused():
    with pytest.raises(ValueError, match=r"impl=fast computes bert, .*not electra: choose backbone.impl=transformers"):
        TransformersBackbone(config={**FAMILIES["electra"][0]}, vocab_size=90, impl="fast")
    with pytest.raises(ValueError, match="architecture=causal is none"):
        TransformersBackbone(config=FAMILIES["gpt2"][0], architecture="causal", vocab_size=90, impl="fast")
    with pytest.raises(ValueError, match="impl='slow' is unknown"):
        TransformersBackbone(config={"model_type": "bert", **SMALL}, vocab_size=90, impl="slow")
    with pytest.raises(ValueError, match=r"backbone\.impl=fast reads whole weights"):
        pair("bert")[1].set_compute(compiled=False, activation_checkpointing=False, sharded=True)


def test_a_hand_off_is_written_as_transformers_writes_it(tmp_path):
    from transformers import AutoModel

    (plain, fast), (ids, _) = pair("bert", torch.float32), packed_rows()
    for name, backbone in (("plain", plain), ("fast", fast)):
        backbone.export(tmp_path / name)
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("plain", "fast")]
    assert files[0] == files[1] and fast.kwargs == plain.kwargs
    lone = ids[2:]
    expected = AutoModel.from_pretrained(tmp_path / "fast").eval()(input_ids=lone).last_hidden_state
    assert torch.allclose(expected, fast(input_ids=lone, document_ids=torch.ones_like(lone)).positions, atol=1e-5)
    read = TransformersBackbone(config=None, init_from=str(tmp_path / "fast"), impl="fast").eval()
    assert torch.equal(
        read(input_ids=lone, document_ids=torch.ones_like(lone)).pooled, fast(lone, torch.ones_like(lone)).pooled
    )


def test_bf16_stays_as_near_to_double_precision_as_transformers_own():
    (plain, fast), (ids, documents) = pair("bert"), packed_rows()
    exact = plain(input_ids=ids, document_ids=documents).positions[documents > 0]
    errors = []
    for backbone in (plain.float(), fast.float()):
        with torch.autocast("cpu", torch.bfloat16):
            found = backbone(input_ids=ids, document_ids=documents).positions[documents > 0]
        errors.append(float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    assert errors[1] < 1.25 * errors[0] < 0.05, errors


def test_a_copy_of_a_model_computes_with_its_own_weights():
    import copy

    model = MaskedLanguage(backbone=pair("bert")[1], optimizer=plain_sgd())
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.input_embeddings.weight.zero_()
    ids, documents = packed_rows()
    before, after = (part.backbone(input_ids=ids, document_ids=documents).positions for part in (model, other))
    assert not torch.allclose(before, after)


def test_a_killed_and_resumed_run_ends_as_one_that_was_not(tmp_path, cache_dir):
    overrides = [*text_overrides(write_corpus(tmp_path), cache_dir), "backbone.impl=fast", "resume=auto"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finish([*overrides, f"run_dir={whole}"]) == 0
    process = start([*overrides, f"run_dir={parts}"])
    wait_for(lambda: (parts / "checkpoints" / "step-0000010.json").exists() or not process.is_alive())
    kill_group(process)
    assert finish([*overrides, f"run_dir={parts}"]) == 0
    assert_same_end(whole, parts)


def objectives(backbone):
    """Every objective that reads an encoder, on a batch of its own."""
    from pretraining.objectives.text.bert import Bert
    from pretraining.objectives.text.next_sentence import NextSentence

    ids, documents = packed_rows()
    places = torch.tensor([2, 3, 9, 14, 40, 41, 42, 70, 0])
    labels = torch.where(places > 0, ids.flatten()[places], -100)
    whole, is_random = (documents > 0).long(), torch.tensor([0, 1, 1])
    packed = {"input_ids": ids, "document_ids": documents}
    paired = {"input_ids": ids, "document_ids": whole, "token_type_ids": whole * (torch.arange(32) > 9)}
    targets = {"target_positions": places, "labels": labels}
    parts = {"backbone": backbone, "optimizer": plain_sgd()}
    torch.manual_seed(4)
    return {
        "masked_language": (MaskedLanguage(**parts), {"inputs": packed, **targets}),
        "spanbert": (MaskedLanguage(**parts, boundary_weight=1.0), {"inputs": packed, **targets}),
        "bert": (
            Bert(**parts, mlm_weight=1.0, nsp_weight=1.0),
            {"inputs": paired, **targets, "is_random": is_random},
        ),
        "next_sentence": (NextSentence(**parts), {"inputs": paired, "is_random": is_random}),
    }


@pytest.mark.parametrize("name", ["masked_language", "spanbert", "bert", "next_sentence"])
def test_every_objective_of_an_encoder_has_the_same_loss_and_gradient(name):
    found = []
    for impl in ("transformers", "fast"):
        torch.manual_seed(0)
        rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        pooling = "pooler" if name in ("bert", "next_sentence") else "mean"
        backbone = TransformersBackbone(
            config={**FAMILIES["bert"][0], **rates}, vocab_size=90, pad_id=1, impl=impl, pooling=pooling
        )
        objective, batch = objectives(backbone)[name]
        objective = objective.double().train()
        terms = objective.loss(batch).terms
        sum(term.total for term in terms.values()).backward()
        gradient = {
            part: parameter.grad for part, parameter in objective.named_parameters() if parameter.grad is not None
        }
        found.append(({part: float(term.total.detach()) for part, term in terms.items()}, gradient))
    (losses, expected), (ours, gradient) = found
    assert losses == pytest.approx(ours, rel=1e-10)
    assert expected.keys() == gradient.keys() and len(gradient) > 20
    assert all(torch.allclose(value, gradient[part], atol=1e-8) for part, value in expected.items())
