"""What each mode trains, at which rate, and what it leaves as it was."""

from pathlib import Path

import pytest
import torch
from torch import nn

from finetuning.launch import compose
from finetuning.modes import Full, GradualUnfreezing, Lora, Partial, layer_groups, rest_frozen
from pretraining import handoff
from pretraining.cli.configuration import instantiate
from pretraining.errors import RunError
from pretraining.image.backbones.torchvision_model import TorchvisionBackbone
from tests.finetuning.conftest import Finetune

HEAD = nn.Linear(32, 3)


@pytest.fixture
def backbone(text_handoff: Path):
    return handoff.read(str(text_handoff)).backbone


def trainable(backbone) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def test_rates_fall_from_the_head_to_the_embeddings(backbone) -> None:
    groups = layer_groups(backbone, HEAD, 0.5)
    rates = {name: group.lr_scale for group in groups for name in group.names}
    assert rates["head.weight"] == 1
    assert {rate for name, rate in rates.items() if name.startswith("backbone.blocks.2")} == {0.5}
    assert {rate for name, rate in rates.items() if name.startswith("backbone.blocks.0")} == {0.125}
    listed = [id(parameter) for group in groups for parameter in group.parameters]
    assert len(listed) == len(set(listed)) == 2 + len(trainable(backbone))


def test_frozen_parameters_take_no_place_in_the_optimizer(finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    from finetuning.launch import load_run

    _, task = load_run(
        finetune(
            "task=text_classification",
            "task.inputs.max_tokens=32",
            f"handoff={text_handoff}",
            f"data.path={topics}",
            "mode=knn",
        )
    )
    task.mode = Partial(frozen_blocks=1, layer_decay=1.0, head_steps=0)
    task.mode.begin(task.backbone)
    held = {id(parameter) for group in task.mode.groups(task.backbone, HEAD) for parameter in group.parameters}
    assert held == {
        id(parameter) for parameter in [*task.backbone.parameters(), *HEAD.parameters()] if parameter.requires_grad
    }
    assert not any("embeddings" in name or "layer.0" in name for name in trainable(task.backbone))
    task.train()
    assert not task.backbone.model.encoder.layer[0].training and task.backbone.model.encoder.layer[1].training


def test_more_frozen_blocks_than_there_are_is_an_error(backbone) -> None:
    with pytest.raises(
        RunError, match=r"mode.frozen_blocks=3, but the backbone has 2 blocks after its embeddings: give 0 to 2"
    ):
        Partial(frozen_blocks=3, layer_decay=1.0, head_steps=0).begin(backbone)


def test_blocks_are_released_from_the_top_one_at_a_time(backbone) -> None:
    mode = GradualUnfreezing(share=0.5, layer_decay=1.0)
    mode.begin(backbone)
    everything, sizes = trainable(backbone), []
    for step in range(40):
        mode.advance(backbone, step, 40)
        now = trainable(backbone)
        if not sizes or len(now) != sizes[-1]:
            sizes.append(len(now))
        if len(sizes) == 2:
            assert all("layer.1" in name for name in now)
        if step >= 20:
            assert now == everything
    assert sizes[0] == 0 and len(sizes) == 4 and sizes == sorted(sizes)


def test_the_head_trains_alone_first(backbone) -> None:
    mode = Full(layer_decay=1.0, head_steps=3)
    mode.begin(backbone)
    everything = trainable(backbone)
    seen = []
    for step in range(5):
        mode.advance(backbone, step, 5)
        seen.append(trainable(backbone) == everything)
    assert seen == [False, False, False, True, True] and not any("pooler" in name for name in everything)


def test_low_rank_updates_start_at_nothing_and_merge_exactly(backbone) -> None:
    ids = torch.randint(5, 100, (2, 8))
    backbone.eval()
    names = set(backbone.state_dict())
    before = backbone(ids, torch.ones_like(ids)).pooled
    mode = Lora(rank=2, scale=2.0, targets=["query", "value"])
    mode.begin(backbone)
    assert len(trainable(backbone)) == 2 * 2 * 2 and torch.equal(backbone(ids, torch.ones_like(ids)).pooled, before)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("up"):
                parameter.normal_()
    during = backbone(ids, torch.ones_like(ids)).pooled
    mode.finish(backbone)
    assert set(backbone.state_dict()) == names
    assert not torch.allclose(during, before, atol=1e-3) and torch.allclose(
        backbone(ids, torch.ones_like(ids)).pooled, during, atol=1e-6
    )


def test_low_rank_targets_that_match_nothing_are_an_error(backbone) -> None:
    with pytest.raises(RunError, match="matches none of the backbone's linear layers"):
        Lora(rank=2, scale=2.0, targets=["nothing"]).begin(backbone)


def test_norm_statistics_rest_where_nothing_trains() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.BatchNorm1d(2))
    network[0].requires_grad_(False)
    network.train()
    rest_frozen(network)
    network(torch.randn(4, 2))
    assert network[0][1].running_mean.eq(0).all() and not network[1].running_mean.eq(0).all()


def test_low_rank_updates_reach_every_linear_layer_those_of_attention_blocks_too() -> None:
    sizes = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    backbone = TorchvisionBackbone(name="vision_transformer", options=sizes)
    Lora(rank=2, scale=2.0, targets=[]).begin(backbone)
    per_block = 2 * ((16 + 16) + 2 * (16 + 32))  # rank * (in + out) of what attention says, and of two layers behind it
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 2 * per_block


@pytest.mark.parametrize(
    "mode", ["lora", "gradual_unfreezing", "partial", "full mode.layer_decay=0.8 mode.head_steps=10"]
)
def test_every_mode_learns_the_made_up_topics(mode: str, finetune: Finetune, text_handoff: Path, topics: Path) -> None:
    import json

    name, *options = mode.split()
    run = finetune(
        "task=text_classification",
        "task.inputs.max_tokens=32",
        f"handoff={text_handoff}",
        f"data.path={topics}",
        f"mode={name}",
        *options,
        "trainer.max_steps=60",
        "trainer.val_every=20",
        "optimizer.peak_lr=5e-3",
    )
    assert json.loads((run / "metrics.json").read_text())["test/accuracy"] > 0.5  # chance is 1 in 3


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "mode").glob("*.yaml"))
)
def test_every_mode_composes_and_builds(name: str) -> None:
    mode = instantiate(compose(["task=docs_topic", "handoff=x", f"mode={name}"]).mode)
    assert set(vars(mode)) >= set(compose(["task=docs_topic", "handoff=x", f"mode={name}"]).mode) - {"_target_"}
