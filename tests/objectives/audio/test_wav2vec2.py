"""wav2vec 2.0: its loss is transformers' on the same masks, negatives and noise; a step's gradient does not depend on
how it is split.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from pretraining.objectives.audio.quantiser import Temperature, gumbel
from pretraining.objectives.audio.wav2vec2 import collapse, contrast
from tests.objectives.audio.small_audio import ENCODER, batch_of, wav2vec2
from tests.one_step import assert_same_gradient, gradient_of

ROWS = (0, 1, 2, 3)


def theirs_of(model):
    """Build transformers' model with the weights of ours."""
    config = Wav2Vec2Config(
        **{name: value for name, value in ENCODER.items() if name != "model_type"},
        **{"num_codevector_groups": 2, "num_codevectors_per_group": 5, "codevector_dim": 8, "proj_codevector_dim": 6},
        **{"layerdrop": 0.0, "feat_quantizer_dropout": 0.0, "num_negatives": 9, "diversity_loss_weight": 0.1},
    )
    theirs = Wav2Vec2ForPreTraining(config)
    theirs.wav2vec2.load_state_dict(model.backbone.model.state_dict())
    quantiser = model.quantiser
    with torch.no_grad():
        theirs.quantizer.codevectors.copy_(quantiser.vectors.flatten(0, 1)[None])
    theirs.quantizer.weight_proj.load_state_dict(quantiser.score.state_dict())
    theirs.project_q.load_state_dict(model.project_target.state_dict())
    theirs.project_hid.load_state_dict(model.project_context.state_dict())
    return theirs


def over_frames(values, batch):
    """Lay what hidden frames have out over all frames. [B, M, ...] -> [B, T, ...]"""
    mask = batch["inputs"]["mask"]
    laid = values.new_zeros(*mask.shape, *values.shape[2:])
    for row, count in enumerate(batch["hidden"]):
        laid[row, batch["places"][row, :count]] = values[row, :count]
    return laid


@pytest.mark.parametrize("few_codes", [False, True])
def test_the_loss_is_transformers_own(monkeypatch, few_codes):
    model = wav2vec2()
    if few_codes:  # so that many negatives have the target's codes
        with torch.no_grad():
            model.quantiser.score.bias[[0, 5]] += 40.0
            model.quantiser.score.bias[[1, 6]] += 39.0
    batch = model.on_device(batch_of(ROWS))
    noise, width = over_frames(batch["noise"], batch), batch["inputs"]["mask"].shape[1]
    temperatures = []

    def with_our_noise(logits, tau, hard):
        assert hard
        temperatures.append(tau)
        soft = ((logits + noise.reshape(logits.shape)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), logits.shape[-1]) - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", with_our_noise)
    places = batch["places"].gather(1, batch["negatives"].flatten(1)).reshape(batch["negatives"].shape)
    negatives = over_frames(places, batch) + torch.arange(len(ROWS))[:, None, None] * width
    waves, lengths = batch["inputs"]["waves"], batch["inputs"]["lengths"]
    theirs = theirs_of(model).train()
    theirs.set_gumbel_temperature(Temperature(start=2.0, end=0.5, share=0.7).at(0.3))
    said = theirs(
        waves,
        attention_mask=(torch.arange(waves.shape[1]) < lengths[:, None]).long(),
        mask_time_indices=batch["inputs"]["mask"],
        sampled_negative_indices=negatives,
    )
    loss = model.loss(batch)
    hidden = int(batch["hidden"].sum())
    assert temperatures[0] == pytest.approx(2.0 * 0.25 ** (0.3 / 0.7))
    assert loss.terms["contrastive"].total.item() == pytest.approx(said.contrastive_loss.item(), rel=1e-5)
    assert loss.terms["diversity"].total.item() == pytest.approx(said.diversity_loss.item(), rel=1e-5)
    ours = loss.terms["contrastive"].total + 0.1 * loss.terms["diversity"].total
    assert ours.item() == pytest.approx(said.loss.item(), rel=1e-5)
    assert loss.metrics["probability_perplexity"].total.item() / hidden == pytest.approx(
        said.codevector_perplexity.item(), rel=1e-5
    )
    if few_codes:
        assert loss.metrics["code_perplexity"].total.item() / hidden < 6  # of 10


def test_the_gradient_is_transformers_own_but_for_the_stem_s_scale(monkeypatch):
    model = wav2vec2(stem_gradient=0.25)
    batch = model.on_device(batch_of(ROWS))
    noise = over_frames(batch["noise"], batch)

    def with_our_noise(logits, tau, hard):
        soft = ((logits + noise.reshape(logits.shape)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), logits.shape[-1]) - soft.detach() + soft

    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", with_our_noise)
    places = batch["places"].gather(1, batch["negatives"].flatten(1)).reshape(batch["negatives"].shape)
    width = batch["inputs"]["mask"].shape[1]
    waves = batch["inputs"]["waves"]
    theirs = theirs_of(model).train()
    theirs.set_gumbel_temperature(2.0 * 0.25 ** (0.3 / 0.7))
    theirs(
        waves,
        attention_mask=(torch.arange(waves.shape[1]) < batch["inputs"]["lengths"][:, None]).long(),
        mask_time_indices=batch["inputs"]["mask"],
        sampled_negative_indices=over_frames(places, batch) + torch.arange(len(ROWS))[:, None, None] * width,
    ).loss.backward()
    loss = model.loss(batch)
    (loss.terms["contrastive"].total + 0.1 * loss.terms["diversity"].total).backward()
    expected = dict(theirs.wav2vec2.named_parameters())
    compared = 0
    for name, parameter in model.backbone.model.named_parameters():
        scale = 0.25 if name.startswith("feature_extractor") else 1.0
        torch.testing.assert_close(parameter.grad, expected[name].grad * scale, rtol=1e-3, atol=1e-4)
        compared += 1
    assert compared > 20
    torch.testing.assert_close(
        model.quantiser.score.weight.grad, theirs.quantizer.weight_proj.weight.grad, rtol=1e-3, atol=1e-4
    )


def test_the_penalty_is_the_mean_square_of_the_stem_s_output_over_frames_that_are_there():
    model = wav2vec2().eval()
    batch = model.on_device(batch_of(ROWS))
    rows = [
        model.backbone.model.feature_extractor(batch["inputs"]["waves"][row : row + 1, :length])
        for row, length in enumerate(batch["inputs"]["lengths"].tolist())
    ]
    expected = torch.cat([row[0].square().mean(0) for row in rows]).mean()
    term = model.loss(batch).terms["feature_penalty"]
    assert (term.total / term.count).item() == pytest.approx(expected.item(), rel=1e-5) and term.weight == 10.0
    assert term.count == model.counts(batch)["feature_penalty"] == sum(map(len, [row[0].T for row in rows]))


def test_negatives_are_other_hidden_frames_of_the_row_each_as_likely():
    model = wav2vec2(negatives=2000)
    batch = model.on_device(batch_of(ROWS))
    for row, count in enumerate(batch["hidden"].tolist()):
        drawn = batch["negatives"][row, :count].numpy()
        for own in range(count):
            tally = np.bincount(drawn[own], minlength=count)
            assert tally[own] == 0 and len(tally) == count
            others = np.delete(tally, own)
            assert others.sum() == 2000 and abs(others - 2000 / (count - 1)).max() < 6 * math.sqrt(2000 / (count - 1))


def test_a_model_that_tells_nothing_apart_is_at_chance_and_right_nowhere():
    same = torch.ones(1, 5, 3)
    chosen = torch.arange(5)[None, :, None]
    negatives = torch.tensor([[[(own + 1 + k) % 5 for k in range(4)] for own in range(5)]])
    losses, right = contrast(same, same, chosen, negatives)
    torch.testing.assert_close(losses, torch.full((1, 5), math.log(5)))
    assert not right.any()
    losses, right = contrast(same, same, torch.zeros_like(chosen), negatives)  # one code for everything
    torch.testing.assert_close(losses, torch.zeros(1, 5))
    assert not right.any()


def test_a_collapse_is_named():
    values = {"validation/contrastive": 4.6, "validation/chance": math.log(101), "validation/code_perplexity": 300.0}
    assert "what guessing costs (4.615)" in collapse(values, "validation", 640)
    assert collapse(values | {"validation/contrastive": 2.0}, "validation", 640) is None
    few = values | {"validation/contrastive": 2.0, "validation/code_perplexity": 2.1}
    assert "2.1 of 640" in collapse(few, "validation", 640)


def test_gumbel_s_noise_has_its_mean_and_deviation_and_the_temperature_falls_by_equal_factors():
    drawn = gumbel(torch.from_numpy(np.random.default_rng(0).random(400_000)))
    assert drawn.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert drawn.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    published = Temperature(start=2.0, end=0.5, share=277_258 / 400_000)
    for step in (0, 1000, 100_000, 277_258, 400_000):
        assert published.at(step / 400_000) == pytest.approx(max(2 * 0.999995**step, 0.5), rel=1e-4)


def test_half_precision_is_kept_out_of_codes_and_cosines():
    model = wav2vec2()
    batch = model.on_device(batch_of(ROWS))
    exact = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)
        normed = model.backbone.normed(model.backbone.stem(batch["inputs"]["waves"], None)[0])
        quantised = model.quantiser(normed, None, 1.0)
    assert quantised.probabilities.dtype == loss.terms["contrastive"].total.dtype == torch.float32
    for name, term in exact.terms.items():
        assert loss.terms[name].total.item() == pytest.approx(term.total.item(), rel=0.1), name


def test_a_row_with_one_hidden_frame_counts_for_nothing_but_the_penalty():
    model = wav2vec2()
    batch = model.on_device(batch_of((0, 1), lengths=(70, 900), share=0.1))  # 3 frames: one hidden
    assert batch["hidden"][0] == 1 and model.counts(batch)["contrastive"] == batch["hidden"][1]
    represented = model.represent(batch)
    assert not represented[0, :2].any() and not represented[0, 3:].any() and represented[0, 2] > 0


PARTS = {1: [range(8)], 2: [(0, 1, 2, 3), (4, 5, 6, 7)], 4: [(0, 1), (2, 3), (4, 5), (6, 7)]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return gradient_of(wav2vec2(), [batch_of(range(8))], tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_of_micro_batches_is_that_of_the_step(whole, parts, tmp_path):
    assert_same_gradient(whole, gradient_of(wav2vec2(), [batch_of(rows) for rows in PARTS[parts]], tmp_path))


def test_diversity_by_micro_batch_would_be_another_gradient(whole, tmp_path):
    """What the test above is worth: codes averaged over a part alone give something else."""
    model = wav2vec2()
    model.coupled_loss, one = model.loss, model.coupled_loss
    apart = []
    for rows in PARTS[2]:
        loss = one(model.represent(model.on_device(batch_of(rows))), [batch_of(rows)])
        apart.append(loss.terms["diversity"])
    together = one(model.represent(model.on_device(batch_of(range(8)))), [batch_of(range(8))]).terms["diversity"]
    assert abs(sum(term.total for term in apart) - together.total) > 1e-2
