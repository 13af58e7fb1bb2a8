"""The traps of joint-embedding methods are shut: queues, centres, frozen layers, teachers, views, collapse."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretraining.engine.batch import StepSettings
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from pretraining.objectives.losses.sinkhorn import Codes
from pretraining.objectives.memory import Centre, Queue
from pretraining.optim.schedules import Schedule
from tests.objectives.image.joint_small import (
    BATCH,
    CASES,
    PROTOTYPES,
    backbone,
    batch_of,
    built,
    distillation,
    loss_of,
    prepared,
    split,
    views,
)
from tests.one_step import gradient_of

TAUGHT = [name for name, (family, _) in CASES.items() if family.__module__.rpartition(".")[2] in
          ("byol", "moco_v2", "moco_v3", "dino", "ibot", "i_jepa")]  # fmt: skip

# -- queue, centre, freeze ---------------------------------------------------------------------------------------------


def steps_of(module, count, directory):
    """Take steps one by one; returns nothing but leaves the module where they lead."""
    from tests.objectives.image.test_joint_exact import taken

    return taken(module, [split(1, seed) for seed in range(count)], directory)


def test_the_queue_holds_the_latest_keys_in_the_order_of_the_step(tmp_path):
    module, noted = built("moco_v2"), []
    module.queue.note = lambda rows: (noted.append(rows.detach().clone()), Queue.note(module.queue, rows))
    first = module.queue.rows.double().clone()
    steps_of(module, 2, tmp_path)
    assert len(noted) == 2 and torch.equal(module.queue.rows, torch.cat([first, *noted])[-20:])
    assert torch.allclose(first.norm(dim=1), torch.ones(20, dtype=torch.float64), atol=1e-6)


def test_a_key_is_no_negative_of_its_own_query():
    """The queue is that before the step: contrasting does not change it."""
    module = built("moco_v2")
    batch, before = prepared(module), module.queue.rows.clone()
    module.loss(batch)
    assert torch.equal(module.queue.rows, before)
    module.queue.update()
    assert torch.allclose(module.queue.rows[-BATCH:], F.normalize(module.targets(batch["inputs"]["images"])[BATCH:]))


def test_memory_takes_in_nothing_that_is_not_finite():
    queue, centre = Queue(3, 4), Centre(3, 0.9)
    rows = queue.rows.clone()
    for part in (queue, centre):
        part.note(torch.tensor([[1.0, torch.nan, 2.0]]))
        part.update()
    assert torch.equal(queue.rows, rows) and torch.equal(centre.value, torch.zeros(3))
    centre.note(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), torch.tensor([3.0, 1.0]))
    centre.update()
    assert torch.allclose(centre.value, 0.1 * torch.tensor([2.0, 2.75, 3.5]))


def test_the_centre_is_that_of_the_steps_before_and_of_the_teacher():
    module = built("dino")
    batch = prepared(module)
    known = module.teacher.prototypes(module.targets(batch["inputs"]["images"])).detach()
    before = loss_of(module, batch)
    assert torch.equal(module.centre.value, torch.zeros(PROTOTYPES, dtype=torch.float64))
    module.after_step(0)
    assert torch.allclose(module.centre.value, 0.1 * known.mean(0), atol=1e-12)
    assert loss_of(module, batch) != pytest.approx(before)


def test_dino_s_temperature_follows_its_schedule_and_is_part_of_the_state():
    module = built("dino")
    module.settings = StepSettings(max_steps=10)
    found = []
    for number in range(4):
        found.append(float(module.temperature_now))
        module.loss(module.on_device(batch_of(range(BATCH))))
        module.after_step(number)
    assert found == pytest.approx([0.04, 0.05, 0.06, 0.07]) and "temperature_now" in module.state_dict()


def test_dino_is_finite_on_scores_of_a_thousand_in_half_precision():
    module = built("dino")
    scores = torch.randn(2 * BATCH, PROTOTYPES).bfloat16() * 1000
    module.teacher.projector = module.teacher.prototypes = nn.Identity()
    assert module.sharpened(scores, module.centre).isfinite().all()


FROZEN = {
    "dino": {"distillation": distillation(freeze_steps=1)},
    "swav": {"codes": Codes(prototypes=PROTOTYPES, temperature=0.1, epsilon=0.05, freeze_steps=1)},
}


@pytest.mark.parametrize(("name", "frozen"), FROZEN.items())
def test_prototypes_rest_in_the_first_steps_and_move_after(name, frozen, tmp_path):
    module = built(name, **frozen)
    weights = [part for part in module.prototypes.parameters() if part.requires_grad]
    before = [part.detach().double().clone() for part in weights]
    steps_of(module, 1, tmp_path)
    assert all(
        torch.allclose(part.double(), kept, rtol=0, atol=1e-12) for part, kept in zip(weights, before, strict=True)
    )
    other = built(name, **frozen)
    weights = [part for part in other.prototypes.parameters() if part.requires_grad]
    steps_of(other, 2, tmp_path)
    assert all((part.double() - kept).abs().max() > 1e-6 for part, kept in zip(weights, before, strict=True))


def test_swav_s_queue_joins_when_it_is_full_and_from_its_step_on():
    given = {"prototypes": PROTOTYPES, "temperature": 0.1, "epsilon": 0.05}
    plain, queued = built("swav", codes=Codes(**given)), built("swav", codes=Codes(**given, queue=16, queue_from=3))
    batch, losses = prepared(plain), {}
    prepared(queued)
    for step in (0, 1, 2, 3):
        type(queued).global_step = property(lambda self, step=step: step)
        try:
            losses[step] = loss_of(queued, batch)["swapped_prediction"]
        finally:
            del type(queued).global_step
    assert losses[0] == losses[1] == losses[2] == pytest.approx(loss_of(plain, batch)["swapped_prediction"])
    assert losses[3] != pytest.approx(losses[2], abs=1e-6)


def test_swav_s_prototypes_stay_on_the_sphere(tmp_path):
    module = built("swav")
    assert torch.allclose(module.prototypes.weight.norm(dim=1), torch.ones(PROTOTYPES))
    steps_of(module, 2, tmp_path)
    assert torch.allclose(module.prototypes.weight.norm(dim=1), torch.ones(PROTOTYPES, dtype=torch.float64))


# -- teachers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TAUGHT)
def test_a_method_hands_over_the_network_that_its_authors_evaluate_or_the_one_asked_for(name):
    expected = "teacher" if CASES[name][0].__name__ in ("DINO", "IBOT", "IJEPA") else "student"
    module = built(name)
    assert module.network == expected
    for asked, place in (("student", "backbone"), ("teacher", "teacher.backbone")):
        module = built(name, export=asked)
        assert (module.network, module.handed_over) == (asked, place)
        assert not any(part.startswith(f"{place}.") for part in module.heads())
        both = {*module.heads(), *(f"{place}.{n}" for n in module.get_submodule(place).state_dict())}
        assert both == set(module.state_dict())
    with pytest.raises(ValueError, match=r"objective\.export=both is unknown: choose student, teacher or null"):
        built(name, export="both")


def test_moco_s_teacher_is_that_of_an_update_before_the_keys(tmp_path):
    """Step by step as the authors' code has it: momentum at this step, with the student's weights before it."""
    module = built("moco_v3").double()
    module.settings = StepSettings(max_steps=5)
    start = module.teacher.projector[0].weight.clone()
    expected = start.clone()
    for number in range(5):
        rise = 0.9 - 0.4 * (1 + math.cos(math.pi * number / 5)) / 2
        expected = rise * expected + (1 - rise) * module.projector[0].weight.detach()
        assert torch.allclose(module.teacher.projector[0].weight, expected, atol=1e-12), number
        with torch.no_grad():
            module.projector[0].weight.add_(number + 1.0)
        module.after_step(number)
    assert not torch.allclose(expected, start)


# -- views and networks ------------------------------------------------------------------------------------------------


def test_local_views_have_draws_of_their_own():
    module = built("dino", local_views=views(2))
    batch = module.on_device(batch_of(range(BATCH)))
    assert batch["local_inputs"]["images"].shape == batch["inputs"]["images"].shape == (2 * BATCH, 3, 16, 16)
    assert not torch.equal(batch["local_inputs"]["images"], batch["inputs"]["images"])
    again = module.on_device(batch_of(range(BATCH)))
    assert torch.equal(batch["local_inputs"]["images"], again["local_inputs"]["images"])


def test_each_view_has_its_own_chances():
    """BYOL's asymmetry: the first view is always blurred and never solarised, the second rarely and sometimes."""
    from dataclasses import replace

    from pretraining.image.augment import Blur
    from pretraining.random import Keys

    made = views(blur=Blur(probability=[1.0, 0.1], kernel_size=3), solarise=[0.0, 0.2])
    keys = Keys(1, "train", torch.zeros(2000, dtype=torch.int64), torch.arange(2000))
    drawn = made.parameters(keys, range(2), (16, 16))
    blurred, inverted = (part.view(2, -1).float().mean(1) for part in (drawn.blur, drawn.solarise))
    assert blurred.tolist() == pytest.approx([1.0, 0.1], abs=0.03) and inverted.tolist() == pytest.approx(
        [0.0, 0.2], abs=0.03
    )
    assert not torch.equal(*drawn.boxes.view(2, -1, 4)) and replace(made, count=2).count == 2


@pytest.mark.parametrize("name", [name for name in CASES if name != "simclr"])
def test_another_number_of_views_is_refused(name):
    with pytest.raises(ValueError, match=r"takes \d view\(s\) of an image, got augment.count=3: set augment.count="):
        built(name, views=views(3))


def test_a_vision_transformer_reads_other_sizes_and_its_own_exactly():
    network = backbone("vit").double().eval()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = torch.cat([network.model.class_token.expand(2, -1, -1), network.model._process_input(images)], 1)
    expected = network.model.encoder(tokens)
    assert torch.equal(network(images=images).pooled, expected[:, 0])
    for side, grid in ((8, (2, 2)), (32, (8, 8))):
        features = network(images=torch.randn(2, 3, side, side, dtype=torch.float64))
        assert features.grid == grid and features.positions.shape == (2, grid[0] * grid[1], 16)
    with pytest.raises(ValueError, match="18 x 16 pixels are no whole number of patches of 4"):
        network(images=torch.randn(1, 3, 18, 16, dtype=torch.float64))


def test_interpolated_places_keep_a_plane_a_plane():
    from pretraining.image.backbones.torchvision_model import _positions_at

    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = torch.stack([rows, columns], -1).flatten(0, 1)
    found = _positions_at(torch.cat([torch.full((1, 2), 9.0), plane])[None], (4, 4))
    assert found[0, 0].tolist() == [9.0, 9.0]
    middle = found[0, 1:].unflatten(0, (4, 4))[1:3, 1:3]
    assert torch.allclose(middle, torch.tensor([[[2.5, 2.5], [2.5, 4.5]], [[4.5, 2.5], [4.5, 4.5]]]), atol=1e-5)


# -- collapse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_evaluation_measures_what_tells_a_collapse(name):
    module = built(name).eval()
    loss = module.loss(module.on_device(batch_of(range(BATCH))))
    expected = {"spread", "effective_rank"}
    if hasattr(module, "prototypes"):
        expected |= {"teacher_entropy", "teacher_divergence"}
    assert set(loss.metrics) == expected
    assert all(torch.isfinite(term.total) for term in (*loss.metrics.values(), *loss.terms.values()))
    module.train()
    assert not module.loss(module.on_device(batch_of(range(BATCH)))).metrics, "not in training: it takes time"


def test_a_network_that_says_the_same_of_all_images_has_no_spread_and_is_told_of():
    module = built("byol").eval()
    nn.init.zeros_(module.projector[-1].weight), nn.init.ones_(module.projector[-1].bias)
    loss = module.loss(module.on_device(batch_of(range(BATCH))))
    module.measured = {f"validation/{name}": float(term.total / term.count) for name, term in loss.metrics.items()}
    assert module.measured["validation/spread"] == pytest.approx(0.0, abs=1e-3)
    assert module.measured["validation/effective_rank"] == pytest.approx(1.0, abs=1e-3)
    (remark,) = module.remarks()
    assert "this run has collapsed: spread" in remark and "effective_rank 1 (" in remark
    module.measured = {"validation/spread": 0.9, "validation/effective_rank": 20.0}
    assert module.remarks() == [] and built("byol").remarks() == []
    module.measured["validation/teacher_divergence"] = 0.001
    assert "nats by which the teacher tells images apart" in module.remarks()[0]


def test_a_gradient_of_one_step_is_taken_by_every_trained_weight(tmp_path):
    for name in CASES:
        moved = gradient_of(built(name), split(1), tmp_path)
        assert {n for n, value in moved.items() if not abs(value).max() > 0 and not n.endswith("bias")} == set(), name


def test_a_schedule_ends_where_it_says():
    rise = Schedule(first=0.04, last=0.07, steps=10, shape="linear")
    assert [rise(step, 100) for step in (0, 5, 10, 50)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert Schedule(first=1.0, last=0.0)(25, 50) == pytest.approx(0.5)
    assert Schedule(first=0.1, last=0.2, steps=0)(0, 50) == 0.2


def test_a_backbone_that_has_no_patches_takes_multi_crops_too():
    network = TorchvisionBackbone(name="resnet", layers=[1, 1, 1, 1], width=8, stem="cifar")
    assert (
        network(images=torch.randn(2, 3, 8, 8)).pooled.shape == network(images=torch.randn(2, 3, 16, 16)).pooled.shape
    )
