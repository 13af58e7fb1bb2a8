"""What a step costs: the analytic counts equal what torch counts on the plain path, for every objective and its backbones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretraining.cli.configuration import CONF, class_of, compose, instantiate
from pretraining.random import Keys
from pretraining.text.cost import TextRow

B, T, U, K = 8, 64, 24, 10  # rows, tokens, tokens that a decoder writes, predictions per row
VOCABULARY = 600
TEXT = [
    ("masked_language", "bert_tiny"),
    ("masked_language", "modernbert_tiny"),
    ("masked_language", "roberta_tiny"),
    ("spanbert", "bert_tiny"),
    ("next_sentence", "bert_tiny"),
    ("bert", "bert_tiny"),
    ("denoising_bart", "bart_tiny"),
    ("denoising_t5", "t5_tiny"),
    ("causal_language", "gpt2_tiny"),
    ("supervised_text", "bert_tiny"),
]
SIZES = {"supervised_text": ["objective.classes=4"], "supervised": ["objective.classes=10"]}  # else read from the data
IMAGES = ["resnet_tiny", "resnet18_cifar", "vit_tiny"]
WITHIN = 0.02


def counted(objective, batch):
    """Let torch count a forward pass in plain matrix products."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective.loss(batch)
    return counter.get_total_flops()


def built(name, backbone, *overrides, **arguments):
    config = compose([f"objective={name}", f"backbone={backbone}", *SIZES.get(name, []), *overrides])
    backbone = instantiate(config.backbone, **arguments)
    return instantiate(config.objective, backbone=backbone, optimizer=instantiate(config.optimizer)).train()


def text(name, backbone, *overrides):
    return built(
        name,
        backbone,
        "+backbone.config.attn_implementation=eager",
        *overrides,
        vocab_size=VOCABULARY,
        pad_id=0,
        frame_ids={"bos": 1, "eos": 2},
    )


def rows_without_padding(name):
    """A batch in which every token is real and sees all others of its row, and every place that is listed is predicted."""
    ids, ones = torch.randint(5, VOCABULARY, (B, T)), torch.ones(B, T, dtype=torch.long)
    width, places = (U, U) if name.startswith("denoising") else (T, K)
    batch = {
        "input_ids": ids,
        "documents": ones,
        "token_type_ids": 1 - ones,
        "is_random": torch.zeros(B, dtype=torch.long),
    }
    batch["decoder_input_ids"] = torch.randint(5, VOCABULARY, (B, U))
    batch["target_positions"] = (torch.arange(places) + width * torch.arange(B)[:, None]).flatten()
    batch["labels"] = torch.randint(5, VOCABULARY, (B * places,))
    if name == "supervised_text":
        batch["labels"] = torch.randint(0, 4, (B,))
    written = U if name.startswith("denoising") else 0
    return batch, TextRow(read=T, seen=T, tokens=T, target_positions=places, written_seen=written)


@pytest.mark.parametrize(("name", "backbone"), TEXT)
def test_text_costs_what_torch_counts(name, backbone):
    batch, row = rows_without_padding(name)
    objective = text(name, backbone)
    assert B * objective.forward_flops(row) == pytest.approx(counted(objective, batch), rel=WITHIN)


@pytest.mark.parametrize(("name", "backbone"), [("masked_language", "modernbert_tiny"), ("denoising_t5", "t5_tiny")])
def test_a_backward_pass_costs_twice_a_forward_pass(name, backbone):
    batch, row = rows_without_padding(name)
    objective = text(name, backbone)
    with FlopCounterMode(display=False) as counter:
        loss = objective.loss(batch)
        sum(term.total for term in loss.terms.values()).backward()
    assert B * objective.step_flops(row, batch_size=B) == pytest.approx(counter.get_total_flops(), rel=WITHIN)


def test_heads_that_are_wider_than_the_model_are_counted_as_they_are():
    batch, row = rows_without_padding("denoising_t5")
    objective = text("denoising_t5", "t5_tiny", "backbone.config.d_kv=96", "backbone.config.num_heads=4")
    assert B * objective.forward_flops(row) == pytest.approx(counted(objective, batch), rel=WITHIN)


@pytest.mark.parametrize("backbone", IMAGES)
def test_simclr_costs_what_torch_counts_views_and_comparisons_included(backbone):
    size = 8 if backbone == "resnet_tiny" else 32
    data = "digits" if size == 8 else "cifar10"
    channels = 1 if size == 8 else 3
    overrides = [f"data={data}", *(["data.path=."] if data == "cifar10" else [])]
    objective = built("simclr", backbone, *overrides, in_channels=channels)
    index = torch.arange(B)
    batch = {
        "images": torch.zeros(B, channels, size, size, dtype=torch.uint8),
        "keys": Keys(0, "train", torch.zeros_like(index), index),
    }
    forward = counted(objective, objective.on_device(batch))
    ours = objective.forward_flops((channels, size, size)) + objective.comparison_flops(B)
    assert B * ours == pytest.approx(forward, rel=WITHIN)
    assert objective.step_flops((channels, size, size), batch_size=B) == pytest.approx(3 * ours)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("supervised", "resnet_tiny"), ("denoising_image", "resnet_tiny"), ("denoising_image_mae", "vit_digits")],
)
def test_other_image_objectives_cost_what_torch_counts(name, backbone):
    objective = built(name, backbone, in_channels=1)
    images, index = torch.randint(0, 256, (B, 1, 8, 8), dtype=torch.uint8), torch.arange(B)
    batch = {"images": images, "labels": index % 10, "keys": Keys(0, "train", torch.zeros_like(index), index)}
    forward = counted(objective, objective.on_device(batch))
    assert B * objective.forward_flops((1, 8, 8)) == pytest.approx(forward, rel=WITHIN)


def test_representing_micro_batches_twice_is_paid_for():
    objective = built("simclr", "resnet_tiny", in_channels=1)
    once, twice = (objective.step_flops((1, 8, 8), batch_size=64, micro_batches=parts) for parts in (1, 4))
    assert twice - once == objective.forward_flops((1, 8, 8))


def test_comparing_more_images_costs_more_per_image():
    objective = built("simclr", "resnet_tiny", in_channels=1)
    small, large = (objective.step_flops((1, 8, 8), batch_size=size) for size in (64, 512))
    # 2 views x (448 more images x 2 views) x 128 dimensions x 2 operations, forward and backward.
    assert large - small == 3 * 2 * (448 * 2) * 128 * 2


def test_hiding_more_tokens_costs_more():
    objective = text("masked_language", "modernbert_tiny")
    _, row = rows_without_padding("masked_language")
    less, more = (objective.forward_flops(row._replace(target_positions=share * T)) for share in (0.15, 0.4))
    assert more - less == pytest.approx(0.25 * T * 2 * (128 * 128 + 128 * VOCABULARY))


def test_every_text_objective_shipped_is_counted_here():
    shipped = [
        path.stem
        for path in (CONF / "objective").glob("*.yaml")
        if not path.stem.endswith("_image") and "_image_" not in path.stem
    ]
    learns_from = {name: class_of(compose([f"objective={name}"]).objective).modality for name in shipped}
    assert {name for name, kind in learns_from.items() if kind == "text"} == {name for name, _ in TEXT}
