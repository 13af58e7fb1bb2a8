"""Joint-embedding objectives: each loss is an independent one on the same embeddings; the methods' traps are shut."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretraining.engine.batch import StepSettings
from pretraining.objectives.image.patch_predictor import Asked
from pretraining.objectives.losses.sinkhorn import Codes
from pretraining.objectives.memory import QueueContrast
from pretraining.optim.optimizers import AdamW
from tests.objectives.image.joint_small import (
    BATCH,
    PROTOTYPES,
    WIDTH,
    batch_of,
    built,
    distillation,
    head,
    loss_of,
    prepared,
)


def sides(module, batch):
    """Embed both views, by the student and (where there is one) the teacher."""
    projected = module.projector(module.backbone(**batch["inputs"]).pooled).detach()
    predicted = module.predictor(projected).detach() if hasattr(module, "predictor") else projected
    known = module.targets(batch["inputs"]["images"]) if hasattr(module, "teacher") else projected
    return [part.chunk(2) for part in (predicted, known)]


def cosine(first, second):
    return float(F.cosine_similarity(first, second, dim=0))


# -- losses ------------------------------------------------------------------------------------------------------------


def test_byol_adds_the_distances_of_both_directions():
    module = built("byol")
    batch = prepared(module)
    (first, second), (one, two) = sides(module, batch)
    each = [4 - 2 * cosine(first[n], two[n]) - 2 * cosine(second[n], one[n]) for n in range(BATCH)]
    assert loss_of(module, batch) == {"distance": pytest.approx(np.mean(each))}


def test_simsiam_averages_both_directions_and_stops_the_gradient_of_the_target():
    module = built("simsiam")
    batch = prepared(module)
    (first, second), (one, two) = sides(module, batch)
    each = [-0.5 * (cosine(first[n], two[n]) + cosine(second[n], one[n])) for n in range(BATCH)]
    assert loss_of(module, batch) == {"negative_cosine": pytest.approx(np.mean(each))}
    module.predictor.requires_grad_(False)[-1].weight.zero_()
    module.predictor[-1].bias.fill_(1.0)  # a predictor that ignores its input: only a target could pass a gradient
    module.loss(batch).terms["negative_cosine"].total.backward()
    assert all(part.grad is None or part.grad.abs().max() < 1e-12 for part in module.projector.parameters())


def test_simsiam_s_predictor_keeps_its_rate():
    shape = {"schedule": "cosine", "final_fraction": 0.0, "weight_decay": 0.1, "betas": [0.9, 0.99], "eps": 1e-8}
    rates = {}
    for constant in (True, False):
        module = built(
            "simsiam", optimizer=AdamW(peak_lr=1.0, warmup_steps=0, **shape), constant_predictor_rate=constant
        )
        module.settings = StepSettings(max_steps=10)
        (optimizer,), (schedule,) = module.configure_optimizers()
        for _ in range(10):
            optimizer.step()
            schedule["scheduler"].step()
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for group in optimizer.param_groups:
            sides = {names[id(parameter)].startswith("predictor.") for parameter in group["params"]}
            assert len(sides) == 1 and group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0)
            rates.setdefault((constant, *sides), set()).add(round(group["lr"], 9))
    assert rates == {(True, True): {1.0}, (True, False): {0.0}, (False, True): {0.0}, (False, False): {0.0}}


def test_vicreg_weighs_three_terms_of_the_batch():
    module = built("vicreg")
    batch = prepared(module)
    first, second = (part.numpy() for part in sides(module, batch)[0])
    expected = {"invariance": ((first - second) ** 2).mean()}
    matrices = [np.cov(part.T) for part in (first, second)]
    expected["variance"] = np.mean([np.maximum(0, 1 - np.sqrt(np.diag(m) + 1e-4)).mean() for m in matrices])
    expected["covariance"] = sum(((m**2).sum() - (np.diag(m) ** 2).sum()) / WIDTH for m in matrices)
    assert loss_of(module, batch) == pytest.approx(expected)
    assert {n: t.weight for n, t in module.loss(batch).terms.items()} == {
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
    }


def test_barlow_twins_sums_squares_over_the_correlation_matrix():
    module = built("barlow_twins", weight=0.1)
    batch = prepared(module)
    first, second = (part.numpy() for part in sides(module, batch)[0])
    first, second = ((part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5) for part in (first, second))
    matrix = first.T @ second / BATCH
    expected = {"invariance": ((np.diag(matrix) - 1) ** 2).sum()}
    expected["redundancy"] = (matrix**2).sum() - (np.diag(matrix) ** 2).sum()
    assert loss_of(module, batch) == pytest.approx(expected)
    assert [term.weight for term in module.loss(batch).terms.values()] == pytest.approx([0.1, 0.1 * 0.0051])


@pytest.mark.parametrize("name", ["moco_v2", "moco_v2_symmetric"])
def test_moco_v2_tells_the_key_from_the_queue(name):
    module = built(name)
    batch = prepared(module)
    (first, second), (one, two) = sides(module, batch)
    asked = [(first, two), (second, one)] if name.endswith("symmetric") else [(first, two)]
    each = []
    for queries, keys in asked:
        for query, key in zip(queries, keys, strict=True):
            logits = [cosine(query, key), *(cosine(query, row) for row in module.queue.rows)]
            each.append(np.log(np.exp(np.array(logits) / 0.2).sum()) - logits[0] / 0.2)
    assert loss_of(module, batch) == {"info_nce": pytest.approx(np.mean(each))}


def test_moco_v3_tells_the_key_from_those_of_the_step():
    module = built("moco_v3")
    batch = prepared(module)
    (first, second), (one, two) = sides(module, batch)
    each = []
    for queries, keys in ((first, two), (second, one)):
        for n, query in enumerate(queries):
            logits = np.array([cosine(query, key) for key in keys]) / 0.2
            each.append(2 * 0.2 * (np.log(np.exp(logits).sum()) - logits[n]))
    assert loss_of(module, batch) == {"info_nce": pytest.approx(2 * np.mean(each))}


def test_dino_distils_each_global_view_into_all_others():
    module = built("dino")
    batch = prepared(module)
    module.centre.value.copy_(torch.linspace(-0.1, 0.1, PROTOTYPES))
    rows = [module.backbone(**batch[part]).pooled for part in ("inputs", "local_inputs")]
    student = [*module.prototypes(module.projector(rows[0])).chunk(2)]
    student += module.prototypes(module.projector(rows[1])).chunk(3)
    known = module.teacher.prototypes(module.targets(batch["inputs"]["images"])).chunk(2)
    pairs = []
    for q in range(2):
        target = ((known[q] - module.centre.value) / 0.04).softmax(1)
        pairs += [-(target * (student[v] / 0.1).softmax(1).log()).sum(1).mean() for v in range(5) if v != q]
    assert len(pairs) == 8
    assert loss_of(module, batch) == {"self_distillation": pytest.approx(float(torch.stack(pairs).mean()))}


def test_ibot_adds_the_hidden_patches_of_each_view():
    module = built("ibot")
    batch = prepared(module)
    module.patch_centre.value.copy_(torch.linspace(-0.1, 0.1, PROTOTYPES))
    assert 0 < batch["masked"].any(1).sum() < 2 * BATCH, "some views hide something, some nothing"
    seen = module.backbone(**batch["inputs"], masked=batch["masked"], mask_token=module.mask_token).positions
    taught = module.teacher.backbone(**batch["inputs"]).positions
    total = 0.0
    for view, hidden in enumerate(batch["masked"]):
        terms = []
        for patch in hidden.nonzero().flatten():
            known = module.teacher.prototypes(module.teacher.projector(taught[view, patch][None]))
            target = ((known - module.patch_centre.value) / 0.04).softmax(1)
            guess = (module.prototypes(module.projector(seen[view, patch][None])) / 0.1).log_softmax(1)
            terms.append(float(-(target * guess).sum()))
        total += np.mean(terms) / 2 if terms else 0.0
    found = loss_of(module, batch)
    assert found["patch_distillation"] == pytest.approx(total / BATCH) and set(found) == {
        "self_distillation",
        "patch_distillation",
    }


def test_ibot_s_student_does_not_see_what_is_hidden_and_its_teacher_does():
    module = built("ibot")
    batch = prepared(module)
    images, hidden = batch["inputs"]["images"], batch["masked"].unflatten(1, (4, 4))
    covered = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    other = torch.where(covered, torch.randn_like(images), images)
    given = {"masked": batch["masked"], "mask_token": module.mask_token}
    assert torch.equal(
        module.backbone(images=images, **given).positions, module.backbone(images=other, **given).positions
    )
    assert not torch.equal(module.targets(images), module.targets(other))


def test_i_jepa_regresses_normalised_features_of_blocks():
    module = built("i_jepa")
    batch = prepared(module)
    asked = Asked(*(batch[name] for name in Asked._fields))
    taught = module.teacher.backbone(**batch["inputs"]).positions.numpy()
    taught = (taught - taught.mean(-1, keepdims=True)) / np.sqrt(taught.var(-1, keepdims=True) + 1e-5)
    context = module.backbone(**batch["inputs"], visible=asked.context).positions
    predicted = module.predictor(context, asked).detach().numpy()
    blocks = []
    for image in range(BATCH):
        for target in range(4):
            errors = []
            for place in asked.valid[image, target].nonzero().flatten().tolist():
                error = predicted[image, target, place] - taught[image, asked.targets[image, target, place]]
                errors.append(np.where(abs(error) < 1, 0.5 * error**2, abs(error) - 0.5).mean())
            blocks.append(np.mean(errors))
    assert loss_of(module, batch) == {"smooth_l1": pytest.approx(np.mean(blocks))}


def test_i_jepa_s_predictions_depend_on_their_own_target_and_context_alone():
    """Not on the places that a smaller target leaves empty, and not on the other targets."""
    module = built("i_jepa")
    asked = Asked(*(prepared(module)[name] for name in Asked._fields))
    context = torch.randn(BATCH, asked.context.shape[1], 16, dtype=torch.float64)
    found = module.predictor(context, asked)
    count = int(asked.valid[0, 1].sum())
    alone = Asked(asked.context[:1], asked.targets[:1, 1:2, :count], asked.valid[:1, 1:2, :count])
    assert count < asked.valid.shape[2]
    assert torch.allclose(module.predictor(context[:1], alone)[0, 0], found[0, 1, :count], atol=1e-12)


def test_swav_predicts_codes_of_both_global_views_from_all_others():
    module = built("swav")
    batch = prepared(module)
    rows = [module.backbone(**batch[part]).pooled for part in ("inputs", "local_inputs")]
    scores = [part for r, n in zip(rows, (2, 3), strict=True)
              for part in module.prototypes(F.normalize(module.projector(r), dim=1)).detach().chunk(n)]  # fmt: skip
    pairs = []
    for q in range(2):
        plan = np.exp(scores[q].numpy() / 0.05)
        for _ in range(3):
            plan /= plan.sum(0, keepdims=True)
            plan /= plan.sum(1, keepdims=True)
        logs = [(scores[v] / 0.1).log_softmax(1).numpy() for v in range(5) if v != q]
        pairs += [-(plan * part).sum(1).mean() for part in logs]
    assert loss_of(module, batch) == {"swapped_prediction": pytest.approx(np.mean(pairs))}


def test_losses_start_where_the_papers_say():
    """ln K for prototypes, ln of the candidates for contrasts, around 4 and 0 for cosines of random directions."""
    many = {"distillation": distillation(prototypes=4096), "projector": head("vit", 3, output=256, init_std=0.02)}
    start = {name: loss_of(module := built(name, **changes), prepared(module)) for name, changes in {
        "dino": many,
        "swav": {"codes": Codes(prototypes=4096, temperature=1.0, epsilon=0.05)},
        "moco_v2": {"contrast": QueueContrast(queue=4000, temperature=2.0)},
    }.items()}  # fmt: skip
    assert start["dino"]["self_distillation"] == pytest.approx(math.log(4096), abs=0.6)
    assert start["swav"]["swapped_prediction"] == pytest.approx(math.log(4096), abs=0.6)
    assert start["moco_v2"]["info_nce"] == pytest.approx(math.log(4001), abs=0.6)


@pytest.mark.parametrize("name", ["simclr", "vicreg", "barlow_twins", "moco_v3", "swav"])
def test_a_loss_over_a_step_is_computed_in_single_precision_whatever_the_network_computes_in(name):
    module = built(name)
    batch = module.on_device(batch_of(range(BATCH)))
    representations = module.represent(batch)
    plain = module.coupled_loss(representations, [batch])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module.coupled_loss(representations, [batch])
    for term, value in plain.terms.items():
        assert torch.equal(mixed.terms[term].total, value.total) and value.total.dtype == torch.float32
