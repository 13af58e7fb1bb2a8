"""CLIP and SigLIP as objectives: one gradient for the whole step, scale and shift included, and what bounds them."""

import math

import pytest
import torch
from torch.nn import functional as F

from pretraining.engine.batch import Step, StepSettings
from pretraining.engine.trainer import TrainerSettings, build_trainer
from pretraining.objectives.pairs.clip import Clip
from pretraining.objectives.pairs.siglip import SigLip
from tests.one_step import Steps, assert_same_gradient, gradient_of
from tests.pairs.small import BATCH, CAPTIONS, FALSE, READ, batch_of, objective, split
from tests.ranks import in_ranks

KINDS = {"clip": (Clip, {}), "smoothed": (Clip, {"label_smoothing": 0.1}), "siglip": (SigLip, {"logit_bias": -3.0})}
SCALARS = {"clip": ["logit_scale"], "smoothed": ["logit_scale"], "siglip": ["logit_scale", "logit_bias"]}


def made(name):
    kind, settings = KINDS[name]
    model = objective(kind, **settings)
    for tower in model.backbone.towers.values():  # dropout would differ between micro-batches and ranks
        for module in tower.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    return model


def definition(model, batch):
    """The objective written out: cosines, a scale and a shift as factors of their own."""
    features = model.backbone(**batch["inputs"])
    image, text = (F.normalize(model.projections[name](features[name].pooled), dim=-1) for name in ("image", "text"))
    logits = model.logit_scale.exp() * image @ text.T
    texts = [CAPTIONS[row][READ[row]] for row in range(BATCH)]
    texts += [false for row in range(BATCH) for false in FALSE.get(row, [])][: logits.shape[1] - BATCH]
    right = torch.tensor([[text in own for text in texts] for own in CAPTIONS])
    if isinstance(model, SigLip):
        return -F.logsigmoid(torch.where(right, 1.0, -1.0) * (logits + model.logit_bias)).sum() / BATCH
    total = 0.0
    for scores, target in ((logits, right.double()), (logits[:, :BATCH].T, right[:, :BATCH].T.double())):
        target = target / target.sum(1, keepdim=True)
        target = (1 - model.label_smoothing) * target + model.label_smoothing / target.shape[1]
        total = total - 0.5 * (target * scores.log_softmax(1)).sum(1).mean()
    return total


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_one_step_is_minus_the_gradient_of_the_definition(tmp_path, name, hard):
    model, batch = made(name).double().train(), batch_of(range(BATCH), hard)
    definition(model, batch).backward()
    expected = {key: part.grad.numpy() for key, part in model.named_parameters() if part.requires_grad}
    found = gradient_of(made(name), [batch], tmp_path)
    assert_same_gradient(expected, found, 1e-10)
    assert all(abs(expected[scalar]).min() > 1e-3 for scalar in SCALARS[name])


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_micro_batches_give_the_gradient_of_the_whole_step_with_scale_and_shift(tmp_path, name, hard):
    whole = gradient_of(made(name), split(1, hard=hard), tmp_path)
    assert set(SCALARS[name]) <= set(whole)
    for parts in (2, 4):
        assert_same_gradient(whole, gradient_of(made(name), split(parts, hard=hard), tmp_path), 1e-10)


def of_rank(rank, world, name, tmp_path, parts, hard):
    step = BATCH // parts
    chunks = [list(range(BATCH))[start : start + step] for start in range(0, BATCH, step)]
    own = [chunk[rank * step // world : (rank + 1) * step // world] for chunk in chunks]
    return gradient_of(made(name), [batch_of(rows, hard) for rows in own], tmp_path / str(rank), rank=rank, world=world)


@pytest.mark.parametrize(("name", "parts", "hard"), [("clip", 1, False), ("siglip", 2, False), ("clip", 2, True)])
def test_two_ranks_take_the_step_of_one_process(tmp_path, name, parts, hard):
    whole = gradient_of(made(name), split(1, hard=hard), tmp_path)
    for found in in_ranks(of_rank, 2, name, tmp_path, parts, hard):
        assert_same_gradient(whole, found, 1e-10)


def test_evaluation_is_of_a_batch_by_itself_and_names_what_was_found():
    model = made("clip").double().eval()
    batch = batch_of(range(BATCH))
    with torch.no_grad():
        found, expected = model.loss(batch), float(definition(model, batch))
    assert abs(float(found.terms["clip"].total) / BATCH - expected) < 1e-10
    assert set(found.metrics) == {"image_to_text", "text_to_image", "scale", "false_told"}
    assert found.metrics["false_told"].count == 0  # there are none
    assert abs(float(found.metrics["scale"].total) / BATCH - 3.0) < 1e-5
    hard = batch_of(range(BATCH), hard=True)
    with torch.no_grad():
        vectors, told = model.represent(hard), model.loss(hard).metrics["false_told"]
    less = [float(vectors[row, 0] @ vectors[row, 2 + place]) < float(vectors[row, 0] @ vectors[row, 1])
            for row, own in FALSE.items() for place in range(len(own))]  # fmt: skip
    assert (told.total, told.count) == (sum(less), 6) and (vectors[1, 2:] == 0).all()
    scale = made("siglip").double().eval().loss(batch_of(range(3))).metrics["scale"]
    assert float(scale.total) / 3 == pytest.approx(3)


def test_the_scale_starts_where_it_is_set_and_the_shift_too():
    assert math.isclose(float(objective(Clip, scale=1 / 0.07).logit_scale.detach()), 2.6593, abs_tol=1e-4)
    model = objective(SigLip, scale=10.0, logit_bias=-10.0)
    assert math.isclose(float(model.logit_scale.detach()), math.log(10), abs_tol=1e-6)
    assert float(model.logit_bias.detach()) == -10.0


@pytest.mark.parametrize(("push", "stops"), [(-1000.0, math.log(6.0)), (1000.0, 0.0)])
def test_the_scale_is_brought_back_into_its_bounds_after_the_step(tmp_path, push, stops):
    model = objective(Clip, scale=3.0, max_scale=6.0)
    model.logit_scale.register_hook(lambda gradient: torch.full_like(gradient, push))
    gradient_of(model, split(1), tmp_path)
    assert float(model.logit_scale.detach()) == pytest.approx(stops, abs=1e-12)


def test_scale_and_shift_have_no_decay_and_stay_in_single_precision():
    model = objective(SigLip, logit_bias=-10.0)
    decayed = {name: group.decayed for group in model.parameter_groups() for name in group.names}
    assert not decayed["logit_scale"] and not decayed["logit_bias"] and decayed["projections.image.weight"]
    with torch.autocast("cpu", torch.bfloat16):
        batch = batch_of(range(4))
        batch["inputs"]["image"]["images"] = batch["inputs"]["image"]["images"].float()
        represented = model.represent(batch)
    assert represented.dtype == torch.float32 and represented.shape == (4, 4, 11)
    torch.testing.assert_close(represented[:, 0, :10].norm(dim=1), torch.full((4,), 3.0))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        objective(Clip, scale=0.5)
    with pytest.raises(ValueError, match="label_smoothing=1"):
        objective(Clip, label_smoothing=1.0)


def test_both_are_learnt_by_heart(tmp_path):
    """Eight pairs, of which two share a caption and one has another's: all are found, both ways."""
    from pretraining.optim.optimizers import AdamW

    for name in ("clip", "siglip"):
        model = made(name)
        flat = {"warmup_steps": 0, "schedule": "constant", "final_fraction": 1.0, "weight_decay": 0.0}
        model.optimizer = AdamW(peak_lr=1e-2, betas=(0.9, 0.98), eps=1e-8, **flat)
        model.settings = StepSettings(seed=1, max_steps=60)
        batch = batch_of(range(BATCH))
        batch["inputs"]["image"]["images"] = batch["inputs"]["image"]["images"].float()
        steps = Steps([Step(number, [batch], examples=8, units=8) for number in range(60)])
        settings = TrainerSettings(max_steps=60, precision="fp32")
        build_trainer(settings, [], [], tmp_path).fit(model, steps)
        found = model.eval().loss(batch).metrics
        assert found["image_to_text"].total == found["text_to_image"].total == BATCH
