"""Losses and gradients of joint embeddings are lightly's on the same tensors: an implementation that is not ours.

Where lightly has a method's loss. It has none of MoCo v3 (its NT-Xent also tells views of one network apart) and of
I-JEPA: closed forms of these are in tests/objectives/image/test_joint.py.
"""

import pytest
import torch
from torch.nn import functional as F

from pretraining.objectives.memory import QueueContrast
from tests.objectives.image.joint_small import BATCH, CELLS, PROTOTYPES, WIDTH, batch_of, built, head

pytest.importorskip("lightly", reason="an optional peer: pip install '.[bench]'")


def cosines_of(module, batch):
    from lightly.loss import NegativeCosineSimilarity

    images = batch["inputs"]["images"]
    projected = module.projector(module.backbone(images=images).pooled)
    predicted = module.predictor(projected).chunk(2)
    known = (module.targets(images) if hasattr(module, "teacher") else projected.detach()).chunk(2)
    criterion = NegativeCosineSimilarity()
    return criterion(predicted[0], known[1]) + criterion(predicted[1], known[0])


def byol(module, batch):
    """BYOL's two squared distances of unit vectors are 4 + 2 * (two negative cosines)."""
    return 4 + 2 * cosines_of(module, batch)


def simsiam(module, batch):
    return 0.5 * cosines_of(module, batch)


def simclr(module, batch):
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=0.5)(*module.projector(module.backbone(**batch["inputs"]).pooled).chunk(2))


def vicreg(module, batch):
    from lightly.loss import VICRegLoss

    return VICRegLoss()(*module.projector(module.backbone(**batch["inputs"]).pooled).chunk(2))


def barlow_twins(module, batch):
    from lightly.loss import BarlowTwinsLoss

    both = module.projector(module.backbone(**batch["inputs"]).pooled).chunk(2)
    return BarlowTwinsLoss(lambda_param=0.0051)(*both)


def moco_v2(module, batch):
    """Both directions ask the queue as it was: a bank of its own for each, since lightly's takes the keys in at once.

    The student and the teacher see both views together here where both ask, one view where one does.
    """
    from lightly.loss import NTXentLoss

    first, second = batch["inputs"]["images"].chunk(2)
    symmetric = module.contrast.symmetric
    asked, answered = (torch.cat([first, second]), torch.cat([second, first])) if symmetric else (first, second)
    queries, keys = module.projector(module.backbone(images=asked).pooled), module.targets(answered)
    losses = []
    for query, key in zip(queries.split(BATCH), keys.split(BATCH), strict=True):
        criterion = NTXentLoss(temperature=0.2, memory_bank_size=(len(module.queue.rows), WIDTH))
        criterion.memory_bank.bank = module.queue.rows.clone()
        losses.append(criterion(query, key))
    return torch.stack(losses).mean()


def scores_of(module, batch):
    """Score all views by the student, global ones first, and the global ones by the teacher; images in chunks."""
    seen = [module.backbone(**batch[part], **extra).pooled for part, extra in
            (("inputs", hidden_of(module, batch)), ("local_inputs", {}))]  # fmt: skip
    scores = [module.prototypes(module.projector(rows)) for rows in seen]
    return [*scores[0].chunk(2), *scores[1].chunk(3)]


def hidden_of(module, batch):
    return {"masked": batch["masked"], "mask_token": module.mask_token} if "masked" in batch else {}


def dino(module, batch):
    from lightly.loss import DINOLoss

    criterion = DINOLoss(output_dim=PROTOTYPES).double()
    criterion.center.copy_(module.centre.value)
    with torch.no_grad():
        known = module.teacher.prototypes(module.targets(batch["inputs"]["images"]))
    value = criterion(list(known.chunk(2)), scores_of(module, batch), teacher_temp=0.04)
    module.expected_centre = criterion.center.flatten()
    return value


def ibot(module, batch):
    """lightly's patches are told apart by a mask of rows and columns; its loss is over the views of all images."""
    from lightly.loss import IBOTPatchLoss

    criterion = IBOTPatchLoss(output_dim=PROTOTYPES).double()
    criterion.center.center = module.patch_centre.value.clone()[None]
    with torch.no_grad():
        taught = module.teacher.backbone(**batch["inputs"]).positions[batch["masked"]]
        known = module.teacher.prototypes(module.teacher.projector(taught))
    seen = module.backbone(**batch["inputs"], **hidden_of(module, batch)).positions[batch["masked"]]
    guessed = module.prototypes(module.projector(seen))
    return dino(module, batch) + criterion(known, guessed, batch["masked"].unflatten(1, (4, 4)))


def swav(module, batch):
    from lightly.loss import SwaVLoss

    rows = torch.cat([module.backbone(**batch[part]).pooled for part in ("inputs", "local_inputs")])
    scores = module.prototypes(F.normalize(module.projector(rows))).chunk(5)
    return SwaVLoss()(list(scores[:2]), list(scores[2:]))[0]


CHECKED = {
    "simclr": simclr, "byol": byol, "simsiam": simsiam, "vicreg": vicreg, "barlow_twins": barlow_twins,
    "moco_v2": moco_v2, "moco_v2_symmetric": moco_v2, "dino": dino, "ibot": ibot, "swav": swav,
}  # fmt: skip


def prepared(name, kind):
    module = built(name, kind).double()
    for memory in ("centre", "patch_centre"):
        if hasattr(module, memory):
            getattr(module, memory).value.copy_(torch.linspace(-0.1, 0.1, PROTOTYPES))
    return module, module.on_device(batch_of(range(BATCH)))


def differentiated(module, value):
    module.zero_grad()
    value.backward()
    return {name: part.grad.clone() for name, part in module.named_parameters() if part.grad is not None}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in CELLS if name in CHECKED])
def test_a_loss_and_its_gradient_are_lightly_s(name, kind):
    module, batch = prepared(name, kind)
    loss = module.loss(batch)
    ours = sum(term.weight * term.total / term.count for term in loss.terms.values())
    found = differentiated(module, ours)
    theirs = CHECKED[name](module, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    expected = differentiated(module, theirs)
    assert found.keys() == expected.keys() and max(part.abs().max() for part in expected.values()) > 1e-4
    for part, gradient in expected.items():
        assert torch.allclose(found[part], gradient, rtol=1e-5, atol=1e-7), part


@pytest.mark.parametrize("name", ["dino", "ibot"])
def test_the_centre_of_views_moves_as_lightly_s(name):
    module, batch = prepared(name, "vit")
    CHECKED[name](module, batch)
    module.centre._noted.clear(), module.loss(batch), module.after_step(0)
    assert torch.allclose(module.centre.value, module.expected_centre, atol=1e-7)


def test_the_centre_of_patches_is_that_of_the_paper_s_code_and_not_lightly_s():
    """Over all patches of the views, as in iBOT's own code; lightly follows DINOv2's, over the hidden ones alone."""
    module, batch = prepared("ibot", "vit")
    before = module.patch_centre.value.clone()
    with torch.no_grad():
        taught = module.teacher.backbone(**batch["inputs"]).positions
        known = module.teacher.prototypes(module.teacher.projector(taught.flatten(0, 1))).unflatten(0, taught.shape[:2])
    module.loss(batch), module.after_step(0)
    assert torch.allclose(module.patch_centre.value, 0.9 * before + 0.1 * known.mean((0, 1)), atol=1e-7)
    assert not torch.allclose(module.patch_centre.value, 0.9 * before + 0.1 * known[batch["masked"]].mean(0), atol=1e-4)


def test_the_queue_moves_as_lightly_s_memory_bank():
    from lightly.models.modules.memory_bank import MemoryBankModule

    module = built("moco_v2", contrast=QueueContrast(queue=2 * BATCH, temperature=0.2), projector=head("vit")).double()
    bank, batch = MemoryBankModule((2 * BATCH, WIDTH)), module.on_device(batch_of(range(BATCH)))
    bank.bank = module.queue.rows.clone()
    for _ in range(2):
        bank(F.normalize(module.targets(batch["inputs"]["images"].chunk(2)[1])), update=True)
        module.loss(batch), module.queue.update()
    assert torch.allclose(module.queue.rows, bank.bank.to(module.queue.rows.dtype), atol=1e-7)
